"""The cross-check's budget, resume and workers."""

from __future__ import annotations

import functools
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

import presets
from aimc_bridge import Report, calibrate, convert, crosscheck
from aimc_bridge.equivalence import comparison, device, plan, prediction, run, task
from aimc_bridge.equivalence.measuring import AIHWKIT, COMPILED, NATIVE
from aimc_bridge.equivalence.plan import Choice
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.equivalence.store import digest
from aimc_bridge.errors import (
    DataError,
    UsageError,
)
from tests.equivalence.test_crosscheck import QUICK, inputs
from tests.models import mlp

pytestmark = pytest.mark.usefixtures("small_periphery")


def fake_layers(kinds: str) -> dict[str, Any]:
    class Fake:
        def __init__(self, kind: str) -> None:
            self.kind = kind

    return {f"{k}{i}": (Fake(k), 100, Cost(1.0, 0.1 * (i + 1))) for i, k in enumerate(kinds)}


def choice(budget: float | None, spent: float = 0.0) -> Choice:
    """Return what a budget buys of 183 s of work.

    The work is 8 targets of 10 s, layers of 11, 21 and 31 s, and 10 chips of 4 s.
    """
    targets = list(device.TARGETS)
    return plan.choose(
        budget, spent, targets, 1_000_000, 10.0, fake_layers("aab"), (10, Cost(0.0, 4.0))
    )


def cost_of(plan: Choice) -> float:
    layers = fake_layers("aab")
    total = len(plan.targets) * 10.0 * plan.samples / 1e6 + plan.task * 4.0
    return total + sum(layers[name][2].of(chips) for name, chips in plan.layers.items())


@pytest.mark.parametrize("budget", [None, 183.0, 150.0, 100.0, 60.0, 30.0, 15.0, 10.0])
def test_what_a_budget_buys_costs_no_more(budget: float | None) -> None:
    bought = choice(budget)
    if budget is None or budget >= 183.0:
        assert cost_of(bought) == pytest.approx(183.0)
        assert len(bought.notes) == 1 and "183" not in bought.notes[0]
        return
    assert 0.3 * budget < cost_of(bought) <= budget
    assert bought.samples >= plan.FEWEST_SAMPLES
    assert all(chips >= prediction.FEWEST_CHIPS for chips in bought.layers.values())
    notes = " ".join(bought.notes)
    assert "chose" in notes
    for name in set(fake_layers("aab")) - set(bought.layers):
        assert f"layer {name}" in notes


def test_a_budget_keeps_the_telling_ones() -> None:
    """Samples are dropped before targets.

    One layer of each kind is kept before two of one.
    """
    assert choice(100.0).targets == list(device.TARGETS) and choice(100.0).samples < 1_000_000
    small = choice(30.0)
    assert set(small.targets) == {0.0, 0.1, 1.0}
    assert choice(40.0).layers.keys() == {"a0", "b2"} or len(choice(40.0).layers) == 3
    with pytest.raises(UsageError, match=r"too small for one cell: predicting took 3s.* about 2s"):
        choice(4.0, spent=3.0)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts that are done are not done again; the result is that of one run."""
    calls: list[float] = []
    real = comparison.device_findings

    def part(compared: Any, x: float, *rest: Any) -> Any:
        calls.append(x)
        if len(calls) == 4:  # The first call is the one that predicts.
            raise KeyboardInterrupt
        return real(compared, x, *rest)

    monkeypatch.setattr(comparison, "device_findings", part)
    options = {**QUICK, "targets": (0.0, 0.5, 1.0)}

    def run(folder: Path) -> Report:
        return crosscheck(None, presets.rasch2023, resume=folder, **options)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "a")
    assert calls == [1.0, 0.0, 0.5, 1.0]
    resumed = run(tmp_path / "a")
    assert calls[4:] == [1.0]
    whole = run(tmp_path / "b")
    pd.testing.assert_frame_equal(
        resumed.table.drop(columns="interval"), whole.table.drop(columns="interval")
    )
    assert not list(tmp_path.glob("*/*.partial*"))
    with pytest.raises(DataError, match="seed"):
        crosscheck(None, presets.rasch2023, resume=tmp_path / "a", **{**options, "seed": 1})
    (damaged,) = (tmp_path / "a").glob("device-0-*.json")
    damaged.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        run(tmp_path / "a")


def test_a_digest_tells_inputs_apart() -> None:
    data = {"a": [torch.zeros(2), 1.0]}
    assert digest(data) == digest({"a": [torch.zeros(2), 1.0]})
    for other in ({"a": [torch.ones(2), 1.0]}, {"b": [torch.zeros(2), 1.0]}, [torch.zeros(2, 1)]):
        assert digest(other) != digest(data)


def test_workers_find_the_same(tmp_path: Path) -> None:
    options = {**QUICK, "targets": (0.0, 1.0)}
    first, second = (
        crosscheck(None, presets.scalar_drift, workers=workers, **options) for workers in (1, 2)
    )
    pd.testing.assert_frame_equal(
        first.table.drop(columns="interval"), second.table.drop(columns="interval")
    )


def positive(shift: float, model: nn.Module) -> float:
    """Return the share of positive outputs, plus 1,000 if this runs in another process."""
    apart = multiprocessing.current_process().name != "MainProcess"
    return float((model(inputs()) > shift).float().mean()) + 1000.0 * apart


def chips_of(folder: Path) -> dict[str, float]:
    values = {}
    for file in folder.glob("task-*.json"):
        ((_, _, value),) = json.loads(file.read_text())
        values[file.name] = value
    return values


def test_workers_share_the_chips_of_a_task(tmp_path: Path) -> None:
    """The chips are the same in other processes.

    The files that are stored belong to one `evaluate`.
    """
    rest: dict[str, Any] = {**QUICK, "levels": "task", "times": "1h", "task_chips": 3}
    where = {1: tmp_path / "one", 2: tmp_path / "two"}

    def check(workers: int, shift: float = 0.0) -> None:
        crosscheck(
            mlp(),
            presets.rasch2023,
            inputs(),
            against=presets.scalar_drift,
            evaluate=functools.partial(positive, shift),
            workers=workers,
            resume=where[workers],
            **rest,
        )

    check(1)
    check(2)
    alone, shared = chips_of(where[1]), chips_of(where[2])
    assert len(alone) == 6 and len(set(alone.values())) > 3
    assert {name: value + 1000.0 for name, value in alone.items()} == pytest.approx(shared)
    with pytest.raises(DataError, match=r"\(evaluate differ\)"):
        check(1, shift=0.5)


def test_the_sides_of_a_task_may_have_other_numbers_of_chips(tmp_path: Path) -> None:
    """Welch's interval takes all chips there are.

    The cheap side's chips make up for those of the expensive side.
    """

    def check(task_chips: Any) -> Report:
        return crosscheck(
            mlp(),
            presets.rasch2023,
            inputs(),
            against=presets.scalar_drift,
            evaluate=functools.partial(positive, 0.0),
            resume=tmp_path,
            **{**QUICK, "levels": "task", "times": "1h", "task_chips": task_chips},
        )

    report = check((9, 4))
    chips = chips_of(tmp_path)
    sides = [
        [value for name, value in chips.items() if name.startswith(f"task-side-{i}")]
        for i in (0, 1)
    ]
    assert [len(side) for side in sides] == [9, 4]
    welch = stats.ttest_ind(sides[1], sides[0], equal_var=False).confidence_interval(0.9)
    (row,) = report.table.to_dict("records")
    assert (row["low"], row["high"]) == pytest.approx((welch.low, welch.high))
    assert any("9 chips of rasch2023, 4 of scalar_drift" in note for note in report.notes)
    pd.testing.assert_frame_equal(check([9, 4]).table, report.table)  # All of it was stored.
    with pytest.raises(DataError, match=r"\(chips differ\)"):
        check(9)


def test_a_budget_lessens_both_sides_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run._Check, "_task_cost", lambda self, chips: Cost(0.0, 1.0))
    report = crosscheck(
        mlp(),
        presets.rasch2023,
        inputs(),
        against=presets.scalar_drift,
        evaluate=functools.partial(positive, 0.0),
        budget=10.0,
        **{**QUICK, "levels": "task", "times": "1h", "task_chips": (40, 20)},
    )
    (note,) = (note for note in report.notes if note.startswith("task: "))
    first, second = (int(word) for word in note.split() if word.isdigit())
    assert second < 20 and first == 2 * second


def test_the_prediction_counts_every_chip_of_the_first_side(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every piece of work takes a second, at two times.

    The pieces are drift and evaluation natively, and building, programming, drift and evaluation on
    the other side.
    """
    native = convert(mlp(), presets.rasch2023)
    calibrate(native, [inputs()])

    def second(work: Any) -> float:
        work()
        return 1.0

    monkeypatch.setattr(prediction, "timed", second)
    costs = [
        prediction.task_cost(native, lambda: native, inputs(), lambda model: 0.0, 2, ratio).a_chip
        for ratio in (1.0, 4.0)
    ]
    assert costs == [2 + 4 + 4, 2 + 4 + 4 * 4]


@pytest.mark.parametrize("chips", [1, True, 2.0, "22", (4, 1), (4,), (4, 4, 4), (4, None)])
def test_a_wrong_number_of_chips_says_what_is_allowed(chips: Any) -> None:
    with pytest.raises(UsageError, match=r"task_chips=.*; allowed: an integer >= 2, two of them"):
        crosscheck(mlp(), presets.rasch2023, inputs(), evaluate=positive, task_chips=chips)


def test_an_evaluate_that_cannot_travel_says_so() -> None:
    held = (inputs() for _ in range(9))  # A running data loader holds a generator too.

    def evaluate(model: nn.Module) -> float:
        return float(model(next(held)).detach().mean())

    rest: dict[str, Any] = {**QUICK, "levels": "task", "times": "1h", "task_chips": 2}
    with pytest.raises(UsageError, match=r"evaluate cannot be sent .*generator.*; give workers=1"):
        crosscheck(
            mlp(),
            presets.rasch2023,
            inputs(),
            against=presets.scalar_drift,
            evaluate=evaluate,
            workers=2,
            **rest,
        )


def test_chips_of_compiled_passes_stay_in_their_process() -> None:
    model = mlp()
    native = convert(model, presets.rasch2023)
    engines = {NATIVE: True, AIHWKIT: True, COMPILED: False}
    for engine, travels in engines.items():
        task_model = task.TaskModel("", model, native, presets.rasch2023, engine, ())
        assert task_model.travels is travels
