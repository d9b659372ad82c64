"""Markdown tables."""

from __future__ import annotations

from aimc_bridge.markdown import markdown_table


def test_a_table_has_a_heading_a_rule_and_a_line_per_row() -> None:
    table = markdown_table(["name", "chips"], [["wrn", 25], ["lstm", None]])
    assert table == "| name | chips |\n| --- | --- |\n| wrn | 25 |\n| lstm | None |"
    assert markdown_table(iter(["a"]), iter([])) == "| a |\n| --- |"
