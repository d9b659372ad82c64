"""The table of trained models on aihwkit, from the records of cross-checks."""

from __future__ import annotations

from typing import Any

import pytest

from aimc_bridge.errors import DataError
from benchmarks.report import confirmed

COLUMNS = ["quantity", "t_inference", "native", "aihwkit", "difference", "low", "high", "margin"]


def record(**changes: Any) -> dict[str, Any]:
    """A cross-check of one model at two times, and its perplexity at one."""
    rows = [
        ["accuracy", 31536000.0, 0.9, 0.89, -0.01, -0.02, 0.001, 0.005, "undecided"],
        ["accuracy", 1.0, 0.92, 0.921, 0.001, -0.002, 0.004, 0.005, "equivalent"],
        ["perplexity", 1.0, 99.06, 99.16, 0.1, -0.25, 0.45, 0.5, "equivalent"],
    ]
    report = {
        "sides": ["native", "aihwkit"],
        "counts": [["task", "accuracy", 1, 0, 1], ["task", "perplexity", 1, 0, 0]],
        "worst_columns": [*COLUMNS, "verdict"],
        "worst": rows,
    }
    return {
        "name": "crosscheck-one",
        "arguments": {"task_chips": [440, 110], "subset": 1400, "seed": 2},
        "models": {"lstm": {"model": "M", "dataset": "D"}},
        "reports": [{**report, **changes}],
    }


def test_a_line_a_time_and_quantity() -> None:
    head, _, *body = confirmed.table([record()], "there/").splitlines()
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
    both = record()
    both["arguments"]["task_chips"] = 30
    assert "| 30, 30 |" in confirmed.table([both])
    assert confirmed.table([]) == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"sides": ["native", "native"]},
        {"counts": [["task", "accuracy", 9, 0, 1]]},  # three of ten rows
        {"counts": [["task", "accuracy", 1, 0, 1], ["layer", "gain", 1, 0, 0]]},
    ],
)
def test_other_cross_checks_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="crosscheck-one: allowed: native against aihwkit, task"):
        confirmed.table([record(**changes)])


def test_what_is_no_cross_check_is_refused() -> None:
    for wrong in ({"name": "a", "rows": []}, {**record(), "reports": []}):
        with pytest.raises(DataError, match="is not a cross-check of one model"):
            confirmed.table([wrong])
