"""The cross-check's budget, resume and workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import presets
from aimc_bridge import Report, crosscheck
from aimc_bridge.equivalence import device, plan
from aimc_bridge.equivalence.plan import Choice, Cost
from aimc_bridge.equivalence.store import digest
from aimc_bridge.errors import (
    DataError,
    UsageError,
)
from tests.test_crosscheck import QUICK

pytestmark = pytest.mark.usefixtures("small_periphery")


def fake_layers(kinds: str) -> dict[str, Any]:
    class Fake:
        def __init__(self, kind: str) -> None:
            self.kind = kind

    return {f"{k}{i}": (Fake(k), 100, Cost(1.0, 0.1 * (i + 1))) for i, k in enumerate(kinds)}


def choice(budget: float | None, spent: float = 0.0) -> Choice:
    """8 targets of 10 s, layers of 11, 21 and 31 s, 10 chips of 4 s: 183 s."""
    targets = list(device.TARGETS)
    return plan.choose(
        budget, spent, targets, 1_000_000, 10.0, fake_layers("aab"), (10, Cost(0.0, 4.0))
    )


def cost_of(found: Choice) -> float:
    layers = fake_layers("aab")
    total = len(found.targets) * 10.0 * found.samples / 1e6 + found.task * 4.0
    return total + sum(layers[name][2].of(chips) for name, chips in found.layers.items())


@pytest.mark.parametrize("budget", [None, 183.0, 150.0, 100.0, 60.0, 30.0, 15.0, 10.0])
def test_what_a_budget_buys_costs_no_more(budget: float | None) -> None:
    found = choice(budget)
    if budget is None or budget >= 183.0:
        assert cost_of(found) == pytest.approx(183.0)
        assert len(found.notes) == 1 and "183" not in found.notes[0]
        return
    assert 0.3 * budget < cost_of(found) <= budget
    assert found.samples >= plan.FEWEST_SAMPLES
    assert all(chips >= plan.FEWEST_CHIPS for chips in found.layers.values())
    said = " ".join(found.notes)
    assert "chose" in said
    for name in set(fake_layers("aab")) - set(found.layers):
        assert f"layer {name}" in said


def test_a_budget_keeps_the_telling_ones() -> None:
    """Fewer samples before fewer targets, one layer of each kind before two of one."""
    assert choice(100.0).targets == list(device.TARGETS) and choice(100.0).samples < 1_000_000
    small = choice(30.0)
    assert set(small.targets) == {0.0, 0.1, 1.0}
    assert choice(40.0).layers.keys() == {"a0", "b2"} or len(choice(40.0).layers) == 3
    with pytest.raises(UsageError, match=r"too small for one cell: predicting took 3s.* about 2s"):
        choice(4.0, spent=3.0)


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that are done are not done again, and the result is that of one run."""
    calls: list[float] = []
    real = device.device_part

    def part(preset: Any, x: float, *rest: Any) -> Any:
        calls.append(x)
        if len(calls) == 4:  # the first is the one that predicts
            raise KeyboardInterrupt
        return real(preset, x, *rest)

    monkeypatch.setattr(device, "device_part", part)
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
    assert not list(tmp_path.glob("*/*.partial"))
    with pytest.raises(DataError, match="seed"):
        crosscheck(None, presets.rasch2023, resume=tmp_path / "a", **{**options, "seed": 1})
    (damaged,) = (tmp_path / "a").glob("device-0-*.json")
    damaged.write_text("{")
    with pytest.raises(DataError, match="damaged"):
        run(tmp_path / "a")


def test_a_digest_tells_inputs_apart() -> None:
    one = {"a": [torch.zeros(2), 1.0]}
    assert digest(one) == digest({"a": [torch.zeros(2), 1.0]})
    for other in ({"a": [torch.ones(2), 1.0]}, {"b": [torch.zeros(2), 1.0]}, [torch.zeros(2, 1)]):
        assert digest(other) != digest(one)


def test_workers_find_the_same(tmp_path: Path) -> None:
    options = {**QUICK, "targets": (0.0, 1.0)}
    one, two = (
        crosscheck(None, presets.scalar_drift, workers=workers, **options) for workers in (1, 2)
    )
    pd.testing.assert_frame_equal(
        one.table.drop(columns="interval"), two.table.drop(columns="interval")
    )
