"""Names in CSV files that a spreadsheet must not take for a formula.

A cell that starts with `=`, `+`, `-` or `@` is a formula to a spreadsheet, which may run it. Such
names get an apostrophe in front, and reading takes it away again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def escaped(name: str) -> str:
    """Return a name as a cell holds it.

    Args:
        name: Any text.
    """
    return f"'{name}" if name.lstrip("'").startswith(_FORMULA) else name


def unescaped(cell: str) -> str:
    """Return the name that `escaped` made a cell of.

    Args:
        cell: The text of a cell.
    """
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(_FORMULA) else cell


def as_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV without its index; texts and names of columns are escaped.

    Args:
        table: The table. Numbers stay as they are, also negative ones.
    """

    def cell(value: Any) -> Any:
        return escaped(value) if isinstance(value, str) else value

    texts = table.rename(columns=cell)
    for name in texts.select_dtypes(exclude="number"):
        texts[name] = texts[name].map(cell)
    return texts.to_csv(index=False)
