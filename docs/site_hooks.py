"""Hooks of mkdocs: what a page needs from outside of docs/ when the site is built.

Files that a page links to become a part of the site. Tables of the reference are made from the
code: options from the commands' parsers, numbers from the presets, names from the records.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
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
    """Put the generated tables in; point links of a page of docs/ to `../path` at files/path."""
    for name, make in GENERATED.items():
        if f"<!-- {name} -->" in markdown and page.file.src_uri.startswith("reference/"):
            markdown = markdown.replace(f"<!-- {name} -->", _made(make))
    if "/" in page.file.src_uri:
        return markdown
    return OUTSIDE.sub(
        lambda match: f"](files/{match[1]}{'.txt' if match[1].endswith('.md') else ''})", markdown
    )


# --- tables of the reference ----------------------------------------------------------------------


def _made(make: Callable[[], str]) -> str:
    """Return a generated text; what is missing, where the project itself is not installed."""
    try:
        return make()
    except ModuleNotFoundError as error:
        return (
            f"This part needs the project's own dependencies ({error.name} is missing where this "
            'site was built): `pip install -e ".[docs]"` in a clone.'
        )


def _table(headings: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    lines = [list(headings)]
    lines += [["---"] * len(lines[0]), *([str(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(map(_escaped, line))} |" for line in lines)


def _escaped(cell: str) -> str:
    """Return a cell on one line; a bar in code needs no backslash, and would show it."""
    parts = re.split(r"(`[^`]*`)", cell.replace("\n", " "))
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)


def _options(app: Any) -> str:
    """Return the options of one command as a table."""
    rows = []
    for argument in app.assemble_argument_collection():
        if not argument.parse or argument.parameter.show is False:
            continue
        names = ", ".join(f"`{name}`" for name in argument.names if name != "*")
        default = argument.field_info.default
        shown = "" if default is argument.field_info.empty or default is None else f"`{default}`"
        rows.append((names, argument.parameter.help or "", shown))
    return _table(("option", "what it does", "default"), rows)


def commands() -> str:
    """Return a section for each command: its help and its options."""
    from benchmarks.__main__ import COMMANDS

    parts = []
    for name, (module, text) in COMMANDS.items():
        app = importlib.import_module(module).app
        parts.append(f"## {name}\n\n{text}")
        if app.default_command is not None:
            parts.append(_options(app))
        for sub in app:
            if not sub.startswith("-"):
                parts += [f"### {name} {sub}\n\n{app[sub].help}", _options(app[sub])]
    return "\n\n".join(parts)


def presets() -> str:
    """Return a section for each preset: every number with its unit and source."""
    data = importlib.import_module("presets")
    parts = []
    for name in data.names():
        preset = data.get(name)
        table = preset.explain()
        columns = ["part", "field", "value", "unit", "source"]
        rows = table[columns].itertuples(index=False)
        parts += [f"## {name}\n\n{preset.description}", _table(columns, rows)]
    works = [f"- `{key}`: {work}" for key, work in data.SOURCES.items() if work]
    return "\n\n".join([*parts, "## Sources", "\n".join(works)])


def parameters() -> str:
    """Return a table for each spec: every field with symbol, equation, unit, value and source."""
    sys.path.insert(0, str(ROOT / "docs"))
    page = importlib.import_module("parameters")
    parts = []
    for heading, text, rows in page.sections():
        parts += [part for part in (heading, text) if part]
        parts += [_table(page.COLUMNS, rows)] if rows else []
    return "\n\n".join(parts)


def records() -> str:
    """Return a table of the committed records: name, kind and command."""
    record = importlib.import_module("benchmarks.report.record")
    rows = [
        (found.name, found.kind, f"`{found.command}`")
        for kind in record.KINDS
        for found in record.of_kind(kind)
    ]
    return _table(("record", "kind", "command"), rows)


GENERATED: dict[str, Callable[[], str]] = {
    "commands": commands,
    "parameters": parameters,
    "presets": presets,
    "records": records,
}
