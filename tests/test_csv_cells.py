"""Names in CSV files that a spreadsheet must not take for a formula."""

from __future__ import annotations

import csv
import io

import pandas as pd
import pytest

from aimc_bridge.csv_cells import as_csv, escaped, unescaped

NAMES = (
    *("=1+2", "+a", "-a", "@SUM(A1)", "'=x", "''-x", "\t=x", "\r"),
    *("", "a", "'quoted'", "'", "a=b", "µS", "nan", "1e5"),
)


@pytest.mark.parametrize("name", NAMES)
def test_names_come_back_and_never_start_a_formula(name: str) -> None:
    assert unescaped(escaped(name)) == name
    assert not escaped(name).startswith(("=", "+", "-", "@", "\t", "\r"))
    assert escaped(name) == name or name.lstrip("'").startswith(("=", "+", "-", "@", "\t", "\r"))


def test_a_table_keeps_its_numbers() -> None:
    table = pd.DataFrame({"=name": ["-x", None], "value": [-1.5, 2.0], "n": [-1, 2]})
    rows = list(csv.reader(io.StringIO(as_csv(table))))
    assert rows == [["'=name", "value", "n"], ["'-x", "-1.5", "-1"], ["", "2.0", "2"]]
    assert list(table.columns) == ["=name", "value", "n"]  # the table itself is as it was
