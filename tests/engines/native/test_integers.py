"""Products in integers: the sums they stand for, and when they are used."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import calibrate, convert, drift, native, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.native import digits, forward, integers, onednn
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.engines.native.tiles import Job
from aimc_bridge.spec import Preset
from presets import rasch2023
from tests.models import random

pytestmark = pytest.mark.skipif(
    not onednn.multiplies_integers(), reason="this processor has no instructions for 8-bit products"
)

Make = Callable[[], nn.Module]
CASES: dict[str, tuple[Make, tuple[int, ...]]] = {
    "a few vectors": (lambda: nn.Linear(600, 30), (7, 600)),
    "many vectors": (lambda: nn.Linear(600, 30), (300, 600)),
    "images": (lambda: nn.Conv2d(70, 9, 3, stride=2, padding=1), (2, 70, 9, 8)),
    "dilated": (lambda: nn.Conv2d(3, 5, 3, padding=2, dilation=2), (2, 3, 9, 9)),
    "groups": (lambda: nn.Conv2d(8, 12, 3, groups=4), (3, 8, 6, 6)),
    "one channel": (lambda: nn.Conv2d(1, 4, 3), (2, 1, 6, 6)),
}


@contextmanager
def floats() -> Iterator[None]:
    """Compute all products in floating point."""
    available = onednn.multiplies_integers
    onednn.multiplies_integers = lambda: False  # type: ignore[assignment]
    try:
        yield
    finally:
        onednn.multiplies_integers = available


def on_chip(make: Make, preset: Preset, x: Tensor) -> nn.Module:
    torch.manual_seed(1)
    analog = convert(nn.Sequential(make()), preset).eval()
    calibrate(analog, [x], "percentile")
    program(analog, seed=3)
    drift(analog, 3600.0)
    return analog


def crossbar_of(analog: nn.Module) -> Crossbar:
    (matrix,) = matrices_of(analog).values()
    assert isinstance(matrix, Crossbar)
    return matrix


@pytest.mark.parametrize(("count", "bound"), [(1, 0.5 / 127), (2, 1.6e-5), (3, 1.2e-7)])
def test_digits_are_the_weights_within_the_stated_error(count: int, bound: float) -> None:
    weight = random(50, 4, 3) * torch.logspace(-6, 3, 50).view(-1, 1, 1)
    weight[3], weight[4, 1:] = 0.0, 0.0
    parts, units = digits.split(weight, count)
    assert len(parts) == count and all(digit.dtype == torch.int8 for digit in parts)
    powers = [254.0**-index for index in range(count)]
    total = sum(d.double() * power for d, power in zip(parts, powers, strict=True))
    error = (total * units.double().view(-1, 1, 1) - weight.double()).abs().flatten(1).amax(1)
    largest = weight.double().abs().flatten(1).amax(1)
    assert bool((error <= bound * largest).all())
    assert float(error.max() / largest[error.argmax()]) > bound / 20 or count == 3


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("sign", ["both signs", "not negative"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_sums_are_those_of_the_formula(name: str, sign: str, compiled: bool) -> None:
    """Against double precision, from the weights of the tile and the steps of the DAC."""
    make, shape = CASES[name]
    x = random(*shape) if sign == "both signs" else random(*shape).relu()
    preset = rasch2023
    matrix = crossbar_of(on_chip(make, preset, x))
    held = matrix.held
    assert held is not None and matrix.input_range is not None
    matrix.input_range.fill_(1.7)
    job = Job(
        matrix.product, preset.crossbar, matrix._blocks(lambda: held, {}), matrix.scale,
        (0.0, 1.0), None, compiled, True,
    )  # fmt: skip
    for block in job.blocks:
        part = matrix.product.inputs(x, block.row, block.column)
        found = forward.currents(part, torch.tensor(1.7), block.tile, job, sign == "both signs")
        steps = (part.double() * 127 / 1.7).clamp(-127, 127).round()
        weight = block.tile.value.double()
        position = block.tile.position
        assert position is not None and found.loss is not None and found.b is not None
        assert found.variance is not None

        def product(x: Tensor, weight: Tensor) -> Tensor:
            return matrix.product.contract(x, weight)

        unit = 127.0 / preset.crossbar.out_bound  # steps of the ADC
        scale = math.sqrt(0.05) * block.tile.rows / (preset.crossbar.ir_drop_g_ratio * unit)
        size = steps.abs() * (unit / 127 * scale)
        shift, floor = -2.0 * math.sqrt(0.05), found.floor
        bias = (preset.crossbar.out_noise * unit / found.sigma) ** 2 - floor
        for actual, expected, error in (
            (found.y, product(steps, weight) * unit / 127, 1e-6),
            (found.loss, product(steps, weight * position) * unit / 127, 4e-5),
            (found.b + found.late, product(size, weight.abs()) + shift, 2e-5),
            (found.variance, product(size.square(), weight.abs()) + bias, 2e-5),
        ):
            assert float((actual - expected).abs().max()) <= error * float(expected.abs().max())


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_one_digit_is_enough_for_reduced_side_products(name: str) -> None:
    """IR drop and read noise change by less than a hundredth of themselves."""
    make, shape = CASES[name]
    x = random(*shape)
    quiet = rasch2023.change(out_noise=0.0, w_noise=0.0, adc_bits=None, why="outputs as they are")
    analog = on_chip(make, quiet, x)
    exact = analog(x)
    native.side_precision(analog, torch.bfloat16)
    reduced = analog(x)
    no_drop = crossbar_of(analog)
    none = on_chip(make, quiet.change(ir_drop=0.0, why="none"), x)(x)
    loss = float((none - exact).abs().max())
    assert no_drop.held is not None and loss > 0.0
    assert float((reduced - exact).abs().max()) < 0.01 * loss


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_equal_to_floating_point_in_value_and_memory(name: str, last: bool) -> None:
    make, shape = CASES[name]
    if last and len(shape) == 2:
        pytest.skip("vectors have one order")
    x = random(*shape)
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    quiet = rasch2023.change(out_noise=0.0, w_noise=0.0, adc_bits=None, why="outputs as they are")
    analog = on_chip(make, quiet, x)
    found = analog(x)
    with floats():
        expected = analog(x)
    assert float((found - expected).abs().max()) < 2e-6 * float(expected.abs().max())
    assert found.stride() == expected.stride()


@torch.no_grad()
def test_read_noise_has_the_sd_of_the_formula() -> None:
    """sd^2 = w_noise^2 sum |w| x^2, from 40,000 products of one input; chi-squared at 1e-6."""
    preset = rasch2023.change(out_noise=0.0, ir_drop=0.0, adc_bits=None, why="read noise alone")
    x = random(1, 200)
    analog = on_chip(lambda: nn.Linear(200, 3), preset, x)
    matrix = crossbar_of(analog)
    n = 40_000
    torch.manual_seed(5)
    y = analog(x.expand(n, -1)).double()
    held, ranges = matrix.held, matrix.input_ranges()
    assert held is not None and ranges is not None
    steps = (x.double() * 127 / float(ranges)).clamp(-127, 127).round() / 127
    factor = matrix.scale[0].double() * matrix.alpha()[0].double() * float(ranges)
    variance = preset.crossbar.w_noise**2 * (held.double().abs() @ steps[0].square()) * factor**2
    quantile = stats.chi2.ppf([1e-6 / 6, 1 - 1e-6 / 6], n - 1)
    for found, expected in zip(y.var(0), variance, strict=True):
        assert quantile[0] < float(found / expected) * (n - 1) < quantile[1]


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_nan_and_infinite_inputs_end_as_in_floating_point(name: str) -> None:
    make, shape = CASES[name]
    x = random(*shape)
    quiet = rasch2023.change(out_noise=0.0, w_noise=0.0, adc_bits=None, why="outputs as they are")
    analog = on_chip(make, quiet, x)
    for value in (math.nan, math.inf, -math.inf):
        strange = x.clone()
        strange[0, 0] = value
        found = analog(strange)
        with floats():
            expected = analog(strange)
        assert torch.equal(found.isnan(), expected.isnan())
        assert bool(found.isnan().any()) == math.isnan(value)
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


@torch.no_grad()
def test_gradients_do_not_see_how_the_products_were_computed() -> None:
    x = random(1100, 40)
    quiet = rasch2023.change(out_noise=0.0, w_noise=0.0, why="two passes with the same outputs")
    torch.manual_seed(0)
    analog = convert(nn.Sequential(nn.Linear(40, 8)), quiet)
    calibrate(analog, [x])
    grads = []
    for context in (torch.enable_grad, floats):
        analog.zero_grad()
        with context(), torch.enable_grad():
            analog(x).square().sum().backward()
        grads.append([p.grad.clone() for p in analog.parameters() if p.grad is not None])
    assert len(grads[0]) >= 2
    for found, expected in zip(*grads, strict=True):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-3 * float(expected.abs().max()))


# --- what belongs to a chip -----------------------------------------------------------------------


@torch.no_grad()
def test_kept_weights_are_those_of_the_chip_that_is_there() -> None:
    x = random(4, 30)
    quiet = rasch2023.change(out_noise=0.0, w_noise=0.0, adc_bits=None, why="outputs as they are")
    analog = on_chip(lambda: nn.Linear(30, 20), quiet, x)
    matrix = crossbar_of(analog)
    before = analog(x)
    twin = copy.deepcopy(analog)
    assert not crossbar_of(twin)._kept.tiles and matrix._kept.tiles
    assert torch.equal(twin(x), before)

    drift(analog, 3e7)
    after = analog(x)
    with floats():
        assert torch.allclose(after, analog(x), atol=1e-5)
    assert float((after - before).abs().max()) > 1e-3

    held = matrix.held
    assert held is not None
    held.mul_(0.5)
    half = analog(x)
    matrix.held = held * 2.0
    assert torch.allclose(analog(x), after, atol=1e-5)
    assert float((half - after).abs().max()) > 1e-3


# --- when they are used ---------------------------------------------------------------------------


def test_arithmetic_that_saturates_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without VNNI the sum of two products is cut to 16 bits."""

    def saturating(x: Tensor, zero: int, packed: Tensor, *_: object) -> Tensor:
        pairs = ((x.int() - zero) * 127).view(len(x), -1, 2).sum(2)
        return pairs.clamp(-(2**15), 2**15 - 1).sum(1, keepdim=True).expand(-1, 16).float()

    monkeypatch.setattr(onednn, "linear_of_codes", saturating)
    onednn.multiplies_integers.cache_clear()
    try:
        assert not onednn.multiplies_integers()
    finally:
        monkeypatch.undo()
        onednn.multiplies_integers.cache_clear()
    assert onednn.multiplies_integers()


@pytest.mark.parametrize(
    ("change", "make", "shape", "used"),
    [
        ({}, lambda: nn.Linear(9, 4), (3, 9), True),
        ({"dac_bits": 9}, lambda: nn.Linear(9, 4), (3, 9), False),
        ({"dac_bits": None}, lambda: nn.Linear(9, 4), (3, 9), False),
        ({"dac_bits": 4}, lambda: nn.Linear(9, 4), (3, 9), True),
        ({}, lambda: nn.Linear(9, 4).double(), (3, 9), False),
        ({}, lambda: nn.Conv1d(9, 4, 3), (3, 9, 5), False),
        ({}, lambda: nn.Conv2d(9, 4, 3), (3, 9, 5, 5), True),
        ({}, lambda: nn.Conv3d(9, 4, 3), (3, 9, 5, 5, 5), False),
        ({"v_offset_std": 0.01}, lambda: nn.Linear(9, 4), (3, 9), False),
    ],
)
@torch.no_grad()
def test_used_where_inputs_are_bytes(
    change: dict[str, object], make: Make, shape: tuple[int, ...], used: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dtype = next(make().parameters()).dtype
    x = random(*shape).to(dtype)
    preset = rasch2023.change(**change, why="another periphery") if change else rasch2023
    analog = on_chip(make, preset, x)
    calls = []
    product = integers.multiplied
    monkeypatch.setattr(
        integers, "multiplied", lambda *arguments: calls.append(1) or product(*arguments)
    )
    assert analog(x).dtype == dtype
    assert bool(calls) == used


@torch.no_grad()
def test_weights_that_serve_a_few_vectors_once_are_not_split(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To split them takes longer than it saves, unless they are those of a chip."""
    x = random(30, 9)
    analog = on_chip(lambda: nn.Linear(9, 4), rasch2023, x)
    calls = []
    split = digits.split
    monkeypatch.setattr(digits, "split", lambda *some: calls.append(1) or split(*some))
    analog(x)
    assert len(calls) == 2  # the weights, and the weights times positions
    analog(x)
    assert len(calls) == 2
    other = convert(nn.Sequential(nn.Linear(9, 4)), rasch2023).eval()
    calibrate(other, [x])
    other(x)
    assert len(calls) == 2
    other(x.repeat(40, 1))
    assert len(calls) == 4
    assert functional.linear(x, torch.zeros(4, 9)).shape == other(x).shape
