"""The cross-check's overall verdict, its one summary, and its budget over all reports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aimc_bridge.equivalence import plan
from aimc_bridge.equivalence.plan import BudgetError
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.errors import CheckpointError, UsageError
from benchmarks.report.verdict import counts_of, summary, verdict_of
from benchmarks.studies.budget import Budget

COUNTS = ["level", "quantity", "equivalent", "different", "undecided"]
WORST = [
    *("cell", "quantity", "t_inference", "first", "second", "difference", "low", "high"),
    *("margin", "p", "power", "verdict", "reference"),
]


def report(
    name: str, equivalent: int, different: int = 0, undecided: int = 0, agree: bool = True
) -> dict[str, Any]:
    """Return a short report, with at most two of its different rows."""
    rows = [
        ["1", "sd", None, 1.0, 1.25, 0.25, 0.2, 0.3, 0.02, 1e-9, 1.0, "different", "aihwkit"],
        ["0.5", "mean", 3600.0, 2.0, 2.5, 0.5, 0.4, 0.6, 0.1, 1e-9, 1.0, "different", "aihwkit"],
    ][:different]
    rows.append(
        ["0", "mean", 3600.0, 0.0, 0.0, 0.0, -1.0, 1.0, 0.1, 0.5, 0.9, "undecided", "aihwkit"]
    )
    return {
        "name": name,
        "sides": ["native", "aihwkit"] if agree else ["rasch2023", "hermes"],
        "should_agree": agree,
        "notes": ["preset rasch2023, seed 0"],
        "counts_columns": COUNTS,
        "counts": [["device", "sd", equivalent, different, 0], ["device", "mean", 0, 0, undecided]],
        "worst_columns": WORST,
        "worst": rows,
    }


@pytest.mark.parametrize(
    ("reports", "word", "code"),
    [
        ([report("a", 3), report("b", 4)], "passed", 0),
        ([report("a", 3), report("b", 4, undecided=1)], "undecided", 0),
        ([report("a", 3, undecided=9), report("b", 4, different=1)], "failed", 1),
        ([report("a", 3), report("pair", 0, different=7, undecided=2, agree=False)], "passed", 0),
        ([report("pair", 2, agree=False)] * 2, "undecided", 0),
        ([report("a", 3)], "unfinished", 0),
        ([report("a", 3, different=1)], "failed", 1),
        ([], "unfinished", 0),
    ],
)
def test_one_verdict_over_the_rows_that_should_agree(
    reports: list[dict[str, Any]], word: str, code: int
) -> None:
    """Only a difference fails.

    Undecided rows keep the verdict from "passed"; a comparison of two presets does not count.
    """
    verdict = verdict_of(reports, planned=2)
    assert (verdict.word, verdict.exit_code) == (word, code)
    assert str(verdict).startswith(f"verdict: {word}; ")


def test_the_verdict_counts_rows() -> None:
    verdict = verdict_of([report("a", 1200), report("b", 4, 1, 2), report("c", 9, agree=False)], 4)
    assert verdict.text == (
        "of 1,207 rows that should agree, 1,204 are equivalent, 1 is different, 2 are undecided; "
        "1 of 4 reports are missing"
    )
    assert counts_of(report("b", 4, 1, 2)) == {"equivalent": 4, "different": 1, "undecided": 2}


def test_one_summary_of_all_reports() -> None:
    """The verdict comes first, then one row per report, then what failed.

    A line says how much is not shown.
    """
    bad = report("rasch2023/wrn", 4, different=5, undecided=1)
    left_out = report("rasch2023/lstm", 2)
    left_out["notes"].append("the budget left out: layer lstm, the task")
    pair = report("rasch2023-hermes/device", 1, different=2, agree=False)
    text = summary([bad, left_out, pair], 3, "python -m benchmarks.crosscheck")
    assert text.startswith("# Cross-check\n\n**Verdict: failed.** Of 12 rows that should agree")
    assert "An undecided row fails nothing and proves nothing" in text
    table = [line for line in text.splitlines() if line.startswith("| [")]
    assert table == [
        "| [rasch2023/wrn](rasch2023/wrn/summary.md) | native against aihwkit | 4 | 5 | 1 "
        "| failed |",
        "| [rasch2023/lstm](rasch2023/lstm/summary.md) | native against aihwkit | 2 | 0 | 0 "
        "| passed |",
        "| [rasch2023-hermes/device](rasch2023-hermes/device/summary.md) "
        "| rasch2023 against hermes | 1 | 2 | 0 | may differ |",
    ]
    failed = text.partition("## What failed in rasch2023/wrn")[2]
    assert "| 0.5 | mean | 1h | 2 | 2.5 | 0.5 | 0.4 .. 0.6 | 0.1 |" in failed
    assert "| 1 | sd |  | 1 | 1.25 | 0.25 | 0.2 .. 0.3 | 0.02 |" in failed
    assert "3 more such rows are in rasch2023/wrn/crosscheck.csv." in failed
    assert "| 0 | mean | 1h" not in failed  # It is undecided, which is no failure.
    assert text.count("What failed") == 1  # Two presets may differ.
    assert "- rasch2023/lstm: the budget left out: layer lstm, the task" in text


# --- budget ---------------------------------------------------------------------------------------


class Layer:
    kind = "linear"


@pytest.mark.parametrize("levels", ["device", "layer", "task", "device layer", "device layer task"])
def test_the_smallest_budget_buys_a_cell_and_a_smaller_one_does_not(levels: str) -> None:
    """The error names it, after 3 s of predicting.

    This holds for all levels.
    """
    targets = [0.0, 0.5, 1.0] if "device" in levels else []
    layers: dict[str, Any] = {"a": (Layer(), 100, Cost(1.0, 0.2)), "b": (Layer(), 8, Cost(9.0, 1))}
    layers = layers if "layer" in levels else {}
    task = (10, Cost(0.0, 4.0)) if "task" in levels else None

    def choose(budget: float) -> plan.Choice:
        return plan.choose(budget, 3.0, targets, 1_000_000, 10.0, layers, task)

    with pytest.raises(BudgetError, match="too small for one cell") as refused:
        choose(1e-9)
    smallest = refused.value.smallest_s
    assert smallest > 3.0 and isinstance(refused.value, UsageError)
    bought = choose(smallest + 1e-6)
    assert bought.targets or bought.layers or bought.task
    with pytest.raises(BudgetError):
        choose(3.0 + 0.98 * (smallest - 3.0))


def test_a_budget_is_shared_beyond_what_each_report_needs() -> None:
    """Each report gets its need and a part of the rest.

    The parts of the rest are equal; what is not spent goes to the next report.
    """
    budget = Budget(100.0, {"a": 10.0, "b": 20.0, "c": 30.0}, spent_s=4.0)
    budget.check()
    assert budget.share("a") == pytest.approx(10.0 + 36.0 / 3)
    assert budget.share("a") == pytest.approx(22.0)  # The share is computed once.
    budget.spent_s += 12.0
    assert budget.share("b") == pytest.approx(20.0 + (100 - 16 - 50) / 2)
    budget.spent_s += 80.0  # The machine is busy.
    assert budget.share("c") == 30.0


def test_a_resumed_report_keeps_its_share(tmp_path: Path) -> None:
    budget = Budget(100.0, {"a": 10.0, "b": 20.0}, spent_s=1.0)
    share = budget.share("a")
    budget.write(tmp_path / "work" / "budget.json")
    again = Budget.read(tmp_path / "work" / "budget.json", 100.0)
    again.spent_s += 50.0
    assert again.share("a") == share
    (tmp_path / "work" / "budget.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        Budget.read(tmp_path / "work" / "budget.json", 100.0)


def test_a_budget_too_small_names_the_smallest() -> None:
    budget = Budget(60.0, {"a": 10.0, "rasch2023/bert": 200.5}, spent_s=4.0)
    with pytest.raises(UsageError) as refused:
        budget.check()
    assert str(refused.value) == (
        "--budget 60s is too small for one cell of each of 2 reports (most for rasch2023/bert: "
        "4m; predicting: 4s); give --budget 4m or more, or fewer presets, tasks or levels"
    )
    Budget(215.0, budget.smallest_s, spent_s=4.0).check()
