"""Markdown tables for summaries and reports."""

from __future__ import annotations

from collections.abc import Iterable


def markdown_table(columns: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    """Write a table as GitHub's Markdown.

    Args:
        columns: The headings.
        rows: The cells, one iterable per row, with one cell per heading. All are written with
            `str`: the caller formats numbers.

    Returns:
        The lines of the table: headings, a rule, and one line per row. The last line has no line
        end.
    """
    headings = [str(column) for column in columns]
    lines = [_line(headings), _line("---" for _ in headings)]
    return "\n".join([*lines, *(_line(row) for row in rows)])


def _line(cells: Iterable[object]) -> str:
    """Return one line of a table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
