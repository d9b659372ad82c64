"""The tables of docs/zoo.md."""

from __future__ import annotations

from aimc_bridge.markdown import markdown_table
from benchmarks.zoo import catalogue
from benchmarks.zoo.entry import Entry, Measured

_COLUMNS = ("architecture", "converts", "left digital, or refused: why", "on tiles", "tiles")


def section() -> str:
    """Return what the page shows of all entries: a summary, and a table per library."""
    versions, measured = catalogue.recorded()
    entries = list(catalogue.ENTRIES.values())
    refused = sum(1 for entry in entries if entry.refused)
    excluding = sum(1 for entry in entries if entry.exclude and not entry.refused)
    used = ", ".join(f"{library} {number}" for library, number in versions.items())
    parts = [
        f"{len(entries)} architectures, measured with {used}: "
        f"{len(entries) - excluding - refused} convert as they are, {excluding} with an `exclude`, "
        f"{refused} are refused."
    ]
    for library in catalogue.LIBRARIES:
        rows = [row_of(e, measured.get(e.key)) for e in entries if e.library == library]
        parts += [f"## {library}", markdown_table(_COLUMNS, rows)]
    return "\n\n".join(parts)


def row_of(entry: Entry, measured: Measured | None) -> tuple[str, ...]:
    """Return the row of an entry.

    Args:
        entry: The entry.
        measured: What was measured on it; None for a refused one.
    """
    patterns = f"`exclude={list(entry.exclude)}`".replace("'", '"')
    how = "refused" if entry.refused else patterns if entry.exclude else "as it is"
    if measured is None:
        return entry.name, how, entry.why, "", ""
    share = "100 %" if measured.share == 1 else f"{100 * measured.share:.1f} %"
    return entry.name, how, entry.why, share, str(measured.tiles)
