"""Questions to the cross-check that cannot be answered, and their error messages."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import presets
from aimc_bridge import crosscheck
from aimc_bridge.errors import (
    CapabilityError,
    ConversionError,
    ShapeError,
    UsageError,
)
from tests.equivalence.test_crosscheck import QUICK, Scalar, Wrong, inputs, mean_output
from tests.models import linear, mlp, random
from tests.stats import FALSE_ALARM

pytestmark = pytest.mark.usefixtures("small_periphery")


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (lambda w: w[:1], ShapeError, r"returned \(1, "),
        (lambda w: w * math.nan, UsageError, "NaN"),
        (lambda w: w.long(), UsageError, "int64"),
        (lambda w: w.numpy(), UsageError, "ndarray"),
    ],
)
def test_a_physics_that_returns_nonsense(value: Any, error: type[Exception], message: str) -> None:
    physics = Wrong()
    physics.value = value
    with pytest.raises(error, match=message):
        crosscheck(None, presets.rasch2023, physics=physics, levels="device", **QUICK)


def test_a_physics_without_its_functions() -> None:
    with pytest.raises(UsageError, match=r"without read; .*program\(weights, generator\)"):
        crosscheck(None, presets.rasch2023, physics=nn.Module.__class__("X", (), {"program": len}))
    with pytest.raises(UsageError, match="no task level"):
        crosscheck(mlp(), presets.rasch2023, inputs(), physics=Scalar, levels="task")


def normed() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(12), linear(12, 3)).eval()


LAYER = presets.rasch2023.change(
    weight_scaling="layer", why="a scale that aihwkit has for single tiles only"
)


@pytest.mark.parametrize(
    ("model", "preset", "data", "more", "error", "message"),
    [
        (nn.Sequential(nn.ReLU()), presets.ideal, inputs(), {}, ConversionError, "nothing of"),
        (mlp(), presets.rasch2023, random(4, 9), {}, ShapeError, r"\(4, 9\); allowed: \[..., 12\]"),
        (normed(), presets.rasch2023, random(4, 9), {}, ShapeError, "does not take these inputs"),
        (mlp(), presets.rasch2023, {"x": inputs()}, {}, UsageError, "keyword"),
        (mlp(), presets.rasch2023, [], {}, UsageError, "empty list"),
        (mlp(), presets.rasch2023, None, {}, UsageError, "needs inputs"),
        (mlp(), LAYER, inputs(), {}, CapabilityError, "weight_scaling"),
        (
            mlp(),
            presets.rasch2023,
            inputs(),
            {"budget": 0.01},  # This is less than any machine needs for the prediction.
            UsageError,
            "too small for one cell",
        ),
        (mlp(), presets.rasch2023, inputs(), {"levels": "tile"}, UsageError, "device, layer, task"),
        (mlp(), presets.rasch2023, inputs(), {"levels": "task"}, UsageError, "evaluate="),
        (
            mlp(),
            presets.rasch2023,
            inputs(),
            {"layers": "conv*"},
            UsageError,
            "matches none of 0, 2",
        ),
        (mlp(), presets.rasch2023, inputs(), {"chips": 1}, UsageError, "chips=1"),
        (mlp(), presets.rasch2023, inputs(), {"times": ()}, UsageError, "no times"),
        (mlp(), presets.rasch2023, inputs(), {"times": "soon"}, UsageError, "not understood"),
        (mlp(), presets.rasch2023, inputs(), {"workers": 0}, UsageError, "workers=0"),
        (mlp(), presets.rasch2023, inputs(), {"compiled": 1}, UsageError, "compiled=1"),
        (mlp(), presets.rasch2023, inputs(), {"device": "tpu"}, UsageError, "device='tpu'"),
        (mlp(), presets.rasch2023, inputs(), {"seed": 1.5}, UsageError, "seed=1.5"),
        (mlp(), "rasch2023", inputs(), {}, UsageError, "a Preset"),
        (None, presets.rasch2023, None, {"levels": "layer"}, UsageError, "need a model"),
    ],
)
def test_bad_input(
    model: Any, preset: Any, data: Any, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    full = {"samples": 1_000_000} if "budget" in more else {}
    with pytest.raises(error, match=message):
        crosscheck(model, preset, data, **{**QUICK, **full, **more})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_where_there_is_none() -> None:
    with pytest.raises(UsageError, match="device='cuda': torch sees no CUDA device"):
        crosscheck(mlp(), presets.rasch2023, inputs(), device="cuda", **QUICK)


@pytest.mark.cuda
def test_the_native_side_runs_on_a_gpu() -> None:
    """The native side agrees with aihwkit on a GPU as on a CPU.

    Outputs with the same weights agree to 1e-5.
    """
    more = {"levels": ("layer", "task"), "evaluate": mean_output, "device": "cuda"}
    report = crosscheck(mlp(), presets.rasch2023, inputs(), **{**QUICK, **more})
    table = report.table.set_index(["quantity"])
    assert set(table.loc["outputs, ADC off"]["verdict"]) == {"equivalent"}
    assert table["p_different"].min() > FALSE_ALARM
    assert any("on cuda" in note for note in report.notes)


def test_against_and_physics_are_two_questions() -> None:
    with pytest.raises(UsageError, match="two questions"):
        crosscheck(None, presets.ideal, against=presets.hermes, physics=Scalar)
    with pytest.raises(UsageError, match="of the native engine"):
        crosscheck(None, presets.ideal, physics=Scalar(), compiled=True)
