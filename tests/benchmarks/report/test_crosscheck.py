"""The table of trained models on aihwkit, from the records of cross-checks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aimc_bridge.errors import DataError
from benchmarks.report import crosscheck
from benchmarks.report.folders import rebuild, records_of
from benchmarks.report.record import Record, read, write
from benchmarks.report.verdict import summary

COLUMNS = ["quantity", "t_inference", "first", "second", "difference", "low", "high", "margin"]


def contents(**changes: Any) -> dict[str, Any]:
    """Return the contents of crosscheck.json: one model at two times, and its perplexity at one."""
    rows = [
        ["accuracy", 31536000.0, 0.9, 0.89, -0.01, -0.02, 0.001, 0.005, "undecided"],
        ["accuracy", 1.0, 0.92, 0.921, 0.001, -0.002, 0.004, 0.005, "equivalent"],
        ["perplexity", 1.0, 99.06, 99.16, 0.1, -0.25, 0.45, 0.5, "equivalent"],
    ]
    report = {
        "name": "rasch2023/lstm",
        "sides": ["native", "aihwkit"],
        "should_agree": True,
        "notes": [],
        "wall_s": 12.0,
        "counts_columns": ["level", "quantity", "equivalent", "different", "undecided"],
        "counts": [["task", "accuracy", 1, 0, 1], ["task", "perplexity", 1, 0, 0]],
        "worst_columns": [*COLUMNS, "verdict"],
        "worst": rows,
    }
    return {
        "kind": "crosscheck",
        "name": "out",
        "command": "python -m benchmarks.crosscheck lstm",
        "finished": True,
        "versions": {"torch": "2.11.0", "aihwkit": "1.1.0"},
        "hardware": {"cores": 2},
        "arguments": {"task_chips": [440, 110], "subset": 1400, "seed": 2},
        "models": {"lstm": {"model": "M", "dataset": "D"}},
        "verdict": {"word": "passed", "text": "nothing is different"},
        "reports": [{**report, **changes}],
    }


def record(**changes: Any) -> Record:
    return crosscheck.from_report(contents(**changes), "crosscheck-one")


def test_records_with_the_earlier_names_of_the_columns_are_read() -> None:
    """The two sides were called native and aihwkit.

    Every record up to the first release has these names.
    """
    names = {"first": "native", "second": "aihwkit"}
    earlier = [names.get(column, column) for column in [*COLUMNS, "verdict"]]
    assert crosscheck.table([record(worst_columns=earlier)]) == crosscheck.table([record()])


def test_a_line_per_time_and_quantity() -> None:
    head, _, *body = crosscheck.table([record()], "there/").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in (head, *body)]
    shown = [dict(zip(cells[0], row, strict=True)) for row in cells[1:]]
    assert [(row["at"], row["quantity"]) for row in shown] == [
        ("1s", "accuracy"),
        ("1s", "perplexity"),
        ("1y", "accuracy"),
    ]
    assert shown[0] == {
        **{"model": "M", "data": "D", "quantity": "accuracy", "subset": "1,400", "seed": "2"},
        **{"chips": "440, 110", "at": "1s", "native": "92.00 %", "aihwkit": "92.10 %"},
        **{"difference": "0.10 (-0.20 to 0.40)", "margin": "0.50 points"},
        **{"verdict": "equivalent", "record": "[crosscheck-one](there/crosscheck-one.json)"},
    }
    assert shown[1]["native"] == "99.06" and shown[1]["margin"] == "0.50"
    assert shown[1]["difference"] == "0.10 (-0.25 to 0.45)"
    both = contents()
    both["arguments"]["task_chips"] = 30
    assert "| 30, 30 |" in crosscheck.table([crosscheck.from_report(both, "x")])
    assert crosscheck.table([]) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"sides": ["native", "native"]},
        {"counts": [["task", "accuracy", 9, 0, 1]]},  # These are three of ten rows.
        {"counts": [["task", "accuracy", 1, 0, 1], ["layer", "gain", 1, 0, 0]]},
    ],
)
def test_other_cross_checks_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="crosscheck-one: allowed: native against aihwkit, task"):
        crosscheck.table([record(**changes)])


def test_what_is_no_cross_check_is_refused() -> None:
    other = replace(record(), kind="run", extra={"studies": {}})
    for wrong in (other, replace(record(), extra={**record().extra, "reports": []})):
        with pytest.raises(DataError, match="is not a cross-check of one model"):
            crosscheck.table([wrong])


def test_a_finished_folder_is_a_record(tmp_path: Path) -> None:
    """A record holds every row and count of all parts.

    A cross-check that is not finished is refused.
    """
    about = contents()
    about["reports"].append({**about["reports"][0], "name": "rasch2023/wrn", "worst": []})
    (tmp_path / crosscheck.FILE).write_text(json.dumps(about))
    (record,) = records_of(tmp_path, "one")
    assert record == read(write(record, tmp_path / "crosscheck-one.json"))
    assert (record.kind, record.name) == ("crosscheck", "crosscheck-one")
    assert record.columns == ["part", *COLUMNS, "verdict"]
    assert [list(row) for row in record.rows] == [
        ["rasch2023/lstm", *row] for row in about["reports"][0]["worst"]
    ]
    assert [report["name"] for report in record.extra["reports"]] == [
        *("rasch2023/lstm", "rasch2023/wrn"),
    ]
    table = crosscheck.counts_table([record], "there/").splitlines()
    assert table[2] == (
        "| rasch2023/lstm | native, aihwkit | 1.1.0 | 2.11.0 | 2 | 0 | 1 "
        "| [crosscheck-one](there/crosscheck-one.json) |"
    )
    assert len(table) == 4
    rebuild(tmp_path)
    text = (tmp_path / "summary.md").read_text()
    assert text == summary(about["reports"], 2, about["command"]) and "undecided" in text
    (tmp_path / crosscheck.FILE).write_text(json.dumps({**about, "finished": False}))
    with pytest.raises(DataError, match="is not finished; go on with it"):
        records_of(tmp_path, "one")
    (tmp_path / crosscheck.FILE).write_text("{}")
    with pytest.raises(DataError, match="holds no finished cross-check"):
        records_of(tmp_path, "one")


def test_the_report_has_the_figures_of_the_rows_in_the_folder(tmp_path: Path) -> None:
    """Alpha of two layers at two times: as many points as rows, and the margin around each line."""
    times = (1.0, 3600.0)
    rows = [
        ["layer", layer, "alpha global mean", t_s, 1.2, 1.19, -0.01, -0.02, 0.01, 0.03]
        for layer in ("fc<1>", "fc2")
        for t_s in times
    ]
    names = ["level", "cell", *COLUMNS]
    place = tmp_path / "rasch2023" / "lstm"
    place.mkdir(parents=True)
    pd.DataFrame(rows, columns=names).to_csv(place / "crosscheck.csv", index=False)
    (tmp_path / crosscheck.FILE).write_text(json.dumps(contents()), encoding="utf-8")
    rebuild(tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('<figure class="wide">') == 1
    assert "Drift compensation of each layer" in text and "fc&lt;1&gt;" in text
    (place / "crosscheck.csv").write_bytes(b"level,cell\n\xff\xfe\n")
    with pytest.raises(DataError, match="damaged"):
        rebuild(tmp_path)
    (place / "crosscheck.csv").unlink()
    rebuild(tmp_path)
    assert "<figure" not in (tmp_path / "report.html").read_text(encoding="utf-8")
