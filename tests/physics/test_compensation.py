"""Drift compensation on chips, and the weights that a digital layer would need."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import (
    convert,
    drift,
    program,
    restore,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.spec import PcmSpec
from presets import rasch2023, scalar_drift
from tests.models import DEVICES, QUIET, assert_close, linear, only, random

YEAR = 365 * 86400.0


def effective(model: nn.Module) -> dict[str, Tensor]:
    return {name: matrix.effective_weight().clone() for name, matrix in matrices_of(model).items()}


# --- drift compensation ---

TILES = {"max_rows": 25, "max_columns": 20, "why": "several tiles"}


def by_tile(values: Tensor, matrix: Matrix, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce `[out, in]` values to one number per tile, spread to `[row tiles, out]`."""
    rows = []
    for part in values.split(list(matrix.grid.rows), dim=1):
        parts = part.split(list(matrix.grid.columns), dim=0)
        rows.append(torch.cat([reduce(p).expand(p.shape[0]) for p in parts]))
    return torch.stack(rows)


def normalised(matrix: Matrix) -> Tensor:
    scale = matrix.grid.expand_columns(matrix.column_scale() * matrix.learned_scale())
    return matrix.effective_weight() / scale


def means(values: Tensor, matrix: Matrix, kind: str) -> Tensor:
    """Return the mean |value| of each tile, or of each column of a tile: `[row tiles, out]`."""
    if kind == "per_column":
        parts = values.abs().split(list(matrix.grid.rows), dim=1)
        return torch.stack([part.mean(1) for part in parts])
    return by_tile(values.abs(), matrix, torch.mean)


@pytest.mark.parametrize("kind", ["global", "per_column", "global_exact_reference", "none"])
def test_compensation_of_an_ideal_readout(engine: str, kind: str) -> None:
    """Alpha is the ratio of mean |w| then and now, by tile or column.

    The exact reference is the mean of the target weights.
    """
    preset = DEVICES.change(drift_compensation=kind, **TILES)
    analog = convert(linear(60, 50), preset, engine=engine).eval()
    matrix = only(analog)
    reference = means(matrix.normalised_weight(), matrix, kind)
    program(analog, 1)
    assert torch.equal(matrix.alpha(), torch.ones(3, 50))
    if kind in ("global", "per_column"):
        reference = means(normalised(matrix), matrix, kind)
    drift(analog, YEAR)
    expected = reference / means(normalised(matrix), matrix, kind)
    if kind == "none":
        expected = torch.ones(3, 50)
    else:
        assert float(expected.min()) > 1.5
    assert_close(matrix.alpha(), expected, "alpha", 1e-5)


def test_compensation_is_at_the_output_of_each_tile(engine: str) -> None:
    """The product has it, tile by tile; effective_weight does not."""
    preset = DEVICES.change(drift_compensation="per_column", **TILES)
    model = linear(60, 50)
    analog = convert(model, preset, engine=engine).eval()
    matrix, x = only(analog), random(7, 60)
    program(analog, 1)
    drift(analog, YEAR)
    compensated = matrix.effective_weight() * matrix.grid.expand_columns(matrix.alpha())
    with torch.no_grad():
        assert_close(analog(x), functional.linear(x, compensated, model.bias), "output")


@torch.no_grad()
def test_readout_is_the_identity_through_the_tile() -> None:
    """Alpha equals means of the layer's own products.

    This is with IR drop and ADC, without noise.
    """
    preset = QUIET.change(ir_drop=100.0, drift_compensation="per_column", **TILES)
    analog = convert(linear(60, 50, bias=False).double(), preset).eval()
    matrix = only(analog)
    matrix.set_input_ranges(torch.ones(3, 3))

    def readout() -> Tensor:
        out = analog(torch.eye(60, dtype=torch.float64))  # Row j is input j alone.
        scale = matrix.column_scale() * matrix.alpha()
        rows = zip(out.split(list(matrix.grid.rows)), scale, strict=True)
        return torch.stack([(part / s).abs().mean(0) for part, s in rows])

    program(analog, 1)
    reference = readout()
    drift(analog, YEAR)
    now = readout()
    assert_close(matrix.alpha(), reference / now, "alpha", 1e-12)
    held = normalised(matrix)
    # The ADC and the IR drop act.
    assert float((means(held, matrix, "per_column") - now).abs().max()) > 1e-3


@pytest.mark.parametrize("w_noise", [0.0, 0.5])
def test_noise_of_the_readout_is_that_of_products(w_noise: float) -> None:
    """The readout's noise is the noise of products.

    The mean |y| of a Gaussian around each held weight is the folded normal's mean.
    """
    preset = rasch2023.change(
        adc_bits=None, ir_drop=0.0, out_noise=0.2, w_noise=w_noise, why="noise alone"
    )
    analog = convert(linear(512, 512, bias=False), preset)
    matrix = only(analog)

    def folded() -> float:
        m = normalised(matrix).double()
        sd = (0.2**2 + w_noise**2 * m.abs()).sqrt()
        spread = sd * (2 / torch.pi) ** 0.5 * torch.exp(-0.5 * (m / sd) ** 2)
        return float((spread + m * torch.erf(m / (sd * 2**0.5))).mean())

    ratios = []
    for seed in range(3):
        program(analog, seed)
        reference = folded()
        bare = float(normalised(matrix).abs().mean())
        drift(analog, YEAR)
        ratios.append(float(matrix.alpha()[0, 0]) * folded() / reference)
        bias = float(matrix.alpha()[0, 0]) * float(normalised(matrix).abs().mean()) / bare
        assert bias < 0.95  # The noise floor changes alpha by enough to be seen.
    # Relative error of one readout: the sd of |y| is <= 0.6 at a mean >= 0.2, over 512^2 products.
    bound = 4.9 * (0.6 / 0.2) / 512 * 2**0.5 / 2
    assert bound < 0.021
    for ratio in ratios:
        assert abs(ratio - 1.0) < bound
        assert abs(1.025 * ratio - 1.0) > bound and abs(0.975 * ratio - 1.0) > bound


def test_oracle_on_the_scalar_device_is_the_exact_inverse(engine: str) -> None:
    """The programmed weights come back at any time.

    The factor is 1 up to t0 = 1 s.
    """
    analog = convert(linear(60, 50), scalar_drift, engine=engine).eval()
    matrix = only(analog)
    program(analog, 1)
    programmed = matrix.effective_weight()
    for t in (0.0, 0.5, 1.0, 3600.0, YEAR):
        drift(analog, t)
        expected = max(t, 1.0) ** 0.06
        assert_close(matrix.alpha(), torch.full_like(matrix.alpha(), expected), "alpha", 1e-6)
        assert_close(matrix.effective_weight() * expected, programmed, "weights", 1e-6)


def test_oracle_on_the_paper_s_device_is_the_mean_law(engine: str) -> None:
    """Alpha is sum |w| over sum |w| ((t + t0) / t0)^-nu.

    The sums are over the targets, tile by tile.
    """
    preset = DEVICES.change(drift_compensation="oracle", **TILES)
    assert isinstance(preset.pcm, PcmSpec)
    analog = convert(linear(60, 50), preset, engine=engine).eval()
    matrix = only(analog)
    size = matrix.normalised_weight().abs()
    nu = (-0.0155 * size.clamp_min(1e-7).log() + 0.0244).clamp(0.049, 0.1)
    alphas = []
    for seed in (1, 2):
        program(analog, seed)
        drift(analog, YEAR)
        alphas.append(matrix.alpha().clone())
    now = size * ((YEAR + 20.0) / 20.0) ** -nu
    expected = by_tile(size, matrix, torch.mean) / by_tile(now, matrix, torch.mean)
    assert_close(alphas[0], expected, "alpha", 1e-5)
    assert torch.equal(alphas[0], alphas[1])


def test_floor_of_the_readout() -> None:
    """A tile that holds nothing has alpha 1, not 0 / 0."""
    layer = linear(60, 50)
    with torch.no_grad():
        layer.weight.zero_()
    preset = DEVICES.change(prog_noise_scale=0.0, **TILES)
    analog = convert(layer, preset).eval()
    program(analog, 1)
    drift(analog, YEAR)
    assert torch.equal(only(analog).alpha(), torch.ones(3, 50))
    assert torch.equal(analog(random(2, 60)), layer.bias.expand(2, -1))


# --- effective weights ---


@pytest.mark.parametrize("kind", ["linear", "conv", "groups", "conv1d"])
def test_effective_weight_is_what_a_digital_layer_would_need(engine: str, kind: str) -> None:
    """It is in the layer's own units and shape.

    Learned scales are included.
    """
    from transformers.pytorch_utils import Conv1D

    if engine != "native" and kind != "linear":
        pytest.skip("only native layers promise effective_weight")
    model, x = {
        "linear": (linear(60, 50), random(3, 60)),
        "conv": (nn.Conv2d(8, 6, 3, padding=1), random(2, 8, 5, 5)),
        "groups": (nn.Conv2d(8, 6, 3, groups=2), random(2, 8, 5, 5)),
        "conv1d": (Conv1D(50, 60), random(3, 60)),
    }[kind]
    preset = DEVICES.change(drift_compensation="none", max_rows=25, max_columns=20, why="tiles")
    analog = convert(model, preset, engine=engine).eval()
    matrix = only(analog)
    if engine == "native":
        with torch.no_grad():
            scale = matrix.out_scale  # type: ignore[attr-defined]
            scale.mul_(1.0 + 0.1 * random(*scale.shape))
    program(analog, 1)
    drift(analog, 3600.0)
    digital = copy.deepcopy(model)
    with torch.no_grad():
        weight = matrix.effective_weight() if engine != "native" else analog.effective_weight()  # type: ignore
        assert weight.shape == model.weight.shape
        digital.weight.copy_(weight)  # type: ignore[union-attr, operator]
        assert_close(analog(x), digital(x), "output")
        restore(analog)
        if engine == "native":
            scale.fill_(1.0)
            assert_close(analog.effective_weight(), model.weight, "clean", 1e-6)  # type: ignore
