"""Compiled passes: they give the eager numbers without noise, and their generator is Gaussian."""

from __future__ import annotations

import copy
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest
import torch
from scipy.special import ndtri
from scipy.stats import binom
from torch import Tensor, nn

from aimc_bridge import convert
from aimc_bridge.engines.native import (
    compiled,
    compiled_passes,
    draws,
    forward,
    kernels,
    side_precision,
)
from aimc_bridge.errors import CapabilityError
from presets import rasch2023
from tests.engines.native.test_speed import LAYERS as TRAINED
from tests.engines.native.test_speed import everything, trainable
from tests.models import assert_close, linear, only, random
from tests.stats import FALSE_ALARM, assert_mean, assert_sd, quantile

try:
    kernels.check("cpu")
    WHY = ""
except CapabilityError as problem:
    WHY = str(problem)

needs_compiler = pytest.mark.skipif(bool(WHY), reason=WHY or "torch.compile works")
DRAWS = 10_000_000


@pytest.fixture(autouse=True)
def small_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile the passes of layers for which it does not pay."""
    monkeypatch.setattr(compiled_passes, "FEWEST", 0)


@pytest.fixture(scope="module")
def z() -> Tensor:
    """Return ten calls' draws from the compiled pass, `[10, DRAWS / 10]`."""
    torch.manual_seed(11)
    return torch.stack([drawn(DRAWS // 10) for _ in range(10)])


def drawn(n: int) -> Tensor:
    with torch.no_grad():
        y, scales = torch.zeros(1, n), torch.ones(n)
        noise, _ = compiled_passes.finish(
            y, None, None, None, scales, drop=0.0, sigma=1.0, bound=None
        )
        return noise[0]


def model_of(make: Callable[[], nn.Module], **change: object) -> nn.Module:
    torch.manual_seed(0)
    analog = convert(make().eval(), rasch2023.change(**change, why="test"))
    grid = only(analog).grid
    only(analog).set_input_ranges(torch.full((len(grid.rows), len(grid.columns)), 2.0))
    return analog


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(700, 600), (300, 700)),
    "thin": (lambda: nn.Linear(700, 600), (5, 700)),
    "conv": (lambda: nn.Conv2d(60, 40, 3, padding=1), (7, 60, 8, 8)),
}


@needs_compiler
@pytest.mark.parametrize("kind", LAYERS)
@torch.no_grad()
def test_without_noise_it_is_the_eager_pass(kind: str) -> None:
    """Outputs agree to float error.

    The ADC may round one output in ten thousand to the neighbouring step.
    """
    make, shape = LAYERS[kind]
    x = random(*shape)
    for last in (x, x.to(memory_format=torch.channels_last)) if x.ndim == 4 else (x,):
        for adc in (None, 8):
            eager = model_of(make, out_noise=0.0, w_noise=0.0, adc_bits=adc)
            fast = copy.deepcopy(eager)
            compiled(fast)
            expected, got = eager(last), fast(last)
            if adc is None:
                assert_close(got, expected, kind, 1e-6)
            else:
                off = (got - expected).abs() > 1e-5 * expected.abs().max()
                assert float(off.float().mean()) <= 1e-4
                assert float((got - expected).abs().max()) < 0.02 * float(expected.abs().max())


@needs_compiler
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("kind", TRAINED)
def test_outputs_and_gradients_are_the_eager_ones(
    kind: str, apart: bool, last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of inputs, weights, ranges and column scales agree.

    Ranges have their decay; inputs and outputs are clipped, the batch is in pieces, and channels
    are first and last in memory.
    """
    monkeypatch.setattr(forward, "_PIECE", 1 << 10)
    eager, x = trainable(kind, apart)
    fast = copy.deepcopy(eager)
    compiled(fast)
    if last and x.ndim == 4:
        x = x.to(memory_format=torch.channels_last)
    for expected, got in zip(everything(eager, x), everything(fast, x), strict=True):
        assert_close(got, expected, kind, 1e-12)


@needs_compiler
@torch.no_grad()
def test_half_precision_side_products() -> None:
    """IR drop in bfloat16 equals the eager one, to the precision of bfloat16."""
    make, shape = LAYERS["linear"]
    smooth = {"out_noise": 0.0, "w_noise": 0.0, "adc_bits": None}
    x = random(*shape)
    eager = model_of(make, **smooth)
    lost = (eager(x) - model_of(make, **smooth, ir_drop=0.0)(x)).abs().max()
    side_precision(eager, torch.bfloat16)
    expected = eager(x)
    compiled(eager)
    assert 0.0 < float((eager(x) - expected).abs().max() / lost) < 0.01


@needs_compiler
@torch.no_grad()
def test_noise_has_the_sigma_of_the_law() -> None:
    """Read noise and output noise act together, with the IR drop and without it."""
    weights, x = linear(400, 64).eval(), random(1, 400)
    for drop in (0.0, 1.0):
        preset = rasch2023.change(dac_bits=None, adc_bits=None, ir_drop=drop, why="noise alone")
        analog = convert(weights, preset)
        only(analog).set_input_ranges(torch.full((1, 1), 4.0))
        quiet = convert(weights, preset.change(w_noise=0.0, out_noise=0.0, why="mean"))
        only(quiet).set_input_ranges(torch.full((1, 1), 4.0))
        size = only(analog).normalised_weight().abs() @ (x[0] / 4.0).square()
        spec = preset.crossbar
        sd = (spec.w_noise**2 * size + spec.out_noise**2).sqrt()
        compiled(analog)
        torch.manual_seed(1)
        noise = analog(x.expand(4096, -1)) - quiet(x)
        assert_sd(noise / (sd * 4.0 * only(analog).column_scale()[0]), 1.0, f"noise, drop {drop}")


@needs_compiler
@torch.no_grad()
def test_a_seed_repeats_the_numbers_on_any_number_of_threads() -> None:
    threads = torch.get_num_threads()
    try:
        drawn_twice = []
        for count in (1, 2):
            torch.set_num_threads(count)
            torch.manual_seed(3)
            drawn_twice.append(drawn(100_003))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*drawn_twice)
    assert not torch.equal(drawn_twice[0], drawn(100_003))


@needs_compiler
def test_compiled_draws_are_those_of_the_definition() -> None:
    """One length leaves a remainder beside any processor's vectors."""
    for n in (1, 7, 1031):
        torch.manual_seed(5)
        key = draws.new_key(torch.device("cpu"))
        torch.manual_seed(5)
        assert_close(drawn(n), draws.normal(key, n), f"{n} draws", 2e-6)


# --- the generator --------------------------------------------------------------------------------


@needs_compiler
def test_mean_and_moments(z: Tensor) -> None:
    assert_mean(1.0 + z, 1.0)
    assert_sd(z, 1.0)
    flat = z.flatten().double()
    for power, expected, variance in (
        (1, 0, 1),
        (3, 0, 15),
        (4, 3, 96),
        (5, 0, 945),
        (6, 15, 10170),
    ):
        error = abs(float(flat.pow(power).mean()) - expected)
        assert error <= quantile() * (variance / DRAWS) ** 0.5, f"moment {power}"


@needs_compiler
def test_distance_from_the_normal_distribution(z: Tensor) -> None:
    """Kolmogorov's P(sqrt(n) D > 2.69) is 1e-6; a sigma 2 % off is found."""

    def distance(values: Tensor) -> float:
        below = torch.special.ndtr(values.flatten().sort().values.double())
        rank = torch.arange(1, DRAWS + 1, dtype=torch.double) / DRAWS
        return float(torch.maximum((rank - below).abs(), (below - rank + 1 / DRAWS).abs()).max())

    assert distance(z) * DRAWS**0.5 < 2.69
    assert distance(z * 1.02) * DRAWS**0.5 > 2.69


def test_uniform_numbers() -> None:
    """Kolmogorov's test, and independence of the normal numbers of another key."""
    n = 1_000_000
    keys = draws.key_of(torch.device("cpu"), 1, ("a",), ("b",))
    index = torch.arange(n, dtype=torch.int32)
    numbers = draws.uniform_at(keys[0], index)
    assert float(numbers.min()) >= 0.0 and float(numbers.max()) < 1.0
    ordered = numbers.double().sort().values
    rank = torch.arange(1, n + 1, dtype=torch.double) / n
    for values, same in ((ordered, True), (ordered * 0.98, False)):
        distance = torch.maximum((rank - values).abs(), (values - rank + 1 / n).abs()).max()
        assert (float(distance) * n**0.5 < 2.69) == same
    assert correlated(numbers, draws.normal(keys[1], n)) < quantile()


@needs_compiler
def test_tails(z: Tensor) -> None:
    """The counts beyond 3, 4 and 5 on either side are right."""
    for limit in (3.0, 4.0, 5.0):
        share = NormalDist().cdf(-limit)
        low, high = binom.ppf([FALSE_ALARM / 2, 1 - FALSE_ALARM / 2], DRAWS, share)
        for sign in (-1, 1):
            assert low <= int((sign * z > limit).sum()) <= high, f"{sign * limit}"
    assert float(z.abs().max()) < -ndtri(2.0**-33) + 1e-3


@needs_compiler
def test_draws_are_independent(z: Tensor) -> None:
    """Neighbours at many distances in memory are independent, and so are calls.

    This holds for sign, size and square.
    """
    flat = z.flatten()
    bound = quantile()
    for lag in (1, 2, 3, 8, 16, 64, 576, 1024, 4096, 1 << 16, 1 << 19):
        assert correlated(flat[:-lag], flat[lag:]) < bound, f"distance {lag}"
    for other in range(1, 10):
        assert correlated(z[0], z[other]) < bound, f"call {other}"
    assert correlated(flat[:-1], 0.98 * flat[1:] + 0.02 * flat[:-1]) > bound


@needs_compiler
def test_related_keys_give_independent_draws() -> None:
    """Keys differ in one bit, each bit of both words.

    Small numbers are keys too.
    """
    base = torch.tensor([123456789, -987654321], dtype=torch.int32)
    first = draws.normal(base, 100_000)
    for word in (0, 1):
        for bit in range(32):
            other = base.clone()
            other[word] ^= -(2**31) if bit == 31 else 1 << bit
            assert correlated(first, draws.normal(other, 100_000)) < quantile(), (word, bit)
    for k in range(8):
        pair = [draws.normal(torch.tensor([k, j], dtype=torch.int32), 100_000) for j in (0, 1)]
        assert_sd(pair[0], 1.0, f"key {k}")
        assert correlated(*pair) < quantile(), k


def correlated(a: Tensor, b: Tensor) -> float:
    """Return the largest of three correlations, in standard errors: values, sizes, squares."""
    worst = 0.0
    for first, second in ((a, b), (a.abs(), b.abs()), (a.square(), b.square())):
        first, second = first - first.mean(), second - second.mean()
        r = (first * second).mean() / (first.std() * second.std())
        worst = max(worst, abs(float(r)) * a.numel() ** 0.5)
    return worst


# --- messages -------------------------------------------------------------------------------------


def test_only_native_models_are_compiled() -> None:
    with pytest.raises(CapabilityError, match="native"):
        compiled(convert(linear(4, 3), rasch2023, engine="aihwkit"))


def test_without_a_compiler_it_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object, **options: object) -> None:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", fails)
    kernels.check.cache_clear()
    analog = convert(linear(4, 3), rasch2023)
    try:
        with pytest.raises(CapabilityError, match=r"no compiler found.*C\+\+"):
            compiled(analog)
        compiled(analog, False)  # This needs no compiler.
    finally:
        kernels.check.cache_clear()


def test_every_draw_is_the_inverse_normal_of_its_bits() -> None:
    """Each point equals SciPy's in double precision.

    Both signs and the far tails are included.
    """
    key = torch.tensor([12345, -67890], dtype=torch.int32)
    bits = draws._mixed(draws._mixed(torch.arange(2_000_000, dtype=torch.int32) ^ key[0]) + key[1])
    p = ((bits & 0x7FFFFFFF).double() + 0.5) * 2.0**-31
    expected = -ndtri(p.numpy() / 2.0) * np.where(bits.numpy() < 0, -1.0, 1.0)
    got = draws.normal(key, len(bits)).double().numpy()
    assert np.abs(expected).max() > 4.5
    far = np.abs(expected) > 0.01  # Nearer to 0 the float32 of 1 - p decides.
    assert np.abs(got[far] / expected[far] - 1.0).max() < 2e-5
    assert np.abs(got - expected).max() < 1e-5
