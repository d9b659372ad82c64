"""Hooks of mkdocs: files outside of docs/ that a page links to become a part of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = re.compile(r"\]\(\.\./([^)#\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the files that pages link to as `../path`, under files/path."""
    wanted = {
        path
        for page in files.documentation_pages()
        if page.abs_src_path is not None and "/" not in page.src_uri
        for path in OUTSIDE.findall(Path(page.abs_src_path).read_text(encoding="utf-8"))
    }
    for path in sorted(wanted):
        if (ROOT / path).is_file():
            name = f"files/{path}" + (".txt" if path.endswith(".md") else "")
            files.append(File.generated(config, name, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links of a page of docs/ itself to `../path` at files/path."""
    if "/" in page.file.src_uri:
        return markdown
    return OUTSIDE.sub(
        lambda match: f"](files/{match[1]}{'.txt' if match[1].endswith('.md') else ''})", markdown
    )
