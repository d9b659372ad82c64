"""The cross-check as users call it: all levels, two presets, a user's physics, the task level."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import Report, calibrate, convert, crosscheck
from aimc_bridge.converted import matrices_of
from aimc_bridge.equivalence import task
from aimc_bridge.equivalence.closed import ClosedLaws
from aimc_bridge.equivalence.custom_law import name_of
from aimc_bridge.equivalence.question import ask
from aimc_bridge.errors import (
    UsageError,
)
from tests.equivalence.test_device import COLUMNS, decided
from tests.models import mlp, random
from tests.stats import FALSE_ALARM

YEAR = 31536000.0


pytestmark = pytest.mark.usefixtures("small_periphery")


QUICK: dict[str, Any] = {
    "times": ("1h", "1y"),
    "chips": 6,
    "targets": (0.5,),
    "samples": 2000,
    "progress": False,
}


def inputs() -> Tensor:
    return random(64, 12, seed=5)


def mean_output(model: nn.Module) -> dict[str, float]:
    data = inputs().to(next(model.parameters()).device)
    with torch.no_grad():
        return {
            "mean": float(model(data).mean()),
            "share": float((model(data) > 0).float().mean()),
        }


def test_all_levels_in_one_call(tmp_path: Path) -> None:
    report = crosscheck(mlp(), presets.rasch2023, inputs(), evaluate=mean_output, **QUICK)
    table = report.table
    assert set(table) == COLUMNS and list(dict.fromkeys(table["level"])) == [
        "device",
        "layer",
        "task",
    ]
    assert table["p_different"].min() > FALSE_ALARM
    assert not report.passed  # Six chips decide little, and the report says so.
    assert set(table[table["level"] == "layer"]["cell"]) == {"0", "2"}
    in_time = table[(table["level"] == "task")]
    assert set(zip(in_time["quantity"], in_time["t_inference"], strict=True)) == {
        (metric, t) for metric in ("mean", "share") for t in (3600.0, YEAR)
    }
    share, mean = in_time[in_time["quantity"] == "share"], in_time[in_time["quantity"] == "mean"]
    assert set(share["margin"]) == {task.POINTS}
    assert not set(mean["margin"]) & {task.POINTS}
    low, high = table["interval"].iloc[0]
    assert (low, high) == (table["low"].iloc[0], table["high"].iloc[0])
    report.save(tmp_path)
    rows = pd.read_csv(tmp_path / "crosscheck.csv")
    assert len(rows) == len(table) and "interval" not in rows
    page = (tmp_path / "summary.md").read_text()
    assert page.startswith("# Cross-check\n\nnative against aihwkit.")
    assert "6 chips of each side" in page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    drawn = ("quantiles", "conductances", "devices", "alpha", "mvm")
    assert names == {f"{name}.{suffix}" for name in drawn for suffix in ("png", "svg")}


def test_the_task_level_is_decided_by_enough_chips_and_not_by_few() -> None:
    """The metric has little spread.

    Four chips leave it open, 40 decide, and a metric that is off by a point is found.
    """
    draw = torch.Generator().manual_seed(2)

    def chips(count: int, at: float) -> list[list[task.Value]]:
        values = at + 0.004 * torch.randn(count, generator=draw)
        return [[(1.0, "accuracy", float(v))] for v in values]

    def verdict(count: int, off: float) -> str:
        part = task.compare(chips(count, 0.9), chips(count, 0.9 + off), "aihwkit", "Net")
        return str(Report.of([part]).table["verdict"].iloc[0])

    assert verdict(4, 0.0) == "undecided"
    assert verdict(60, 0.0) == "equivalent"
    assert verdict(60, 0.01) == "different"


DEFAULTS: dict[str, Any] = {
    **{"against": None, "physics": None, "task_chips": None, "seed": 0, "layers": None},
    **{
        "exclude": (),
        "margins": None,
        "budget": None,
        "reference": "aihwkit",
        "compiled": False,
        "device": "cpu",
        "workers": 1,
    },
}
"""The rest of what `crosscheck` asks."""


def trained_mlp() -> tuple[nn.Module, nn.Module]:
    """Return a digital model and a converted one, as after a training.

    The converted one has other weights, learned column factors and input ranges.
    """
    model = mlp().eval()
    native = convert(model, presets.rasch2023).eval()
    calibrate(native, [inputs()])
    with torch.no_grad():
        for name, matrix in matrices_of(native).items():
            matrix.set_clean_weight(1.3 * matrix.clean_weight())
            native.get_submodule(name).crossbar.out_scale.copy_(  # type: ignore[union-attr, operator]
                1.0 + 0.2 * random(*matrix.learned_scale().shape, seed=7)
            )
            matrix.set_input_ranges(2.5 * torch.ones_like(matrix.input_ranges()))
    return model, native


def test_a_trained_model_is_what_is_compared() -> None:
    """Its weights times its learned factors are compared, behind its ranges.

    This holds on aihwkit too.
    """
    model, native = trained_mlp()
    question = ask(
        model,
        presets.rasch2023,
        inputs(),
        trained=native,
        evaluate=mean_output,
        levels=("layer", "task"),
        **{**DEFAULTS, **QUICK},
    )
    assert question.layers and question.task is not None
    for layer in question.layers:
        matrix = matrices_of(native)[layer.name]
        assert torch.allclose(layer.module.get_parameter("weight"), matrix.effective_weight())
        assert layer.ranges is not None and set(layer.ranges.flatten().tolist()) == {2.5}
    for task_model in question.task.models:
        fresh = task_model.fresh()
        for name, matrix in matrices_of(fresh).items():
            expected = matrices_of(native)[name].effective_weight()
            assert torch.allclose(matrix.effective_weight(), expected, rtol=1e-5, atol=1e-6)
    report = crosscheck(
        model, presets.rasch2023, inputs(), trained=native, evaluate=mean_output, **QUICK
    )
    assert report.table["p_different"].min() > FALSE_ALARM
    assert set(report.table["level"]) == {"device", "layer", "task"}


def test_a_trained_model_of_something_else() -> None:
    model, native = trained_mlp()
    other = convert(model, presets.hermes)
    for trained, more, message in (
        (other, {}, "under rasch2023"),
        (native, {"against": presets.scalar_drift}, "no `against`"),
    ):
        with pytest.raises(UsageError, match=message):
            crosscheck(model, presets.rasch2023, inputs(), trained=trained, **more, **QUICK)
    with pytest.raises(UsageError, match="digital model"):
        crosscheck(None, presets.rasch2023, trained=native, **QUICK)


def test_two_presets() -> None:
    """They differ if their fields do, and the report says which part causes it."""
    report = crosscheck(
        mlp(),
        presets.rasch2023,
        inputs(),
        against=presets.scalar_drift,
        levels="layer",
        **{**QUICK, "chips": 40},
    )
    assert report.sides == ("rasch2023", "scalar_drift")
    assert report.causes is not None
    causes = {(part, field): (a, b) for part, field, a, b in report.causes.itertuples(index=False)}
    assert causes["pcm", "t0_s"] == (20.0, 1.0)
    assert causes["pcm", "nu"] == ("-", 0.06)
    assert causes["compensation", "drift_compensation"] == ("global", "oracle")
    assert ("pcm", "g_max_us") not in causes
    rows = report.table.set_index(["cell", "quantity", "t_inference"])["verdict"]
    assert rows["0", "MVM error", YEAR] == "different"
    assert rows["0", "MVM error, crossbar of scalar_drift alone", YEAR] == "different"
    errors = [
        note for note in report.notes if note.startswith("mean MVM error of the layers at 1y")
    ]
    assert len(errors) == 1
    for part in ("pcm", "crossbar", "compensation"):
        assert f"{part} of scalar_drift alone" in errors[0]
    assert "scalar_drift" in report.summary() and "drift_compensation" in report.summary()


def test_a_preset_against_itself_is_the_same() -> None:
    same = presets.rasch2023
    report = crosscheck(mlp(), same, inputs(), against=same, levels="layer", **QUICK)
    assert report.different.empty and report.causes is not None and report.causes.empty


class Closed:
    """A user's physics that is the paper's: programming noise on pairs, netting, drift, noise."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Any:
        from numpy.random import default_rng

        seed = int(torch.randint(2**31, (), generator=generator))
        self.laws = ClosedLaws(presets.rasch2023.pcm, default_rng(seed))
        return self.laws.program_weights(weights.double().numpy())[1]

    def read(self, state: Any, t_inference: float, generator: torch.Generator) -> Tensor:
        return torch.from_numpy(self.laws.read_weights(state, t_inference))


class Scalar:
    """A user's physics that is not the paper's: constant noise, one exponent."""

    @staticmethod
    def program(weights: Tensor, generator: torch.Generator) -> Tensor:
        return weights + 0.03 * torch.randn(weights.shape, generator=generator)

    @staticmethod
    def read(state: Tensor, t_inference: float, generator: torch.Generator) -> Tensor:
        return state * (t_inference / 20.0 + 1.0) ** -0.05


def test_a_physics_of_ones_own() -> None:
    quick = {**QUICK, "samples": 60_000}
    right = crosscheck(mlp(), presets.rasch2023, inputs(), physics=Closed(), **quick)
    assert right.sides == ("Closed", "aihwkit")
    assert set(right.table["level"]) == {"device", "layer"}
    assert right.table["p_different"].min() > FALSE_ALARM
    device_rows = right.table[right.table["level"] == "device"]
    assert (device_rows["quantity"].str.startswith("read weight")).all()
    assert len(decided(right.table)) > 3
    wrong = crosscheck(mlp(), presets.rasch2023, inputs(), physics=Scalar, **quick)
    assert wrong.sides[0] == name_of(Scalar) == "Scalar"
    rows = wrong.different
    assert ("w = 0.5", "read weight sd", YEAR) in set(
        zip(rows["cell"], rows["quantity"], rows["t_inference"], strict=True)
    )
    assert "output sd" in set(rows["quantity"])


class Wrong(Scalar):
    value: Any = None

    def read(self, state: Tensor, t: float, generator: torch.Generator) -> Any:  # type: ignore[override]
        return self.value(state)
