"""One analog product, against a second version of the paper's text and aihwkit's C++ tile."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from aihwkit.simulator.parameters.enums import WeightNoiseType
from aihwkit.simulator.tiles.inference import InferenceTile
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

import presets
from aimc_bridge.physics import mvm as law
from aimc_bridge.physics.injection import injected
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import CrossbarSpec, Preset
from presets import ideal, rasch2023
from tests import stats

Array = NDArray[np.float64]
SPEC = rasch2023.crossbar
ALL = [presets.get(name) for name in presets.names()]
# Pairs of (outputs, inputs) of a tile; the last is the paper's largest.
SHAPES = [(1, 1), (7, 5), (100, 384), (512, 512)]
# IR drop at the paper's strength is below a step of the ADC on small tiles, so this preset has a
# stronger one.
STRONG = rasch2023.change(ir_drop_g_ratio=2000.0, out_bound=40.0, why="test: IR drop that shows")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


# --- the product's five steps, in float64, with loops where it matters ---


def naive_dac(x: Array, input_range: float, bits: int | None) -> Array:
    clamped = np.clip(x / input_range, -1.0, 1.0)
    if bits is None:
        return clamped
    steps = 2**bits - 2
    return np.round(clamped * steps / 2.0) / (steps / 2.0)  # NumPy rounds halves to even.


def naive_currents(x: Array, weight: Array, spec: CrossbarSpec) -> Array:
    """Return steps 1 and 2 for one input vector: W x less the IR drop, per output."""
    outputs, n = weight.shape
    y = np.zeros(outputs)
    for i in range(outputs):
        product, summed, positioned = 0.0, 0.0, 0.0
        for j in range(n):
            product += weight[i, j] * x[j]
            summed += abs(weight[i, j]) * abs(x[j])
            positioned += weight[i, j] * x[j] * (1.0 - (1.0 - j / n) ** 2)
        a = n / spec.ir_drop_g_ratio * summed
        c = a * (a * (0.05 * a - 0.2) + 0.5)
        y[i] = product - spec.ir_drop * c * positioned
    return y


def naive_noise_sd(x: Array, weight: Array, spec: CrossbarSpec) -> Array:
    """Return the sd of steps 3 and 4, two independent Gaussians."""
    read = spec.w_noise**2 * (np.abs(weight) * x[None, :] ** 2).sum(1)
    return np.sqrt(read + spec.out_noise**2)


def naive_adc(y: Array, spec: CrossbarSpec) -> Array:
    if spec.adc_bits is None:
        return y
    steps = 2**spec.adc_bits - 2
    step = 2.0 * spec.out_bound / steps
    return np.clip(np.round(y / step) * step, -spec.out_bound, spec.out_bound)


# --- ours ---


def our_currents(x: Tensor, weight: Tensor, spec: CrossbarSpec, ir_drop: bool = True) -> Tensor:
    grid = TileGrid((weight.shape[1],), (weight.shape[0],))
    positioned = weight * grid.row_position(weight)
    rows = weight.shape[1]
    return law.current(
        x, weight, weight.abs(), positioned, rows, spec, functional.linear, ir_drop=ir_drop
    )


def tile(outputs: int, inputs: int, batch: int = 5) -> tuple[Tensor, Tensor]:
    """Return normalised weights of a tile, and inputs, some of them beyond the range of 1."""
    weight = torch.rand(outputs, inputs) * 2 - 1
    return weight / weight.abs().amax(1, keepdim=True), torch.randn(batch, inputs) * 0.5


class TestAgainstThePapersText:
    @pytest.mark.parametrize("preset", [rasch2023, STRONG, ideal], ids=["paper", "strong", "ideal"])
    @pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (7, 5), (4, 130)])
    def test_currents_and_noise(self, preset: Preset, outputs: int, inputs: int) -> None:
        spec = preset.crossbar
        weight, x = (values.double() for values in tile(outputs, inputs))
        y = our_currents(x, weight, spec)
        sd = law.noise_sd(x, weight.abs(), spec, functional.linear)
        for row in range(len(x)):
            expected = naive_currents(x[row].numpy(), weight.numpy(), spec)
            np.testing.assert_allclose(y[row].numpy(), expected, rtol=1e-12, atol=1e-13)
            noise = naive_noise_sd(x[row].numpy(), weight.numpy(), spec)
            ours = sd[row].numpy() if isinstance(sd, Tensor) else np.full(outputs, sd)
            np.testing.assert_allclose(ours, noise, rtol=1e-12, atol=0.0)

    @pytest.mark.parametrize("bits", [None, 2, 6, 8])
    @pytest.mark.parametrize("input_range", [0.3, 1.0, 2.5])
    def test_dac(self, bits: int | None, input_range: float) -> None:
        spec = rasch2023.change(dac_bits=bits, why="test").crossbar
        x = torch.randn(1000, dtype=torch.float64)
        got = law.converted_input(x, input_range, spec)
        np.testing.assert_allclose(got, naive_dac(x.numpy(), input_range, bits), atol=1e-12)
        assert got.abs().max().item() == 1.0
        as_tensor = law.converted_input(x, torch.tensor(input_range).double(), spec)
        torch.testing.assert_close(as_tensor, got)

    def test_no_range_is_no_dac(self) -> None:
        x = torch.randn(10)
        assert law.converted_input(x, None, ideal.crossbar) is x

    @pytest.mark.parametrize("bits", [None, 2, 8])
    def test_adc(self, bits: int | None) -> None:
        spec = rasch2023.change(adc_bits=bits, why="test").crossbar
        y = torch.randn(1000, dtype=torch.float64) * 8.0
        got = law.converted_output(y, spec)
        np.testing.assert_allclose(got, naive_adc(y.numpy(), spec), atol=1e-12)
        if bits is not None:
            assert got.abs().max().item() == 10.0  # Ten fully-on inputs meet ten fully-on weights.
        ten = our_currents(torch.ones(1, 10).double(), torch.ones(1, 10).double(), ideal.crossbar)
        assert law.converted_output(ten, spec).item() == pytest.approx(10.0)

    def test_ir_drop_can_be_left_out(self) -> None:
        weight, x = tile(6, 20)
        plain = functional.linear(x, weight)
        assert torch.equal(our_currents(x, weight, STRONG.crossbar, ir_drop=False), plain)
        assert torch.equal(our_currents(x, weight, ideal.crossbar), plain)
        assert not torch.allclose(our_currents(x, weight, STRONG.crossbar), plain, rtol=1e-2)

    def test_ir_drop_takes_more_from_later_rows(self) -> None:
        """With one input on, the loss grows with its row's index in the tile."""
        n = 64
        loss = torch.ones(n) - our_currents(torch.eye(n), torch.ones(1, n), STRONG.crossbar)[:, 0]
        assert loss[0].item() == 0.0
        assert bool((loss[1:] > loss[:-1]).all())

    def test_noise_of_an_output_without_weights_is_the_periphery(self) -> None:
        x = torch.randn(3, 5)
        sd = law.noise_sd(x, torch.zeros(2, 5), SPEC, functional.linear)
        assert isinstance(sd, Tensor)
        torch.testing.assert_close(sd, torch.full((3, 2), 0.04))
        quiet = rasch2023.change(w_noise=0.0, why="test").crossbar
        assert law.noise_sd(x, None, quiet, functional.linear) == 0.04
        assert law.noise_sd(x, None, ideal.crossbar, functional.linear) == 0.0

    def test_inputs_are_untouched(self) -> None:
        weight, x = tile(6, 20)
        before = weight.clone(), x.clone()
        magnitude = weight.abs()
        y = our_currents(x, weight, SPEC)
        law.noise_sd(x, magnitude, SPEC, functional.linear)
        law.converted_input(x, 1.0, SPEC)
        held = y.clone()
        law.converted_output(y, SPEC)
        assert torch.equal(weight, before[0]) and torch.equal(x, before[1])
        assert torch.equal(magnitude, weight.abs()) and torch.equal(y, held)

    @pytest.mark.parametrize("preset", ALL, ids=str)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    def test_dtype_and_device(self, preset: Preset, dtype: torch.dtype) -> None:
        for device in ("cpu", "meta"):
            weight, x = (values.to(device, dtype) for values in tile(6, 20))
            y = law.converted_output(our_currents(x, weight, preset.crossbar), preset.crossbar)
            sd = law.noise_sd(x, weight.abs(), preset.crossbar, functional.linear)
            converted = law.converted_input(x, 1.0, preset.crossbar)
            for values in (y, converted, *([sd] if isinstance(sd, Tensor) else [])):
                assert (values.dtype, values.device.type) == (dtype, device)


# --- aihwkit's C++ tile ---


def their_config(preset: Preset, noise: bool = False, adc: bool = True) -> Any:
    config = preset.rpu_config()
    if not noise:
        config.forward.out_noise = 0.0
        config.forward.w_noise = 0.0
        config.forward.w_noise_type = WeightNoiseType.NONE
    if not adc:
        config.forward.out_res = -1.0
        config.forward.out_bound = 0.0
    return config


def their_product(x: Tensor, weight: Tensor, config: Any) -> Tensor:
    """Return a product on one aihwkit tile.

    Inputs lie in [-1, 1], weights are normalised, and there is no digital scale.
    """
    analog = InferenceTile(weight.shape[0], weight.shape[1], config)
    analog.tile.set_weights(weight)
    result: Tensor = analog.tile.forward(x, False, False, False, True, False)
    return result


@pytest.mark.parametrize("preset", [rasch2023, STRONG], ids=["paper", "strong"])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
class TestAgainstAihwkit:
    def test_without_adc(self, preset: Preset, outputs: int, inputs: int) -> None:
        """Inputs on the DAC's grid, off it and beyond it agree to 1e-5 of the largest output."""
        weight, x = tile(outputs, inputs, 32)
        theirs = their_product(x, weight, their_config(preset, adc=False))
        ours = our_currents(law.converted_input(x, 1.0, preset.crossbar), weight, preset.crossbar)
        bound = 1e-5 * theirs.abs().max().item()
        assert (ours - theirs).abs().max().item() <= bound
        if inputs > 100:  # The IR drop is more than the bound, so the bound sees it.
            plain = our_currents(x, weight, preset.crossbar, ir_drop=False)
            assert (plain - theirs).abs().max().item() > bound

    def test_with_adc(self, preset: Preset, outputs: int, inputs: int) -> None:
        """At most 1e-4 of the outputs differ, by one step: float32 sums near a half."""
        spec = preset.crossbar
        weight, x = tile(outputs, inputs, 64)
        theirs = their_product(x, weight, their_config(preset))
        currents = our_currents(law.converted_input(x, 1.0, spec), weight, spec)
        ours = law.converted_output(currents, spec)
        step = 2 * spec.out_bound / 254
        differ = ((ours - theirs).abs() / step).round()
        assert differ.max().item() <= 1.0
        assert (differ > 0).double().mean().item() <= 1e-4
        assert (ours - theirs)[differ == 0].abs().max().item() <= 1e-5 * spec.out_bound


def test_ideal_tile_is_a_matrix_product() -> None:
    weight, x = tile(30, 40)
    x = x * 5.0  # There is no range and no bound.
    theirs = their_product(x, weight, ideal.rpu_config())
    ours = law.converted_output(our_currents(x, weight, ideal.crossbar), ideal.crossbar)
    exact = x.double() @ weight.double().T
    for got in (ours, theirs):
        assert (got - exact).abs().max().item() <= 1e-5 * exact.abs().max().item()


class TestNoiseAgainstAihwkit:
    """Noise of products; the tile is the sampling unit.

    Each tile draws its Gaussians from a pool of its own.
    """

    tiles = 150

    @pytest.mark.parametrize("silent", ["", "out_noise", "w_noise"])
    def test_sd(self, silent: str) -> None:
        """The variance of the products of many tiles over the closed form is 1."""
        preset = rasch2023.change(adc_bits=None, ir_drop=0.0, why="test: noise alone")
        if silent:
            preset = preset.change(**{silent: 0.0}, why="test: one noise")
        repeats = 500
        weight, x = tile(4, 32, 1)
        x = law.converted_input(x, 1.0, preset.crossbar)
        sd = law.noise_sd(x, weight.abs(), preset.crossbar, functional.linear)
        config = their_config(preset, noise=True)
        many = x.expand(repeats, -1).contiguous()
        ratios = []
        for _ in range(self.tiles):
            noise = their_product(many, weight, config) - functional.linear(x, weight)
            ratios.append((noise / sd).double().square().mean().sqrt())
        stats.assert_mean_by_unit(torch.stack(ratios), 1.0, "sd of a product over closed form")


def test_product_noise_has_the_closed_forms_sd() -> None:
    """Noise drawn source by source has the sd of the joint noise.

    PCM_READ and output noise are drawn one by one here, as the paper has them.
    """
    weight, x = tile(2, 8, 1)
    count = 300_000
    read = torch.randn(count, 2) * SPEC.w_noise
    read *= functional.linear(x.square(), weight.abs()).sqrt()
    both = read + torch.randn(count, 2) * SPEC.out_noise
    sd = law.noise_sd(x, weight.abs(), SPEC, functional.linear)
    assert isinstance(sd, Tensor)
    for output in range(2):
        stats.assert_sd(both[:, output], sd[0, output].item(), "sd of a product")


# --- the identity readout ---


class TestIdentityReadout:
    grid = TileGrid((40, 39), (20, 10))

    def readout(self, weight: Tensor, spec: CrossbarSpec, eps: Tensor) -> Tensor:
        grid = self.grid
        return law.identity_readout(
            weight, grid.row_position(weight), grid.row_count(weight), spec, eps
        )

    @pytest.mark.parametrize("preset", [*ALL, STRONG], ids=[*presets.names(), "strong"])
    def test_is_the_product_law_on_an_identity_matrix(self, preset: Preset) -> None:
        spec = preset.crossbar
        weight, eps = torch.rand(30, 79).double() * 2 - 1, torch.randn(30, 79).double()
        got = self.readout(weight, spec, eps)
        for rows in self.grid.row_slices():
            part, on = weight[:, rows], torch.eye(rows.stop - rows.start, dtype=torch.float64)
            y = our_currents(on, part, spec)
            sd = law.noise_sd(on, part.abs(), spec, functional.linear)
            y = law.converted_output(y + sd * eps[:, rows].T, spec)
            torch.testing.assert_close(got[:, rows], y.T, rtol=1e-12, atol=1e-12)

    def test_is_aihwkits_readout_without_noise(self) -> None:
        weight = torch.rand(20, 40) * 2 - 1
        grid = TileGrid((40,), (20,))
        spec = STRONG.change(out_noise=0.0, w_noise=0.0, adc_bits=None, why="test").crossbar
        theirs = their_product(torch.eye(40), weight, their_config(STRONG, adc=False))
        got = law.identity_readout(
            weight, grid.row_position(weight), grid.row_count(weight), spec, torch.randn(20, 40)
        )
        torch.testing.assert_close(got, theirs.T, rtol=1e-5, atol=1e-6)

    def test_chips_in_front(self) -> None:
        weight, eps = torch.rand(3, 30, 79) * 2 - 1, torch.randn(3, 30, 79)
        before = weight.clone(), eps.clone()
        together = self.readout(weight, SPEC, eps)
        assert together.shape == (3, 30, 79)
        for chip in range(3):
            assert torch.equal(self.readout(weight[chip], SPEC, eps[chip]), together[chip])
        assert torch.equal(weight, before[0]) and torch.equal(eps, before[1])

    def test_the_noise_floor_biases_the_mean_size(self) -> None:
        """The mean is E|w + sd N| of a folded Gaussian: it makes global alpha low."""
        spec = rasch2023.change(adc_bits=None, ir_drop=0.0, why="test").crossbar
        count = 200_000
        grid = TileGrid((count,), (1,))
        for w in (0.0, 0.02, 0.1):
            weight = torch.full((1, count), w)
            eps = torch.randn(1, count)
            got = law.identity_readout(
                weight, grid.row_position(weight), grid.row_count(weight), spec, eps
            ).abs()
            sd = math.sqrt(0.04**2 + 0.0175**2 * w)
            folded = sd * math.sqrt(2 / math.pi) * math.exp(-((w / sd) ** 2) / 2)
            stats.assert_mean(got, folded + w * math.erf(w / sd / math.sqrt(2)), f"|{w}|")


# --- injection against the C++ tile's PROG_NOISE ---


def test_programming_injection_against_aihwkit() -> None:
    """The modifier that `rpu_config` sets and our injection are one law.

    The C++ tile takes the polynomial in microsiemens. It can only inject the programming part.
    """
    levels = torch.tensor([1.0, -0.5, 0.2, 0.05])
    copies, tiles = 2000, 120
    recipe = rasch2023.training["wrn16"].change(
        why="test", noise_type="programming", drop_connect=0.0
    )
    preset = ideal.change(max_rows=None, max_columns=None, why="test: a clean readout")
    preset = Preset(
        name="test",
        description="the paper's device and a recipe, read without noise",
        pcm=rasch2023.pcm,
        crossbar=preset.crossbar,
        compensation=preset.compensation,
        training=type(rasch2023.training)({"it": recipe}),
    )
    config = preset.rpu_config(training="it")
    weight = levels[:, None].expand(-1, copies).contiguous()
    on = torch.eye(len(levels))
    sizes: dict[str, list[Tensor]] = {"theirs": [], "ours": []}
    for _ in range(tiles):
        analog = InferenceTile(len(levels), copies, config)
        analog.tile.set_weights(weight)
        analog.post_update_step()
        # These are the modified weights.
        theirs = analog.tile.backward(on, False, False, False, False)
        eps = torch.randn(weight.shape)
        ours = injected(weight, 1.0, rasch2023.pcm, recipe, recipe.noise_scale, eps, eps)
        for name, got in (("theirs", theirs), ("ours", ours)):
            sizes[name].append(torch.stack([got.abs().mean(1), got.abs().std(1)], 1))
    both = {name: torch.stack(values).double() for name, values in sizes.items()}
    for level, w in enumerate(levels.tolist()):
        for column, what in enumerate(("mean size", "sd of the size")):
            first, second = (both[name][:, level, column] for name in ("ours", "theirs"))
            stats.assert_same_by_unit(first, second, f"{what} of {w:g}")
