"""The cross-check as users call it: two presets, a physics of one's own, the task level, budget,
resume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import Report, calibrate, convert, crosscheck
from aimc_bridge.equivalence import device, periphery, plan, run, task
from aimc_bridge.equivalence.closed import ClosedLaws
from aimc_bridge.equivalence.custom import name_of
from aimc_bridge.equivalence.plan import Choice, Cost
from aimc_bridge.equivalence.question import Question
from aimc_bridge.equivalence.store import digest
from aimc_bridge.errors import (
    CapabilityError,
    ConversionError,
    DataError,
    ShapeError,
    UsageError,
)
from aimc_bridge.registry import matrices_of
from tests.models import linear, mlp, random
from tests.stats import FALSE_ALARM
from tests.test_crosscheck_device import COLUMNS, decided

YEAR = 31536000.0

# --- crosscheck -----------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def small_periphery(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rows are tested with the layers: here they only have to be there."""
    monkeypatch.setattr(periphery, "EXACT_CHIPS", 4)
    monkeypatch.setattr(periphery, "CLIP_CHIPS", 4)


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
    with torch.no_grad():
        return {
            "mean": float(model(inputs()).mean()),
            "share": float((model(inputs()) > 0).float().mean()),
        }


def test_all_levels_in_one_call(tmp_path: Path) -> None:
    found = crosscheck(mlp(), presets.rasch2023, inputs(), evaluate=mean_output, **QUICK)
    table = found.table
    assert set(table) == COLUMNS and list(dict.fromkeys(table["level"])) == [
        "device",
        "layer",
        "task",
    ]
    assert table["p_different"].min() > FALSE_ALARM
    assert not found.passed  # six chips decide little, and say so
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
    found.save(tmp_path)
    kept = pd.read_csv(tmp_path / "crosscheck.csv")
    assert len(kept) == len(table) and "interval" not in kept
    page = (tmp_path / "summary.md").read_text()
    assert page.startswith("# Cross-check\n\nnative against aihwkit.")
    assert "6 chips of each side" in page
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    assert names == {"quantiles.png", "devices.png", "alpha.png"}


def test_the_task_level_is_decided_by_enough_chips_and_not_by_few() -> None:
    """A metric with little spread: 4 chips leave it open, 40 decide, and one off by a point is
    found out."""
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


def trained_mlp() -> tuple[nn.Module, nn.Module]:
    """(digital, as after a training: other weights, learned column factors and input ranges)."""
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
    """Its weights times its learned factors, behind its ranges; on aihwkit too."""
    model, native = trained_mlp()
    asked = Question(presets.rasch2023, None, None, mean_output, 0, 2000, 1, False)
    asked.levels(("layer", "task"), model, inputs())
    asked.ours(False)
    asked.model(model, native, inputs(), (), None)
    for layer in asked.layers:
        matrix = matrices_of(native)[layer.name]
        assert torch.allclose(layer.module.get_parameter("weight"), matrix.effective_weight())
        assert layer.ranges is not None and set(layer.ranges.flatten().tolist()) == {2.5}
    for _, side in run._Check(asked)._sides():
        fresh = side.fresh()
        for name, matrix in matrices_of(fresh).items():
            wanted = matrices_of(native)[name].effective_weight()
            assert torch.allclose(matrix.effective_weight(), wanted, rtol=1e-5, atol=1e-6)
    report = crosscheck(
        model, presets.rasch2023, inputs(), trained=native, evaluate=mean_output, **QUICK
    )
    assert report.table["p_different"].min() > FALSE_ALARM
    assert set(report.table["level"]) == {"device", "layer", "task"}


def test_a_trained_model_of_something_else() -> None:
    model, native = trained_mlp()
    other = convert(model, presets.hermes)
    for trained, more, said in (
        (other, {}, "under rasch2023"),
        (native, {"against": presets.scalar_drift}, "no `against`"),
    ):
        with pytest.raises(UsageError, match=said):
            crosscheck(model, presets.rasch2023, inputs(), trained=trained, **more, **QUICK)
    with pytest.raises(UsageError, match="digital model"):
        crosscheck(None, presets.rasch2023, trained=native, **QUICK)


def test_two_presets() -> None:
    """They differ where their fields do, and the report says because of which part."""
    found = crosscheck(
        mlp(),
        presets.rasch2023,
        inputs(),
        against=presets.scalar_drift,
        levels="layer",
        **{**QUICK, "chips": 40},
    )
    assert found.sides == ("rasch2023", "scalar_drift")
    assert found.causes is not None
    told = {(part, field): (a, b) for part, field, a, b in found.causes.itertuples(index=False)}
    assert told["pcm", "t0_s"] == (20.0, 1.0)
    assert told["pcm", "nu"] == ("-", 0.06)
    assert told["compensation", "drift_compensation"] == ("global", "oracle")
    assert ("pcm", "g_max_us") not in told
    rows = found.table.set_index(["cell", "quantity", "t_inference"])["verdict"]
    assert rows["0", "MVM error", YEAR] == "different"
    assert rows["0", "MVM error, crossbar of scalar_drift alone", YEAR] == "different"
    errors = [note for note in found.notes if note.startswith("mean MVM error of the layers at 1y")]
    assert len(errors) == 1
    for part in ("pcm", "crossbar", "compensation"):
        assert f"{part} of scalar_drift alone" in errors[0]
    assert "scalar_drift" in found.summary() and "drift_compensation" in found.summary()


def test_a_preset_against_itself_is_the_same() -> None:
    same = presets.rasch2023
    found = crosscheck(mlp(), same, inputs(), against=same, levels="layer", **QUICK)
    assert found.different.empty and found.causes is not None and found.causes.empty


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
    """A user's physics that is not: constant noise, one exponent."""

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


@pytest.mark.parametrize(
    ("value", "error", "said"),
    [
        (lambda w: w[:1], ShapeError, r"returned \(1, "),
        (lambda w: w * math.nan, UsageError, "NaN"),
        (lambda w: w.long(), UsageError, "int64"),
        (lambda w: w.numpy(), UsageError, "ndarray"),
    ],
)
def test_a_physics_that_returns_nonsense(value: Any, error: type[Exception], said: str) -> None:
    mine = Wrong()
    mine.value = value
    with pytest.raises(error, match=said):
        crosscheck(None, presets.rasch2023, physics=mine, levels="device", **QUICK)


def test_a_physics_without_its_functions() -> None:
    with pytest.raises(UsageError, match=r"without read; .*program\(weights, generator\)"):
        crosscheck(None, presets.rasch2023, physics=nn.Module.__class__("X", (), {"program": len}))
    with pytest.raises(UsageError, match="no task level"):
        crosscheck(mlp(), presets.rasch2023, inputs(), physics=Scalar, levels="task")


# --- bad input ------------------------------------------------------------------------------------


def normed() -> nn.Module:
    return nn.Sequential(nn.BatchNorm1d(12), linear(12, 3)).eval()


LAYER = presets.rasch2023.change(
    weight_scaling="layer", why="a scale that aihwkit has for single tiles only"
)


@pytest.mark.parametrize(
    ("model", "preset", "given", "more", "error", "said"),
    [
        (nn.Sequential(nn.ReLU()), presets.ideal, inputs(), {}, ConversionError, "nothing of"),
        (mlp(), presets.rasch2023, random(4, 9), {}, ShapeError, r"\(4, 9\); allowed: \[..., 12\]"),
        (normed(), presets.rasch2023, random(4, 9), {}, ShapeError, "does not take these inputs"),
        (mlp(), presets.rasch2023, {"x": inputs()}, {}, ShapeError, "keyword"),
        (mlp(), presets.rasch2023, [], {}, UsageError, "empty list"),
        (mlp(), presets.rasch2023, None, {}, UsageError, "needs inputs"),
        (mlp(), LAYER, inputs(), {}, CapabilityError, "weight_scaling"),
        (mlp().double(), presets.rasch2023, inputs().double(), {}, CapabilityError, "float64"),
        (
            mlp(),
            presets.rasch2023,
            inputs(),
            {"budget": 0.01},  # less than any machine takes to predict
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
    model: Any, preset: Any, given: Any, more: dict[str, Any], error: type[Exception], said: str
) -> None:
    full = {"samples": 1_000_000} if "budget" in more else {}
    with pytest.raises(error, match=said):
        crosscheck(model, preset, given, **{**QUICK, **full, **more})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_where_there_is_none() -> None:
    with pytest.raises(UsageError, match="device='cuda': torch sees no CUDA device"):
        crosscheck(mlp(), presets.rasch2023, inputs(), device="cuda", **QUICK)


@pytest.mark.cuda
def test_the_native_side_runs_on_a_gpu() -> None:
    """What is equal on a CPU is equal there: outputs with the same weights, to 1e-5."""
    more = {"levels": ("layer", "task"), "evaluate": mean_output, "device": "cuda"}
    found = crosscheck(mlp(), presets.rasch2023, inputs(), **{**QUICK, **more})
    table = found.table.set_index(["quantity"])
    assert set(table.loc["outputs, ADC off"]["verdict"]) == {"equivalent"}
    assert table["p_different"].min() > FALSE_ALARM
    assert any("on cuda" in note for note in found.notes)


def test_against_and_physics_are_two_questions() -> None:
    with pytest.raises(UsageError, match="two questions"):
        crosscheck(None, presets.ideal, against=presets.hermes, physics=Scalar)
    with pytest.raises(UsageError, match="of the native engine"):
        crosscheck(None, presets.ideal, physics=Scalar(), compiled=True)


# --- budget and resume ----------------------------------------------------------------------------


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
