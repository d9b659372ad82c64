"""Optional effects of the periphery: closed forms, and aihwkit's C++ tile as it comes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from aihwkit.simulator.tiles.inference import InferenceTile
from torch import Tensor
from torch.nn import functional

from aimc_bridge.errors import SpecError
from aimc_bridge.physics import mvm, variation
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import Preset
from presets import ideal, rasch2023
from tests import stats

GRID = TileGrid((30, 20), (40, 10))
PLAIN = ideal.change(input_range="learned", dac_bits=8, out_bound=4.0, why="test")


def changed(**fields: Any) -> Any:
    return PLAIN.change(**fields, why="test").crossbar


def drawn(seed: int = 0, grid: TileGrid = GRID, **fields: Any) -> Variation:
    return variation.draw(grid, changed(**fields), variation.generators(seed, "fc"))


# --- formulas -------------------------------------------------------------------------------------


def test_nonlinearity_halves_an_output_at_the_bound() -> None:
    """That is what out_nonlinearity = 1 means; slopes are 1 at 0, and at the calibrated output."""
    y = torch.tensor([-4.0, -1e-4, 0.0, 1e-4, 4.0], dtype=torch.float64)
    got = mvm.compressed(y, 1.0 / 4.0, 1.0)
    expected = torch.tensor([-2.0, -1e-4, 0.0, 1e-4, 2.0], dtype=torch.float64)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("calibrated_at", [0.25, 0.5, 1.0])
@pytest.mark.parametrize("r_series", [0.0, 0.1])
def test_the_slope_is_1_where_it_was_calibrated(calibrated_at: float, r_series: float) -> None:
    """Series resistance and nonlinearity are one S-shape with the sum of their strengths."""
    spec = changed(out_nonlinearity=0.6, slope_calibration=calibrated_at, r_series=r_series)
    effects = mvm.line_effects(Variation(), GRID, spec)
    y = torch.tensor([calibrated_at * spec.out_bound], dtype=torch.float64, requires_grad=True)
    line = mvm.with_voltage_offset(y, None, 0.0, r_series, 0.0)
    assert effects.n == pytest.approx(0.15)
    (slope,) = torch.autograd.grad(mvm.compressed(line, effects.n or 0.0, effects.slope), y)
    assert slope.item() == pytest.approx(1.0, abs=1e-12)


def test_calibration_is_that_of_the_mean_of_each_tile() -> None:
    values = drawn(out_nonlinearity=0.6, out_nonlinearity_std=0.4, slope_calibration=0.5)
    spec = changed(out_nonlinearity=0.6, out_nonlinearity_std=0.4, slope_calibration=0.5)
    slope, n = variation.slope(values, GRID, spec), values.out_nonlinearity
    assert isinstance(slope, Tensor) and n is not None
    for row in range(2):
        for columns in (slice(0, 40), slice(40, 50)):
            expected = (1.0 + n[row, columns].mean().item() * 0.5 * 4.0) ** 2
            assert slope[row, columns].unique().numel() == 1
            assert slope[row, columns][0].item() == pytest.approx(expected, rel=1e-5)


def test_offsets_and_resistance_act_on_both_currents() -> None:
    """One case by hand: y = 1, inputs that sum to 2, w_min = -0.5, v = 0.1, r = 0.5."""
    one = torch.ones(1)
    got = mvm.with_voltage_offset(one, 2.0 * one, 0.1, 0.5, -0.5)
    assert got.item() == pytest.approx(0.9 * 2.0 / 2.0 - 1.1 * 1.0 / 1.5)
    plain = mvm.with_voltage_offset(one, 2.0 * one, 0.1, 0.0, -0.5)
    assert plain.item() == pytest.approx(0.9 - 2 * 0.1 * 0.5 * 2.0)
    assert mvm.with_voltage_offset(one, None, 0.1, 0.5, 0.0).item() == pytest.approx(0.9 / 1.5)
    assert mvm.with_voltage_offset(-one, None, 0.0, 1.0, 0.0).item() == pytest.approx(-0.5)


def test_asymmetry_takes_from_negative_values_only() -> None:
    got = mvm.asymmetric(torch.tensor([-2.0, 0.0, 2.0]), 0.25)
    assert got.tolist() == [-1.5, 0.0, 2.0]


def test_order_in_front_of_the_adc() -> None:
    """Nonlinearity, then asymmetry, then noise, which neither of them changes."""
    effects = mvm.LineEffects(0.0, None, 0.0, 1.0, 1.0, 0.5, 0.1)
    got = mvm.at_adc(torch.tensor([-1.0, 1.0]), torch.tensor([1.0, -1.0]), effects)
    torch.testing.assert_close(got, torch.tensor([-0.25 + 0.1, 0.5 - 0.1]))


def test_all_off_is_none_of_them() -> None:
    effects = mvm.line_effects(Variation(), GRID, rasch2023.crossbar)
    assert rasch2023.crossbar.line_effects == ()
    assert (effects.r_series, effects.n, effects.out_asymmetry) == (None, None, None)
    assert (effects.slope, effects.out_noise) == (1.0, 0.04)


# --- what a chip draws ----------------------------------------------------------------------------

LARGE = TileGrid((1000, 1000), (100_000,))


def test_spreads() -> None:
    n = drawn(grid=LARGE, out_nonlinearity=0.6, out_nonlinearity_std=0.2).out_nonlinearity
    noise = drawn(grid=LARGE, out_noise=0.1, out_noise_std=0.3).out_noise_values
    assert n is not None and noise is not None
    stats.assert_mean(n.flatten(), 0.15, "n")
    stats.assert_sd(n.flatten(), 0.03, "n")
    mean = _folded(0.1, 0.03)  # a few would be negative
    stats.assert_mean(noise.flatten(), mean, "noise")
    stats.assert_sd(noise.flatten(), math.sqrt(0.1**2 + 0.03**2 - mean**2), "noise")


def _folded(mean: float, sd: float) -> float:
    """Return the mean of a Gaussian's absolute value."""
    z = mean / sd
    return sd * math.sqrt(2 / math.pi) * math.exp(-z * z / 2) + mean * math.erf(z / math.sqrt(2))


def test_half_of_the_outputs_have_an_offset() -> None:
    v = drawn(grid=LARGE, v_offset_std=0.1).v_offset
    assert v is not None
    none = (v == 0).float().flatten()
    stats.assert_mean(none, 0.5, "outputs without an offset")
    some = v[v != 0]
    stats.assert_mean((some > 0).float(), 0.5, "positive offsets")
    stats.assert_sd(some, 0.1, "offset")


def test_polarity_is_a_factor_of_each_weight() -> None:
    fields = {"input_passes": "two_analog_sum", "w_read_asymmetry_dtod": 0.2}
    factor = drawn(grid=TileGrid((400, 200), (500,)), **fields).read_asymmetry
    assert factor is not None and factor.shape == (500, 600)
    stats.assert_mean(factor.flatten(), 1.0, "factor")
    stats.assert_sd(factor.flatten(), 0.2, "factor")


def test_draws_are_named() -> None:
    """Chips, layers and names share no numbers, and a chip is the same again."""
    fields = {"v_offset_std": 0.1, "out_nonlinearity": 0.5, "out_nonlinearity_std": 0.2}
    first, again, other = drawn(1, **fields), drawn(1, **fields), drawn(2, **fields)
    assert set(first.tensors()) == {"v_offset", "out_nonlinearity"}
    for name, values in first.tensors().items():
        assert torch.equal(values, again.tensors()[name])
        assert not torch.equal(values, other.tensors()[name])
        assert values.shape == (2, 50)
    alone = drawn(1, v_offset_std=0.1)
    assert torch.equal(alone.v_offset, first.v_offset)  # type: ignore[arg-type]
    layer = variation.draw(GRID, changed(**fields), variation.generators(1, "fc2"))
    assert not torch.equal(layer.v_offset, first.v_offset)  # type: ignore[arg-type]


def test_nothing_is_drawn_without_a_spread() -> None:
    fields = {"out_nonlinearity": 0.5, "r_series": 0.1, "out_noise_std": 0.3}  # no out_noise
    assert drawn(**fields).tensors() == {}


# --- aihwkit's C++ tile ---------------------------------------------------------------------------


def their_product(x: Tensor, weight: Tensor, preset: Preset) -> Tensor:
    tile = InferenceTile(*weight.shape, preset.rpu_config())
    tile.tile.set_weights(weight)
    y: Tensor = tile.tile.forward(x, False, False, False, True, False)
    return y


def test_noise_of_the_tile_comes_behind_the_nonlinearity() -> None:
    """Output noise keeps its size however large the output is, read noise is compressed."""
    weight, reads, n = torch.tensor([[1.0, 1.0]]), 1500, 2.0 / 4.0
    x = torch.tensor([[1.0, 1.0]]).expand(reads, -1).contiguous()
    slope = 1.0 / (1.0 + n * 2.0) ** 2
    small = {"adc_bits": None, "out_nonlinearity": 2.0}
    for fields, sd in (({"out_noise": 0.05}, 0.05), ({"w_noise": 0.05}, 0.05 * 2**0.5 * slope)):
        preset = PLAIN.change(**small, **fields, why="test")
        found = torch.stack([their_product(x, weight, preset).std() for _ in range(150)])
        stats.assert_mean_by_unit(found.double(), sd * _c4(reads), str(fields))


def _c4(n: int) -> float:
    """Return the mean of a sample's standard deviation, over the true one."""
    return math.sqrt(2 / (n - 1)) * math.exp(math.lgamma(n / 2) - math.lgamma((n - 1) / 2))


@pytest.mark.parametrize("passes", ["one", "two_analog_sum", "two_digital_sum"])
@pytest.mark.parametrize("adc_bits", [None, 8])
def test_readout_is_aihwkits(passes: str, adc_bits: int | None) -> None:
    """The identity matrix as inputs, without noise, with all effects that need no draw."""
    preset = PLAIN.change(
        **{"adc_bits": adc_bits, "input_passes": passes, "out_nonlinearity": 0.5},
        **{"r_series": 0.1, "slope_calibration": 0.5, "out_asymmetry": 0.2, "ir_drop": 1.0},
        **{"ir_drop_g_ratio": 2000.0},
        why="test",
    )
    weight, grid = torch.rand(20, 40) * 2 - 1, TileGrid((40,), (20,))
    eps = (torch.zeros(20, 40),) * 3
    got = mvm.identity_readout_on_lines(weight, grid, preset.crossbar, Variation(), eps)
    theirs = their_product(torch.eye(40), weight, preset).T
    step = 0.0 if adc_bits is None else 4.0 / 127
    differ = (got - theirs).abs()
    assert (differ > 1e-5).double().mean() <= 2e-3 and differ.max() <= step * 1.01 + 1e-5
    assert not torch.allclose(theirs, weight, atol=0.05)


def test_readout_has_both_output_noises() -> None:
    """With two ADC conversions an output has the noise of two."""
    spec = changed(out_noise=0.1, w_noise=0.2, input_passes="two_digital_sum", adc_bits=None)
    weight, grid = torch.full((1, 1), 0.25), TileGrid((1,), (1,))
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)

    def readout(*eps: Tensor) -> float:
        values = mvm.identity_readout_on_lines(weight, grid, spec, Variation(), eps)  # type: ignore[arg-type]
        return values.item()

    assert readout(zero, zero, zero) == pytest.approx(0.25)
    assert readout(one, zero, zero) == pytest.approx(0.25 + 0.2 * 0.5)
    assert readout(zero, one, zero) == readout(zero, zero, one) == pytest.approx(0.35)


def test_a_readout_without_effects_is_the_standard_one() -> None:
    weight, eps = torch.rand(50, 50) * 2 - 1, torch.randn(50, 50)
    quiet = rasch2023.change(w_noise=0.0, adc_bits=None, why="test").crossbar
    standard = mvm.identity_readout(
        weight, GRID.row_position(weight), GRID.row_count(weight), quiet, eps
    )
    got = mvm.identity_readout_on_lines(weight, GRID, quiet, Variation(), (eps, eps, eps))
    torch.testing.assert_close(got, standard)


# --- the spec -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"out_nonlinearity": -0.1}, "out_nonlinearity = -0.1; allowed: >= 0"),
        ({"inp_asymmetry": 1.0}, "inp_asymmetry = 1.0; allowed: 0 <= share < 1"),
        ({"slope_calibration": 2.0}, "slope_calibration = 2.0; allowed: 0 to 1"),
        ({"v_offset_w_min": 1.0}, "v_offset_w_min = 1.0; allowed: <= 0"),
        ({"input_passes": "two"}, "allowed: 'one', 'two_analog_sum', 'two_digital_sum'"),
        ({"w_read_asymmetry_dtod": 0.1}, "input_passes='two_analog_sum'"),
    ],
)
def test_impossible_values_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        rasch2023.change(**fields, why="test")


def test_off_is_no_entry() -> None:
    """A preset without the fields, or with them at their defaults, has the data of before."""
    on = rasch2023.change(r_series=0.1, why="test")
    assert on.to_dict()["crossbar"]["values"]["r_series"] == 0.1
    assert Preset.from_dict(on.to_dict()) == on
    off = on.change(r_series=0.0, why="test")
    assert off.crossbar == rasch2023.crossbar
    assert "r_series" not in rasch2023.to_dict()["crossbar"]["values"]


def test_product_stands_in_for_contract() -> None:
    """`functional.linear` and a line without effects are one product."""
    weight, x = torch.rand(3, 4), torch.rand(2, 4)
    effects = mvm.line_effects(Variation(), TileGrid((4,), (3,)), ideal.crossbar)
    y = functional.linear(x, weight)
    assert torch.equal(mvm.at_adc(mvm.on_line(y, None, None, None, effects), None, effects), y)
