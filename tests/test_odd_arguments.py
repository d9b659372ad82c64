"""Arguments that cannot be meant: our error, before any work."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import presets
from aimc_bridge import calibrate, convert, drift, program, sweep
from aimc_bridge.errors import AimcError, ConversionError, SpecError, UsageError
from presets import rasch2023
from tests.models import QUIET, mlp, random

HUGE = (10**400, -(10**400), 10**5000)


def never(model: nn.Module) -> float:
    raise AssertionError("work was done")


@pytest.fixture(scope="module")
def analog() -> nn.Module:
    model = convert(mlp(), QUIET)
    calibrate(model, [random(6, 12)])
    return model


ODD: list[dict[str, Any]] = [
    *({"times": times} for times in (None, True, object(), [None], (), [-1], *HUGE, [HUGE[0]])),
    *({"chips": chips} for chips in (0, -1, 2.5, None, True, *HUGE)),
    *({"seed": seed} for seed in (None, 0.5, "1", True, *HUGE)),
    *({"executor": executor} for executor in (0, -2, 1.5, True, 10**9, *HUGE)),
    *({"executor": "loky", "workers": workers} for workers in (0, -2, None, 1.5, True, *HUGE)),
    {"draw_on": None},
    {"resume": 3},
    {"resume": "/proc/none/rows.csv"},
    {"resume": "/"},
    {"resume": __file__ + "/rows.csv"},
    {"resume": "/tmp/a\udcff.csv"},
]


@pytest.mark.parametrize("arguments", ODD, ids=lambda a: str(sorted(a)))
def test_a_sweep_refuses_them_before_any_work(analog: nn.Module, arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        sweep(analog, never, progress=False, **arguments)
    assert "allowed" in str(caught.value) or "resume" in str(caught.value) + str(arguments)
    assert len(str(caught.value)) < 700


def test_a_resume_path_that_is_refused_or_tried_leaves_nothing(
    analog: nn.Module, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match="work was done"):
        sweep(analog, never, resume=tmp_path / "new" / "deep" / "rows.csv", progress=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", HUGE, ids=["positive", "negative", "long"])
def test_huge_seeds_and_times_of_a_chip(analog: nn.Module, number: int) -> None:
    with pytest.raises(UsageError, match="seed=.*allowed: an integer"):
        program(analog, seed=number)
    program(analog, seed=2**128)
    with pytest.raises(UsageError, match="is not understood; allowed: seconds"):
        drift(analog, number)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_layers_without_cells(shape: tuple[int, int], engine: str) -> None:
    with pytest.raises(ConversionError, match="empty"):
        convert(nn.Sequential(nn.Linear(*shape)), QUIET, engine=engine)


@pytest.mark.parametrize("field", ["g_max_us", "prog_noise_scale", "t0_s"])
@pytest.mark.parametrize(
    "value", [*HUGE, float("inf"), True], ids=lambda value: type(value).__name__
)
def test_huge_numbers_of_a_preset(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match="allowed"):
        rasch2023.change(why="test", **{field: value})
    data = rasch2023.to_dict()
    data["pcm"]["values"][field] = value
    with pytest.raises(SpecError, match=field):
        presets.Preset.from_dict(data)


@pytest.mark.parametrize(
    "text", ["1e400", "1" + "0" * 400, "1" + "0" * 5000, "true", "NaN"], ids=lambda text: text[:9]
)
def test_huge_numbers_in_preset_files(text: str, tmp_path: Path) -> None:
    data = json.dumps({**rasch2023.to_dict(), "name": "mine"})
    path = tmp_path / "mine.json"
    path.write_text(data.replace('"g_max_us": 25.0', f'"g_max_us": {text}', 1))
    assert text in path.read_text()
    with pytest.raises(AimcError, match="mine.json"):
        presets.load(path)


def test_ctrl_c_while_a_command_is_imported_is_quiet() -> None:
    code = (
        "import sys, builtins, benchmarks.__main__ as m\n"
        "def stop(name): raise KeyboardInterrupt\n"
        "m.importlib.import_module = stop\n"
        "sys.exit(m.main(['run']))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "interrupted\n")
