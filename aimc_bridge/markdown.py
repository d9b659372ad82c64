"""The Markdown tables of summaries and reports."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_table(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Write a table as GitHub's Markdown.

    Args:
        columns: The headings.
        rows: The cells, one iterable per row, as many as there are headings. All are written with
            `str`; numbers are formatted by the caller.

    Returns:
        The lines of the table: heading, rule, one line per row; without a line end at the end.
    """
    headings = [str(column) for column in columns]
    lines = [_line(headings), _line("---" for _ in headings)]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Iterable[object]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
