"""Sweeps: chips x times to a table; seeds, interruption, other processes, bad input."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, drift, program, sweep
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CapabilityError, DataError, StateError, UsageError
from presets import rasch2023
from tests.models import DEVICES, RANGED, linear, mlp, random

TIMES = ("1s", "1h", "1d")
SECONDS = [1.0, 3600.0, 86400.0]


def size(model: nn.Module) -> float:
    """Return the mean |output|, with product noise if the preset has any."""
    with torch.no_grad():
        return float(model(random(20, 12)).abs().mean())


def two_metrics(model: nn.Module) -> dict[str, float]:
    return {"size": size(model), "null": size(model)}


def make(engine: str) -> nn.Module:
    """Return a model, with noisy products if the engine's products follow torch's generator."""
    analog = convert(mlp(), rasch2023 if engine == "native" else DEVICES, engine=engine).eval()
    calibrate(analog, [random(20, 12)])
    return analog


def run(model: nn.Module, evaluate: Callable[..., Any] = size, **options: Any) -> pd.DataFrame:
    return sweep(model, evaluate, **{"times": TIMES, "chips": 3, "progress": False, **options})


def assert_restored(model: nn.Module) -> None:
    with pytest.raises(StateError, match="no chip is programmed"):
        drift(model, 1.0)
    for matrix in matrices_of(model).values():
        assert torch.equal(matrix.alpha(), torch.ones_like(matrix.alpha()))


def test_table(engine: str) -> None:
    """The table has one sorted row per chip, time and metric; chip i has seed `seed + i`."""
    model = make(engine)
    table = run(model, two_metrics, seed=5, times=("1d", "1s", 3600, "1h"))
    assert list(table.columns) == ["chip", "seed", "t_inference", "metric", "value"]
    assert list(table.metric) == ["null"] * 9 + ["size"] * 9
    assert list(table.chip) == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2
    assert list(table.seed) == [5 + chip for chip in table.chip]
    assert list(table.t_inference) == SECONDS * 6
    assert table.value.nunique() == (18 if engine == "native" else 9)
    assert_restored(model)


def test_values_are_those_of_program_and_drift(engine: str) -> None:
    model = convert(mlp(), DEVICES, engine=engine).eval()
    table = run(model, seed=7)
    for row in table.itertuples():
        program(model, row.seed)
        drift(model, row.t_inference)
        assert size(model) == row.value


def test_a_number_is_a_metric(engine: str) -> None:
    table = run(make(engine), lambda model: torch.tensor(0.5), times=60, chips=1)
    assert table.values.tolist() == [[0, 0, 60.0, "metric", 0.5]]


def test_the_same_sweep_twice(engine: str) -> None:
    """The generator's state does not matter, and it is left as it was."""
    model = make(engine)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(model)
    if engine == "native":
        assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    pd.testing.assert_frame_equal(run(model), first, check_exact=True)
    other = run(model, seed=100)
    assert not set(other.value) & set(first.value)


def test_a_chip_does_not_depend_on_how_many(engine: str) -> None:
    model = make(engine)
    three, alone = run(model), run(model, chips=1)
    pd.testing.assert_frame_equal(three[three.chip == 0], alone, check_exact=True)
    shifted = run(convert(mlp(), DEVICES, engine=engine).eval(), chips=1, seed=2)
    rows = run(convert(mlp(), DEVICES, engine=engine).eval())
    assert list(rows[rows.chip == 2].value) == list(shifted.value)


class Failing:
    """An evaluation that raises at its n-th call."""

    def __init__(self, at: int, error: BaseException) -> None:
        self.calls, self.at, self.error = 0, at, error

    def __call__(self, model: nn.Module) -> dict[str, float]:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return two_metrics(model)


@pytest.mark.parametrize("error", [OSError("disk"), KeyboardInterrupt()])
def test_interrupted_and_resumed(engine: str, error: BaseException, tmp_path: Path) -> None:
    """Whole chips are stored, bit for bit; the rest is computed, and no more."""
    whole = run(make(engine), two_metrics)
    model, file = make(engine), tmp_path / "sub" / "sweep.csv"
    with pytest.raises(type(error)):
        run(model, Failing(5, error), resume=file)  # This is in the second chip.
    assert_restored(model)
    assert [path.name for path in file.parent.iterdir()] == ["sweep.csv"]
    finished = pd.read_csv(file)
    assert set(finished.chip) == {0} and len(finished) == 6
    again = Failing(-1, error)
    table = run(model, again, resume=file)
    assert again.calls == 6
    pd.testing.assert_frame_equal(table, whole, check_exact=True)
    pd.testing.assert_frame_equal(
        run(model, again, resume=file), whole, check_exact=True
    )  # all from the file
    assert again.calls == 6
    fewer = run(model, again, resume=file, chips=1)
    assert again.calls == 6 and set(fewer.chip) == {0}
    more = run(model, again, resume=file, chips=4)
    assert again.calls == 9 and set(more.chip) == {0, 1, 2, 3}


def test_more_times_and_chips(engine: str, tmp_path: Path) -> None:
    """A file grows by the times and chips it lacks.

    It ends as one sweep over all would have made it.
    """
    whole = run(make(engine), two_metrics, times=("1s", "1h", "1d", "1y"), chips=3)
    model, file = make(engine), tmp_path / "sweep.csv"
    count = Failing(-1, OSError())
    run(model, count, times=("1h", "1y"), chips=2, resume=file)
    assert count.calls == 4
    some = run(model, count, times=("1d", "1h"), chips=1, resume=file)
    assert count.calls == 5 and set(some.chip) == {0} and set(some.t_inference) == {3600.0, 86400.0}
    table = run(model, count, times=("1s", "1h", "1d", "1y"), chips=3, resume=file)
    assert count.calls == 12
    pd.testing.assert_frame_equal(table, whole, check_exact=True)


def test_not_a_number_is_a_value(engine: str, tmp_path: Path) -> None:
    """A diverged chip's NaN or infinity survives a resume."""
    file = tmp_path / "sweep.csv"
    values = {"a": float("nan"), "b": float("inf"), "nan": 0.1 + 0.2, "": 1e-300}
    first = run(make(engine), lambda m: values, resume=file, chips=1)
    second = run(make(engine), lambda m: {}, resume=file, chips=1)
    pd.testing.assert_frame_equal(first, second, check_exact=True)


def test_resume_file_of_another_sweep(engine: str, tmp_path: Path) -> None:
    model, file = convert(mlp(), DEVICES, engine=engine).eval(), tmp_path / "sweep.csv"
    run(model, two_metrics, resume=file, chips=1)
    text = file.read_text()
    weights = convert(
        nn.Sequential(linear(12, 16, 5), nn.ReLU(), linear(16, 5, 2)), DEVICES, engine
    )
    preset = convert(mlp(), DEVICES.change(t0_s=10.0, why="test"), engine)
    for options in (
        {"seed": 1},
        {"model": weights.eval()},
        {"model": preset.eval()},
    ):
        with pytest.raises(DataError, match="rows of another sweep .* give resume= a new file"):
            run(**{"model": model, "resume": file, "chips": 1, **options})  # type: ignore
        assert file.read_text() == text
    short = "".join(text.splitlines(keepends=True)[:-1])  # The last time lacks a metric.
    for bad in ("", "a,b\n1,2\n", text[: len(text) // 2], '"', short):
        file.write_text(bad)
        with pytest.raises(DataError, match=r"sweep\.csv: "):
            run(model, resume=file, chips=1)
        assert file.read_text() == bad


def test_other_processes(engine: str) -> None:
    """The table is the same as in this process, noise of products included."""
    model = make(engine)
    alone = run(model, two_metrics, chips=4)
    program(model, 3)  # This chip must not travel along.
    pd.testing.assert_frame_equal(
        run(model, two_metrics, chips=4, executor=2), alone, check_exact=engine == "native"
    )
    assert_restored(model)


def test_threads_give_what_one_after_another_does(engine: str) -> None:
    """They share torch's generator, and take turns."""
    model = make(engine)
    assert run(model, executor="threading", workers=3, chips=6).equals(run(model, chips=6))


def test_a_resumed_sweep_knows_ranges_digital_layers_and_how_chips_are_drawn(
    engine: str, tmp_path: Path
) -> None:
    """Rows from before a change are refused.

    A table would mix them up.
    """
    digital = nn.Sequential(nn.BatchNorm1d(12), *mlp()).eval()
    model = convert(digital, rasch2023 if engine == "native" else RANGED, engine=engine).eval()
    calibrate(model, [random(20, 12)])
    file = tmp_path / "sweep.csv"
    before = run(model, resume=file)
    assert run(model, resume=file).equals(before)
    for matrix in matrices_of(model).values():
        ranges = matrix.input_ranges()
        assert ranges is not None
        matrix.set_input_ranges(2 * ranges)
        with pytest.raises(DataError, match="another sweep"):
            run(model, resume=file)
        matrix.set_input_ranges(ranges)
        assert run(model, resume=file).equals(before)
    statistics = model.get_submodule("0").running_mean
    statistics += 1.0
    with pytest.raises(DataError, match="another sweep"):
        run(model, resume=file)
    statistics -= 1.0
    with pytest.raises(DataError, match="another sweep"):
        run(model, resume=file, draw_on="device")
    with pytest.raises(UsageError, match="draw_on='gpu'; allowed"):
        run(model, resume=file, draw_on="gpu")
    assert run(model, resume=file).equals(before)


def test_numpy_integers_are_integers(engine: str) -> None:
    model = make(engine)
    expected = run(model, seed=5, chips=2)
    assert run(model, seed=np.int64(5), chips=np.int32(2)).equals(expected)
    program(model, np.int64(5))


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (0.975, "0.975 at 1y"),
        ({"accuracy": 0.975, "loss": 0.1}, "97.5 % at 1y"),
        ({"accuracy": 97.5, "loss": 0.1}, "accuracy 97.5 at 1y"),
        ({"perplexity": 88.1234, "accuracy": 0.3}, "perplexity 88.12 at 1y"),
    ],
)
def test_the_bar_says_what_the_last_chip_gave(
    result: object, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows the first metric at the last time.

    It is on standard error alone; without progress nothing is printed.
    """
    table = run(make("native"), lambda m: result, chips=2, times=("1h", "1y"), progress=True)
    out, err = capsys.readouterr()
    line = err.strip().splitlines()[-1]
    assert out == "" and line.startswith("chips") and f"2/2 {text}" in line
    quiet = run(make("native"), lambda m: result, chips=2, times=("1h", "1y"))
    assert capsys.readouterr() == ("", "") and quiet.equals(table)


def test_unknown_executor() -> None:
    model = make("native")
    with pytest.raises(UsageError, match="executor='slurm'; allowed: None, a number"):
        run(model, executor="slurm")
    pool: Any = object()
    with pytest.raises(UsageError, match="executor=<object .*; allowed: None, a number"):
        run(model, executor=pool)
    assert_restored(model)


@pytest.mark.parametrize("chips", [0, -1, 2.5, True, "3", None])
def test_bad_chips(chips: object) -> None:
    with pytest.raises(UsageError, match=f"chips={chips!r}; allowed: an integer >= 1"):
        run(make("native"), chips=chips)


@pytest.mark.parametrize("times", [("1s", "-5"), (-5,), (float("nan"),), "1 fortnight", ["", "1s"]])
def test_bad_times(times: Any) -> None:
    with pytest.raises(UsageError, match="is not understood; allowed: seconds >= 0"):
        run(make("native"), times=times)


def test_no_times() -> None:
    with pytest.raises(UsageError, match="no times; allowed: one or more"):
        run(make("native"), times=())


@pytest.mark.parametrize("result", [None, {}, "0.5 %", {"accuracy": None}, [1.0]])
def test_results_that_are_no_numbers(result: object) -> None:
    model = make("native")
    with pytest.raises(UsageError, match="allowed: a number, or a dict of named numbers"):
        run(model, lambda m: result)
    assert_restored(model)


def test_models_that_cannot_be_swept(engine: str) -> None:
    with pytest.raises(CapabilityError, match="not a converted model"):
        run(mlp())
    if engine == "native":
        model = make(engine).train()
        with pytest.raises(StateError, match=r"model\.eval\(\) before inference"):
            run(model)
        assert_restored(model)
