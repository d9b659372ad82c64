"""The CSV file of a sweep: whatever was changed in it is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from aimc_bridge.errors import DataError
from aimc_bridge.sweep_files import Row, mark_of, read_rows, write_rows

ROWS: list[Row] = [
    (chip, 5 + chip, t_s, metric, value + chip)
    for chip in range(2)
    for t_s in (1.0, 3600.5)
    for metric, value in (("accuracy", 0.1), ("=loss", 1 / 3))
]


def written(folder: Path) -> tuple[Path, list[str]]:
    path = folder / "new" / "rows.csv"
    write_rows(path, "feed", ROWS)
    return path, path.read_text(encoding="utf-8").splitlines()


def test_rows_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path, lines = written(tmp_path)
    assert read_rows(path, 5, "feed") == read_rows(path, 5) == ROWS
    assert mark_of(path) == "feed"
    assert ",'=loss," in lines[2]
    write_rows(path, "feed", [(0, 5, 1.0, "nan", math.nan), (0, 5, 1.0, "x", math.inf)])
    (first, second) = read_rows(path, 5, "feed")
    assert math.isnan(first[4]) and second[4] == math.inf
    assert read_rows(tmp_path / "none.csv", 5) == []


@pytest.mark.parametrize("known", [True, False])
def test_no_changed_row_is_read(tmp_path: Path, known: bool) -> None:
    path, lines = written(tmp_path)
    mark = "feed" if known else None
    header, *rows = lines
    tampered = {
        "doubled": [*rows, rows[0]],
        "digits": [rows[0].replace("0.1,", "0.2,"), *rows[1:]],
        "last digit": [
            *rows[:1],
            rows[1].replace("0.3333333333333333", "0.3333333333333332"),
            *rows[2:],
        ],
        "chip": [rows[0].replace("0,5,", "-1,4,", 1), *rows[1:]],
        "seed": [row.replace("0,5,", "0,6,", 1) for row in rows],
        "time": [rows[0].replace(",1.0,", ",2.0,", 1), *rows[1:]],
        "metric of all": [row for row in rows if "=loss" not in row],
        "metric of one": rows[1:],
        "renamed": [row.replace("accuracy", "top-1") for row in rows],
        "mark of one": [rows[0].replace("feed", "food"), *rows[1:]],
        "mark of all": [row.replace("feed", "food") for row in rows],
        "cut": [*rows[:-1], rows[-1][:-3]],
        "cells": [rows[0] + ",", *rows[1:]],
        "text": [rows[0].replace("0,5,", "zero,5,", 1), *rows[1:]],
        "long": [rows[0].replace("0,5,", "9" * 5000 + ",5,", 1), *rows[1:]],
        "nothing": ["", "0"],
    }
    for kind, changed in tampered.items():
        assert changed != rows, kind
        path.write_text("\n".join([header, *changed]) + "\n", encoding="utf-8")
        with pytest.raises(DataError, match="rows.csv: "):
            read_rows(path, 5, mark)
            pytest.fail(kind)


def test_a_file_of_another_sweep(tmp_path: Path) -> None:
    path, _ = written(tmp_path)
    for seed, mark in ((6, "feed"), (5, "food")):
        with pytest.raises(DataError, match="rows of another sweep"):
            read_rows(path, seed, mark)


def test_an_old_file_is_read_with_a_warning(tmp_path: Path) -> None:
    path, lines = written(tmp_path)
    old = [line.rpartition(",")[0] for line in lines]
    path.write_text("\n".join(old) + "\n", encoding="utf-8")
    with pytest.warns(UserWarning, match="rows.csv: no checksums"):
        assert read_rows(path, 5, "feed") == ROWS
    path.write_text("\n".join([*old, old[1]]) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match="a row is there twice"):
        read_rows(path, 5, "feed")
    path.write_text(old[0] + "\n", encoding="utf-8")
    assert read_rows(path, 5, "feed") == []  # there is nothing to change: no warning
