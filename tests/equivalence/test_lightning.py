"""The native engine against aihwkit-lightning: what agrees, what is defined otherwise, faults."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import crosscheck
from aimc_bridge.engines.native import backward, forward, input_range
from aimc_bridge.equivalence import (
    Report,
    against_lightning,
    capture,
    lightning_quantities,
    lightning_side,
)
from aimc_bridge.equivalence.against_lightning import DEFINED, AgainstLightning
from aimc_bridge.equivalence.comparison import layer_findings
from aimc_bridge.equivalence.measuring import Sampling
from aimc_bridge.errors import CapabilityError, UsageError, VersionError
from aimc_bridge.physics import injection
from aimc_bridge.spec import Preset
from tests.models import linear, random

MODEL = nn.Sequential(linear(24, 20), nn.ReLU(), linear(20, 7)).eval()
INPUTS = random(200, 24)
SPLIT = presets.rasch2023.change(max_rows=12, why="two row tiles, in tests")


def installed() -> bool:
    try:
        lightning_side.part("nn")
    except VersionError:
        return False
    return True


needs_lightning = pytest.mark.skipif(not installed(), reason="aihwkit-lightning cannot be used")


@pytest.fixture(autouse=True)
def few_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare fewer outputs without chance: a fault is in all of them."""
    monkeypatch.setattr(lightning_quantities, "EXACT_OUTPUTS", 20_000)


def layer_report(preset: Preset, draws: int = 160, name: str = "0") -> Report:
    """Compare one layer of the model, with draws of the noise."""
    comparison = AgainstLightning(preset)
    native = [_converted(preset)]
    (chosen,) = capture.chosen(capture.layers_of(native[0], MODEL, [INPUTS]), [name])
    sampling = Sampling((1.0,), draws, 1)
    found = layer_findings(comparison, chosen, sampling)
    return Report.of([found], comparison.names)


def _converted(preset: Preset) -> nn.Module:
    from aimc_bridge import convert

    native = convert(MODEL, preset).eval()
    capture.calibrated(native, [INPUTS])
    return native


def different(report: Report) -> set[str]:
    """Return the quantities that differ and are not defined otherwise."""
    rows = report.different
    return set(rows["quantity"][rows["reference"] != DEFINED])


@needs_lightning
@pytest.mark.parametrize("scaling", ["column", "tile"])
def test_one_tile_differs_in_the_gradient_of_clipped_inputs_alone(scaling: str) -> None:
    preset = presets.rasch2023.change(weight_scaling=scaling, why="in tests")
    report = layer_report(preset)
    assert set(report.different["quantity"]) == {"gradient of clipped inputs"}
    assert different(report) == set()
    rows = report.table.set_index("quantity")
    assert rows.loc["gradient of clipped inputs", "reference"] == DEFINED
    assert rows.loc["outputs, ADC off", "first"] < 1e-6
    assert rows.loc["outputs off by more", "first"] == 0
    # the noise that both sides were given: 0.04 of the range and the largest weight of a column
    assert rows.loc["read sd", "verdict"] != "different"
    exact = {"outputs, narrow ADC", "gradient of inputs inside", "gradient of input ranges"}
    assert set(rows.loc[list(exact), "verdict"]) == {"equivalent"}


@needs_lightning
def test_noise_of_several_row_tiles_is_defined_otherwise() -> None:
    """aihwkit-lightning divides the noise of each of n slices by the root of n."""
    preset = SPLIT.change(adc_bits=None, why="noise alone, in tests")
    report = layer_report(preset)
    rows = report.table.set_index("quantity")
    ratio = float(rows.loc["read sd", "second"] / rows.loc["read sd", "first"])
    assert abs(ratio * 2**0.5 - 1) < 0.02
    assert rows.loc["read sd", "reference"] == DEFINED
    assert different(report) == set()


@needs_lightning
def test_the_last_step_of_the_adc_counts_as_clipped_here_alone() -> None:
    """With finer steps, fewer outputs are on the last one, and the difference vanishes."""
    distances = []
    for bits in (8, 12):
        preset = presets.rasch2023.change(adc_bits=bits, out_bound=1.5, why="in tests")
        rows = layer_report(preset, 8).table.set_index("quantity")
        assert rows.loc["gradient of inputs inside, ADC on", "reference"] == DEFINED
        assert rows.loc["gradient of inputs inside", "second"] < 1e-5
        distances.append(float(rows.loc["gradient of inputs inside, ADC on", "second"]))
    assert distances[0] > 0.02 and distances[1] < 0.2 * distances[0]


def unscaled(weight: Tensor, largest: Any, pcm: Any, recipe: Any, *rest: Any) -> Tensor:
    """Inject noise of four fifths of the size."""
    scale, eps, _ = rest
    return weight + eps * (largest * (0.8 * scale * recipe.gaussian_sd))


def half_started(*args: Any) -> None:
    """Start a range from fewer standard deviations."""
    _start(*args[:-1], 0.9 * args[-1])


def both_signs(x: Tensor, grad_x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradient of a range without the limit to outputs that want a larger one."""
    sides = x.trunc()
    return (sides * grad_x).sum(0), sides.abs().sum(0)


def coarse(bits: int) -> int:
    return 2 ** (bits - 1) - 3


_start = input_range.start
FAULTS: dict[str, tuple[Any, str, Callable[..., Any], set[str]]] = {
    "weight noise": (injection, "noisy", unscaled, {"weight noise: output sd"}),
    "range start": (input_range, "start", half_started, {"input range, from data"}),
    "range gradient": (
        *(backward, "clipped_gradient", both_signs),
        {"gradient of input ranges", "input range, learned"},
    ),
    "converter": (forward, "levels", coarse, {"outputs, ADC off"}),
}


@needs_lightning
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_the_native_engine_is_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, wrong, quantities = FAULTS[fault]
    monkeypatch.setattr(module, name, wrong)
    assert quantities <= different(layer_report(presets.rasch2023, 120))


@needs_lightning
def test_the_report_says_what_it_compared_and_left_out() -> None:
    report = crosscheck(
        MODEL,
        SPLIT.change(inp_asymmetry=0.1, r_series=0.02, why="in tests"),
        INPUTS,
        reference="lightning",
        chips=64,
        layers=["0"],
        progress=False,
    )
    assert report.sides == ("native", "lightning")
    assert set(report.table["level"]) == {"layer"} and report.table["t_inference"].isna().all()
    summary = report.summary()
    left_out = "w_noise, ir_drop, r_series, inp_asymmetry, chips"
    assert f"not in aihwkit-lightning, and off on both sides: {left_out}" in summary
    assert different(report) == set()
    assert "aihwkit-lightning 2." in summary and "docs/lightning.md" in summary
    clean = against_lightning.without_definitions(report)
    assert len(clean.table) < len(report.table) and DEFINED not in set(clean.table["reference"])


@needs_lightning
def test_a_convolution_with_groups_is_left_out_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), linear(64, 3)).eval()
    x = random(20, 4, 6, 6)
    with pytest.warns(UserWarning, match=r"no such layers: 0 \(2 groups\); they are left out"):
        report = crosscheck(
            model, presets.rasch2023, x, reference="lightning", chips=8, progress=False
        )
    assert set(report.table["cell"]) == {"2"}
    with pytest.raises(CapabilityError, match="there is nothing to compare"):
        crosscheck(model[:1], presets.rasch2023, x, reference="lightning", chips=8, progress=False)


@needs_lightning
def test_a_convolution_compares_ranges_of_patches() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = crosscheck(
            model,
            presets.rasch2023,
            random(24, 3, 6, 6),
            reference="lightning",
            chips=32,
            progress=False,
        )
    assert different(report) == set()
    rows = report.table.set_index("quantity")
    assert rows.loc["gradient of input ranges", "reference"] == DEFINED
    assert rows.loc["gradient of inputs inside", "verdict"] == "equivalent"


@needs_lightning
def test_questions_that_it_cannot_answer() -> None:
    def ask(preset: Preset = presets.rasch2023, **options: Any) -> None:
        crosscheck(MODEL, preset, INPUTS, reference="lightning", progress=False, **options)

    with pytest.raises(UsageError, match="no chips that drift; leave times out"):
        ask(times="1h")
    with pytest.raises(UsageError, match="native against lightning has no device level"):
        ask(levels="device")
    with pytest.raises(UsageError, match="leave against and physics out"):
        ask(against=presets.ideal)
    with pytest.raises(CapabilityError, match="need input ranges; allowed: input_range='learned'"):
        ask(presets.rasch2023.change(dac_bits=None, input_range="none", why="in tests"))
    with pytest.raises(UsageError, match="reference='triton'; allowed: 'aihwkit', 'lightning'"):
        crosscheck(MODEL, presets.rasch2023, INPUTS, reference="triton")


def test_without_the_package_the_error_names_environment_and_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("aihwkit_lightning")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "aihwkit_lightning", None)  # type: ignore[arg-type]
    with pytest.raises(VersionError) as caught:
        crosscheck(MODEL, presets.rasch2023, INPUTS, reference="lightning")
    message = str(caught.value)
    assert sys.prefix in message and f"torch {torch.__version__}" in message
    assert message.endswith(f"run: {lightning_side.INSTALL}")
