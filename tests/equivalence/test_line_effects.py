"""Optional effects of the periphery: the cross-check certifies each, and finds each wrong formula.

Mutants are in the native engine; with none of them nothing is different.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import convert
from aimc_bridge.engines.native import crossbar, lines
from aimc_bridge.equivalence import Report, capture, periphery, variation
from aimc_bridge.equivalence.measuring import Sampling
from aimc_bridge.equivalence.report import Findings
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.physics import mvm
from aimc_bridge.physics import variation as law
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import Preset
from tests.models import linear, random
from tests.stats import FALSE_ALARM

SMALL = presets.rasch2023.change(max_rows=32, max_columns=24, out_bound=4.0, why="test")
TWO, DIGITAL = "two_analog_sum", "two_digital_sum"
# name: the fields of one case; the first name of a field is what the case is about
CASES: dict[str, dict[str, Any]] = {
    "out_nonlinearity": {"out_nonlinearity": 0.5},
    "out_nonlinearity_std": {"out_nonlinearity": 0.5, "out_nonlinearity_std": 0.3},
    "slope_calibration": {
        **{"out_nonlinearity": 0.5, "out_nonlinearity_std": 0.3},
        **{"slope_calibration": 0.5, "r_series": 0.02},
    },
    "r_series": {"r_series": 0.05, "v_offset_w_min": 0.0},
    "v_offset_std": {"v_offset_std": 0.1, "v_offset_w_min": 0.0},
    "v_offset_w_min": {"v_offset_std": 0.1, "r_series": 0.02, "v_offset_w_min": -0.5},
    "two_analog_sum": {"input_passes": TWO, "r_series": 0.05},
    "two_digital_sum": {"input_passes": DIGITAL, "out_nonlinearity": 0.5},
    "w_read_asymmetry_dtod": {"input_passes": TWO, "w_read_asymmetry_dtod": 0.2},
    "inp_asymmetry": {"inp_asymmetry": 0.1},
    "out_asymmetry": {"out_asymmetry": 0.1},
    "out_noise_std": {"out_noise_std": 0.3},
}
EXACT = "outputs, ADC off"


@functools.cache
def the_layer() -> capture.Layer:
    """Return a layer of several tiles with inputs of both signs."""
    model = nn.Sequential(linear(70, 20, bias=False)).eval()
    batches = [random(400, 70, seed=3)]
    native = convert(model, SMALL)
    capture.calibrated(native, batches)
    (layer,) = capture.layers_of(native, model, batches)
    assert len(layer.grid.rows) == 3
    return layer


def certified(preset: Preset) -> Report:
    """Return the rows of the layer level that are about the periphery."""
    findings, layer, sampling = Findings(), the_layer(), Sampling((1.0,), 16, 0)
    periphery.exactly(findings, layer, preset, sampling)
    variation.drawn(findings, layer, preset, sampling)
    variation.noise_by_output(findings, periphery.first_tile(layer), preset, sampling)
    return Report.of([findings])


def preset_of(case: str) -> Preset:
    return SMALL.change(**CASES[case], why="test")


def different(report: Report) -> set[str]:
    return set(report.different["quantity"])


@functools.cache
def clean(case: str) -> bool:
    """Return whether nothing is different, and what is without chance is equivalent."""
    table = certified(preset_of(case)).table
    exact = table[table["quantity"].isin([EXACT, "outputs off by more"])]
    return bool(
        table["p_different"].min() > FALSE_ALARM and (exact["verdict"] == "equivalent").all()
    )


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(periphery, "EXACT_CHIPS", 8)


@pytest.mark.parametrize("case", CASES)
def test_both_engines_agree(case: str) -> None:
    assert clean(case)
    assert preset_of(case).crossbar.line_effects


def test_the_whole_layer_level_agrees_with_all_effects_on() -> None:
    """Outputs, their noise, and factors of compensation, chip against chip."""
    fields = {key: value for case in CASES.values() for key, value in case.items()}
    preset = SMALL.change(**{**fields, "input_passes": DIGITAL}, why="test")
    comparison, sampling = TwoEngines(preset), Sampling((86400.0,), 16, 0, vectors=16)
    layer, findings = the_layer(), Findings()
    first, second = (comparison.measure(side, layer, sampling, lambda: None) for side in (0, 1))
    comparison.compare_layer(findings, layer, sampling, first, second)
    table = Report.of([findings]).table
    assert {"v_offset none", "read_asymmetry sd", "output noise by output", "ADC clipping"} <= set(
        table["quantity"]
    )
    assert bool(table["p_different"].min() > FALSE_ALARM)


def unsigned(y: Tensor, n: Any, slope: Any) -> Tensor:
    """Return a nonlinearity that forgets the modulus."""
    return slope * y / (1.0 + n * y)


def uncalibrated(y: Tensor, n: Any, slope: Any) -> Tensor:
    return y / (1.0 + n * y.abs())


def mean_of_all(values: Variation, grid: Any, spec: Any) -> Any:
    """Return a calibration of all tiles together, not of each."""
    n = law.nonlinearity(values, spec)
    n = torch.full_like(n, float(n.mean())) if isinstance(n, Tensor) else n
    return (1.0 + (n + spec.r_series) * (spec.slope_calibration * spec.out_bound)) ** 2


def without_r(values: Variation, grid: Any, spec: Any) -> Any:
    """Return a calibration that forgets the series resistance."""
    none = spec.change(why="mutant", r_series=0.0)
    return law.slope(values, grid, none)


def one_denominator(y: Tensor, total: Any, v: Any, r: Any, w_min: Any) -> Tensor:
    """Return a series resistance that acts on the difference of the two currents."""
    y = y / (1.0 + r * y.abs())
    return y * (1.0 - v) if total is None else y * (1.0 - v) + 2.0 * v * w_min * total


def positive_reference(y: Tensor, total: Any, v: Any, r: Any, w_min: Any) -> Tensor:
    return WITH_OFFSET(y, total, v, r, -w_min)


def same_sign(y: Tensor, total: Any, v: Any, r: Any, w_min: Any) -> Tensor:
    """Return an offset of the other sign."""
    return WITH_OFFSET(y, total, -v, r, w_min)


def positive_ones(values: Tensor, share: Any) -> Tensor:
    """Return an asymmetry that makes positive values smaller."""
    return torch.where(values > 0, values * (1.0 - share), values)


WITH_OFFSET = mvm.with_voltage_offset


def same_noise(values: Variation, grid: Any, spec: Any) -> Any:
    """Return the same output noise for all outputs."""
    return LINE_EFFECTS(values._replace(out_noise_values=None), grid, spec)


LINE_EFFECTS = mvm.line_effects


def one_pass(x: Tensor, block: Any, job: Any) -> Any:
    """Return products of both signs in one pass, whatever the preset says."""
    found = PRODUCTS(x, block, job)
    return found if len(found.passes) == 1 else PRODUCTS(x, block, _in_one_pass(job))


def _in_one_pass(job: Any) -> Any:
    spec = job.spec.change(why="mutant", input_passes="one", w_read_asymmetry_dtod=0.0)
    return dataclasses.replace(job, spec=spec)


PRODUCTS = lines.products


def swapped(x: Tensor, block: Any, job: Any) -> Any:
    """Return products whose positive inputs meet the weights of the negative ones."""
    found = PRODUCTS(-x, block, job)
    negated = [
        part._replace(y=-part.y, weighted=None if part.weighted is None else -part.weighted)
        for part in found.passes
    ]
    return found._replace(passes=tuple(negated))


def rectified(grid: Any, spec: Any, generators: Any) -> Variation:
    """Return voltage offsets as aihwkit's source reads, max(0, std N)."""
    values = DRAW(grid, spec, generators)
    eps = torch.randn(values.v_offset.shape, generator=generators("v_offset"))  # type: ignore[union-attr]
    return values._replace(v_offset=(spec.v_offset_std * eps).clamp_min(0.0))


def absolute_spread(grid: Any, spec: Any, generators: Any) -> Variation:
    """Return a spread that is absolute, not a share."""
    values = DRAW(grid, spec, generators)
    n, mean = values.out_nonlinearity, spec.out_nonlinearity / spec.out_bound
    return values._replace(out_nonlinearity=mean + (n - mean) / mean)  # type: ignore[operator]


DRAW = law.draw
MUTANTS: dict[str, tuple[str, Any, str, Any, str]] = {
    "no modulus": ("out_nonlinearity", mvm, "compressed", unsigned, EXACT),
    "no calibration": ("slope_calibration", mvm, "compressed", uncalibrated, EXACT),
    "calibration of all tiles": ("slope_calibration", mvm, "slope", mean_of_all, EXACT),
    "calibration without r": ("slope_calibration", mvm, "slope", without_r, EXACT),
    "resistance of the difference": (
        *("v_offset_w_min", mvm, "with_voltage_offset", one_denominator, EXACT),
    ),
    "reference of the other sign": (
        *("v_offset_w_min", mvm, "with_voltage_offset", positive_reference, EXACT),
    ),
    "offset of the other sign": ("v_offset_std", mvm, "with_voltage_offset", same_sign, EXACT),
    "one pass": ("two_analog_sum", lines, "products", one_pass, EXACT),
    "one ADC conversion": ("two_digital_sum", lines, "products", one_pass, EXACT),
    "polarity of the positive inputs": (
        *("w_read_asymmetry_dtod", lines, "products", swapped, EXACT),
    ),
    "positive inputs smaller": ("inp_asymmetry", lines, "asymmetric", positive_ones, EXACT),
    "positive outputs smaller": ("out_asymmetry", mvm, "asymmetric", positive_ones, EXACT),
    "offsets rectified": ("v_offset_std", law, "draw", rectified, "v_offset mean"),
    "absolute spread": (
        *("out_nonlinearity_std", law, "draw", absolute_spread, "out_nonlinearity sd"),
    ),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_wrong_formula_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, module, function, mutant, quantity = MUTANTS[name]
    assert clean(case)
    monkeypatch.setattr(module, function, mutant)
    assert quantity in different(certified(preset_of(case)))


def test_noise_that_does_not_vary_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clean("out_noise_std")
    monkeypatch.setattr(crossbar, "line_effects", same_noise)
    assert "output noise by output" in different(certified(preset_of("out_noise_std")))


def test_a_row_without_a_time() -> None:
    table = certified(preset_of("out_noise_std")).table
    assert all(math.isnan(t) for t in table["t_inference"])
