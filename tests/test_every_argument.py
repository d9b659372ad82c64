"""Every public function, argument by argument, with values that cannot be meant.

Whatever is given: the function works, or it raises an AimcError of one line. No error of Python,
numpy or torch comes out from inside.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import presets
from aimc_bridge import (
    HWATraining,
    calibrate,
    chip_conductances,
    convert,
    coverage,
    crosscheck,
    devices,
    drift,
    handles,
    hardware_aware,
    load_chip,
    native,
    physics,
    plot,
    program,
    reestimate_batchnorm,
    restore,
    save_chip,
    sweep,
    train,
    transfer,
)
from aimc_bridge.arguments import choice, flag, integer, number, texts
from aimc_bridge.arguments import path as path_of
from aimc_bridge.errors import AimcError, ConversionError, UsageError
from aimc_bridge.times import seconds
from presets import rasch2023
from tests.models import QUIET, mlp, random


class Strange:
    """An object that lets nobody look at it."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


ODD: dict[str, Any] = {
    "None": None,
    "True": True,
    "0": 0,
    "-1": -1,
    "1.5": 1.5,
    "NaN": math.nan,
    "inf": math.inf,
    "10^400": 10**400,
    "-10^400": -(10**400),
    "10^5000": 10**5000,
    "empty text": "",
    "a text": "x",
    "zero byte": "\0",
    "surrogate": "\udcff",
    "bytes": b"x",
    "empty": (),
    "list": [],
    "list of None": [None],
    "list of huge": [10**5000],
    "list of NaN": [math.nan],
    "dict": {1: 2},
    "dict of texts": {"x": "y"},
    "dict of huge": {10**5000: 10**5000},
    "object": object(),
    "strange": Strange(),
    "Decimal": Decimal("1.5"),
    "Decimal NaN": Decimal("sNaN"),
    "Fraction": Fraction(1, 3),
    "complex": 1j,
    "numpy integer": np.int64(3),
    "numpy NaN": np.float32("nan"),
    "array": np.array([1.0, 2.0]),
    "array of texts": np.array(["a"]),
    "0-d tensor": torch.tensor(2),
    "tensor": torch.tensor([1.0, 2.0]),
    "tensor of NaN": torch.tensor(math.nan),
    "empty tensor": torch.empty(0),
    "tensor of truth": torch.tensor([True]),
    "complex tensor": torch.ones(2, 3, dtype=torch.complex64),
    "function": lambda: 3,
    "type": int,
    "module type": nn.Module,
    "module": nn.Linear(3, 2),
    "empty module": nn.Sequential(),
    "range": range(0),
}


class Case(NamedTuple):
    """A public function with arguments that are right.

    Attributes:
        function: The function.
        arguments: Its arguments by name; a `Fresh` one is made again for every call.
        only: The arguments that get odd values; None stands for all of them.
    """

    function: Callable[..., Any]
    arguments: dict[str, Any]
    only: tuple[str, ...] | None = None


class Fresh(NamedTuple):
    """An argument that the function may change or use up."""

    make: Callable[[], Any]


INPUTS = random(6, 12)
RECIPE = HWATraining.for_(rasch2023).override(epochs=1)
CELLS = torch.full((3, 4), 10.0)
NOISE = random(3, 4)


def analog() -> nn.Module:
    """Return a converted and calibrated model."""
    model = convert(mlp(), QUIET)
    calibrate(model, [INPUTS])
    return model


BASE, CHIP = analog(), analog()
program(CHIP, 1)
TABLE = pd.DataFrame({"chip": [0], "seed": [0], "t_inference": [1.0], "metric": "m", "value": [1]})
FRAME = pd.DataFrame(
    {"target_us": [0.0, 25.0], "t_s": [1.0, 1.0], "mean_us": [0.0, 24.0], "sd_us": [0.0, 1.0]}
)


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """Return a loss of the outputs."""
    value: torch.Tensor = model(batch).square().mean()
    return value


def in_own_loop(**arguments: Any) -> None:
    """Open and close a training in a loop of one's own."""
    with hardware_aware(**arguments):
        pass


def calibrated_by(method: str) -> Callable[..., None]:
    """Return `calibrate` with a method."""
    return lambda **arguments: calibrate(BASE, [INPUTS], method, **arguments)


def sgd() -> torch.optim.Optimizer:
    """Return an optimizer of the model."""
    return torch.optim.SGD(BASE.parameters(), lr=0.01)


CASES = {
    "convert": Case(
        convert,
        {"model": Fresh(mlp), "preset": QUIET, "engine": "native", "exclude": (), "strict": True}
        | {"overrides": None, "handlers": None},
    ),
    "coverage": Case(coverage, {"model": BASE, "inputs": INPUTS}),
    "calibrate": Case(calibrate, {"model": BASE, "batches": [INPUTS], "method": "max"}),
    "percentile": Case(calibrated_by("percentile"), {"percentile": 99.0, "out_percentile": None}),
    "std": Case(calibrated_by("std"), {"sd": 3.0}),
    "a batch": Case(lambda batch: calibrate(BASE, [batch]), {"batch": INPUTS}),
    "program": Case(program, {"model": CHIP, "seed": 1, "draw_on": "cpu"}),
    "drift": Case(drift, {"model": CHIP, "t_inference": 1.0}),
    "restore": Case(restore, {"model": BASE}),
    "save_chip": Case(save_chip, {"model": CHIP, "path": "chip.safetensors"}),
    "load_chip": Case(load_chip, {"model": CHIP, "path": "none.safetensors"}),
    "chip_conductances": Case(chip_conductances, {"model": CHIP, "layers": None}),
    "transfer": Case(transfer, {"analog": BASE, "engine": "native"}),
    "handles": Case(lambda kind: handles(kind), {"kind": nn.Bilinear}),
    "sweep": Case(
        sweep,
        {"model": BASE, "evaluate": lambda model: 1.0, "times": ("1s",), "chips": 1, "seed": 0}
        | {"resume": None, "workers": -1, "draw_on": "cpu", "progress": False},
        ("model", "evaluate", "times", "seed", "resume", "workers", "draw_on", "progress"),
    ),
    "plot": Case(
        plot,
        {"table": TABLE, "digital": 0.5, "samples": 10, "lower_is_better": None, "caption": ""},
        ("table", "digital", "samples", "caption"),
    ),
    "reestimate_batchnorm": Case(reestimate_batchnorm, {"model": BASE, "batches": [INPUTS]}),
    "HWATraining": Case(HWATraining, {"name": "x", "spec": RECIPE.spec}),
    "HWATraining.for_": Case(HWATraining.for_, {"preset": rasch2023, "name": "default"}),
    "HWATraining.override": Case(RECIPE.override, {"why": "x", "epochs": 1, "noise_scale": 1.0}),
    "train": Case(
        train,
        {"model": Fresh(analog), "loader": [INPUTS], "loss": loss, "recipe": RECIPE}
        | dict.fromkeys(("teacher", "optimizer", "validate", "validate_every", "chance_loss"))
        | dict.fromkeys(("folder", "carried", "split"))
        | {"seed": 0, "max_batches": 1, "progress": False, "keep": "last"}
        | {"checkpoint_every": 500, "resume": False},
    ),
    "hardware_aware": Case(
        in_own_loop,
        {"model": BASE, "recipe": RECIPE, "optimizers": Fresh(sgd), "seed": 0, "batches": 1}
        | {"seed_torch": True, "alone": False},
    ),
    "crosscheck": Case(
        crosscheck,
        {"model": None, "preset": QUIET, "inputs": None, "times": ("1s",), "chips": 4}
        | dict.fromkeys(("against", "physics", "trained", "evaluate", "task_chips", "layers"))
        | dict.fromkeys(("margins", "budget", "resume"))
        | {"reference": "aihwkit", "levels": "device", "exclude": (), "targets": (0.0,)}
        | {"samples": 100, "compiled": False, "device": "cpu", "workers": 1, "progress": False},
        ("model", "preset", "times", "chips", "reference", "levels", "targets", "samples")
        + ("margins", "budget", "device", "workers", "compiled", "exclude", "layers", "task_chips"),
    ),
    "devices.get": Case(devices.get, {"name": "ideal"}),
    "Faults": Case(devices.Faults, {"stuck_at_gmax": 0.0, "dead_rows": 0.0}),
    "TableDevice.from_csv": Case(
        devices.TableDevice.from_csv, {"path": "none.csv", "g_max_us": 25.0, "source": "s"}
    ),
    "TableDevice.from_frame": Case(
        devices.TableDevice.from_frame,
        {"frame": FRAME, "g_max_us": 25.0, "source": "s", "extrapolate": False, "netting": False},
    ),
    "TableDevice.from_arrays": Case(
        devices.TableDevice.from_arrays,
        {name: FRAME[name].tolist() for name in FRAME}
        | {"prog_sd_us": None, "read_sd_us": None, "g_max_us": 25.0, "source": "s"},
    ),
    "sigma_prog_us": Case(physics.sigma_prog_us, {"g_us": CELLS, "pcm": rasch2023.pcm}),
    "programmed": Case(physics.programmed, {"g_us": CELLS, "pcm": rasch2023.pcm, "eps": NOISE}),
    "drift_exponent": Case(
        physics.drift_exponent, {"g_us": CELLS, "pcm": rasch2023.pcm, "eps": NOISE}
    ),
    "drifted": Case(
        physics.drifted, {"g_prog_us": CELLS, "nu": CELLS, "t_s": 60.0, "pcm": rasch2023.pcm}
    ),
    "read_sigma": Case(physics.read_sigma, {"g_prog_us": CELLS, "t_s": 60.0, "pcm": rasch2023.pcm}),
    "read": Case(
        physics.read,
        {"g_drift_us": CELLS, "g_prog_us": CELLS, "t_s": 60.0, "pcm": rasch2023.pcm, "eps": NOISE},
    ),
    "native.compiled": Case(native.compiled, {"model": BASE, "on": False}, ("model",)),
    "native.side_precision": Case(native.side_precision, {"model": BASE, "dtype": None}),
    "presets.get": Case(presets.get, {"name": "ideal"}),
    "presets.register": Case(presets.register, {"preset": rasch2023}),
    "presets.load": Case(presets.load, {"path": "none.toml"}),
    "presets.save": Case(presets.save, {"preset": rasch2023, "path": "preset.toml"}),
    "Preset.change": Case(
        rasch2023.change,
        {"why": "x", "name": "n", "g_max_us": 25.0, "adc_bits": 8, "faults": devices.Faults()},
    ),
    "Preset.with_device": Case(
        rasch2023.with_device, {"device": "ideal", "name": "n", "why": "x", "faults": None}
    ),
    "Preset.from_dict": Case(presets.Preset.from_dict, {"data": rasch2023.to_dict()}),
    "Preset.diff": Case(rasch2023.diff, {"other": rasch2023}),
    "Preset.rpu_config": Case(rasch2023.rpu_config, {"tile": "auto", "training": None, "drop": ()}),
}


CALLED = ("evaluate", "loss", "validate", "split", "teacher")


def arguments_of(case: Case) -> dict[str, Any]:
    """Return the arguments of a call."""
    return {k: v.make() if isinstance(v, Fresh) else v for k, v in case.arguments.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("name", "argument"),
    [(name, one) for name, case in CASES.items() for one in case.only or case.arguments],
)
def test_a_public_function_works_or_raises_one_line_of_ours(
    name: str, argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = []
    for what, value in ODD.items():
        if argument in CALLED and callable(value):
            continue  # it is called, and its own errors come out
        try:
            CASES[name].function(**{**arguments_of(CASES[name]), argument: value})
        except AimcError as error:
            if "\n" in str(error) or len(str(error)) > 1500:
                wrong.append(f"{what}: {str(error)[:300]!r}")
        except Exception as error:  # noqa: BLE001 - what comes out is the question
            wrong.append(f"{what}: {type(error).__name__}: {error}"[:300])
    assert not wrong, "\n".join(wrong)


# --- what is accepted and refused -----------------------------------------------------------------


@pytest.mark.parametrize("value", [3, np.int64(3), torch.tensor(3), np.array(3)], ids=repr)
def test_integers_of_every_library(value: Any) -> None:
    number_of = integer("n", value)
    assert number_of == 3 and type(number_of) is int


@pytest.mark.parametrize(
    "value",
    [True, np.bool_(True), torch.tensor(True), 1.0, torch.tensor([3]), "3", Decimal(3), 10**400],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_integer(value: Any) -> None:
    with pytest.raises(UsageError, match="^n=.*; allowed: an integer"):
        integer("n", value)


def test_an_integer_has_bounds() -> None:
    assert integer("n", 2, least=2, most=2) == 2
    with pytest.raises(UsageError, match="^n=1; allowed: an integer >= 2$"):
        integer("n", 1, least=2)
    with pytest.raises(UsageError, match="^n=3; allowed: an integer up to 2$"):
        integer("n", 3, most=2)


@pytest.mark.parametrize(
    "value", [0.5, np.float32(0.5), torch.tensor(0.5), Fraction(1, 2), Decimal("0.5")], ids=repr
)
def test_numbers_of_every_library(value: Any) -> None:
    size = number("x", value, above=0, most=0.5)
    assert size == 0.5 and type(size) is float


@pytest.mark.parametrize(
    "value",
    [0, 0.6, math.nan, True, "0.5", [0.5], 1j, 10**400, 10**5000],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_number_within_bounds(value: Any) -> None:
    with pytest.raises(UsageError, match="; allowed: a finite number > 0 and <= 0.5$"):
        number("x", value, above=0, most=0.5)


def test_flags_choices_texts_and_paths(tmp_path: Path) -> None:
    assert flag("f", np.bool_(True)) is True and flag("f", False) is False
    for value in (None, 0, "yes", torch.tensor([True])):
        with pytest.raises(UsageError, match="allowed: True, False$"):
            flag("f", value)
    assert choice("c", "a", ("a", "b")) == "a"
    with pytest.raises(UsageError, match="^c=None; allowed: 'a', 'b'$"):
        choice("c", None, ("a", "b"))
    assert texts("t", "a") == ["a"] and texts("t", ("a", "b")) == ["a", "b"]
    with pytest.raises(UsageError, match="^t=b'a'; allowed: a text, or a list of texts$"):
        texts("t", b"a")
    assert path_of("p", os.fspath(tmp_path)) == tmp_path
    with pytest.raises(UsageError, match="^p=''; allowed: a path"):
        path_of("p", "")


@pytest.mark.parametrize("value", [Decimal("1.5"), torch.tensor(1.5), "1.5 fortnights", b"1s"])
def test_times_that_are_none(value: Any) -> None:
    with pytest.raises(UsageError, match="is not understood; allowed: seconds >= 0"):
        seconds(value)


# --- models ---------------------------------------------------------------------------------------


def meta() -> nn.Module:
    """Return a layer without memory."""
    return nn.Linear(4, 3, device="meta")


def holding(value: float | torch.Tensor) -> Callable[[], nn.Module]:
    """Return a function that makes a layer whose weights are one value or one tensor."""

    def make() -> nn.Module:
        layer = nn.Linear(4, 3)
        if isinstance(value, torch.Tensor):
            layer.weight = nn.Parameter(value, requires_grad=False)
        else:
            nn.init.constant_(layer.weight, value)
        return layer

    return make


ODD_MODELS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "no input": (lambda: nn.Linear(0, 4), "empty weight"),
    "no output": (lambda: nn.Linear(4, 0), "empty weight"),
    "no channel": (lambda: nn.Conv2d(0, 4, 3), "empty weight"),
    "no output channel": (lambda: nn.Conv1d(4, 0, 3), "empty weight"),
    "no layer": (nn.Sequential, "nothing of Sequential was converted"),
    "no analog layer": (lambda: nn.Sequential(nn.ReLU()), "nothing of Sequential was converted"),
    "meta": (meta, "no values yet"),
    "lazy": (lambda: nn.LazyLinear(3), "no values yet"),
    "NaN": (holding(math.nan), "NaN or infinite values"),
    "infinite": (holding(math.inf), "NaN or infinite values"),
    "integers": (holding(torch.ones(3, 4, dtype=torch.int32)), "dequantise"),
    "truth": (holding(torch.ones(3, 4, dtype=torch.bool)), "dequantise"),
    "complex": (holding(torch.ones(3, 4, dtype=torch.complex64)), "complex64"),
}


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors", "ignore:Lazy modules")
@pytest.mark.parametrize("name", ODD_MODELS)
def test_models_that_cannot_be_converted(name: str, engine: str) -> None:
    make, complaint = ODD_MODELS[name]
    model = make()
    with pytest.raises(ConversionError, match=complaint) as caught:
        convert(model, QUIET, engine=engine)
    assert "\n" not in str(caught.value)


def test_a_compiler_that_nobody_knows() -> None:
    for value in ("x", None, 1, "\0"):
        with pytest.raises(UsageError, match=r"^compile.*=.*; allowed: "):
            train(analog(), [INPUTS], loss, recipe=RECIPE, progress=False, compile=value)
