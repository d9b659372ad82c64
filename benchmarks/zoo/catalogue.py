"""All entries of the zoo, and what was measured on them last."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from aimc_bridge import files
from aimc_bridge.errors import UnknownNameError
from benchmarks.zoo import timm_entries, torch_entries, torchvision_entries, transformers_entries
from benchmarks.zoo.entry import Entry, Measured

FILE = Path(__file__).parent / "measured.json"

ENTRIES = {
    entry.key: entry
    for module in (torch_entries, torchvision_entries, timm_entries, transformers_entries)
    for entry in module.ENTRIES
}
"""Library and name, such as "timm/ResNet" -> entry, in the order of the page."""

LIBRARIES = tuple(dict.fromkeys(entry.library for entry in ENTRIES.values()))


def chosen(patterns: Iterable[str]) -> list[Entry]:
    """Return the entries that match any of some patterns; all if there are no patterns.

    Args:
        patterns: Names or shell patterns, such as "timm/*".

    Raises:
        UnknownNameError: If a pattern matches no entry.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(key, pattern) for key in ENTRIES):
            raise UnknownNameError(
                f"no entry {pattern!r}; allowed: patterns such as timm/*, and {', '.join(ENTRIES)}"
            )
    return [
        entry
        for key, entry in ENTRIES.items()
        if not patterns or any(fnmatchcase(key, pattern) for pattern in patterns)
    ]


def versions() -> dict[str, str]:
    """Return the installed version of each library; "" if it is not installed."""
    found: dict[str, str] = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = ""
    return found


def recorded() -> tuple[dict[str, str], dict[str, Measured]]:
    """Return the libraries' versions and what was measured with them, by entry."""
    data = json.loads(FILE.read_text(encoding="utf-8"))
    return data["versions"], {key: Measured(**value) for key, value in data["entries"].items()}


def record(results: Mapping[str, Measured | None]) -> Path:
    """Write what was measured; entries that were not measured again keep their numbers.

    Args:
        results: What was measured by entry; None for a refused one.

    Returns:
        The file.
    """
    before = recorded()[1] if FILE.exists() else {}
    kept = {key: results.get(key, before.get(key)) for key in ENTRIES}
    entries = {
        key: {"share": value.share, "tiles": value.tiles}
        for key, value in kept.items()
        if value is not None
    }
    text = json.dumps({"versions": versions(), "entries": entries}, indent=1)
    files.write_text(FILE, text + "\n")
    return FILE
