"""Named streams: a chip is the same alone or among others, on every run and in every release."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aimc_bridge import rng
from tests.stats import assert_sd, quantile

# These are pinned: a change here changes every chip that was ever drawn.
GOLDEN_SEED = 8536256331024171286
GOLDEN = (-1.0425769, -0.3480400, 0.5366441, -0.6274794, -0.0881723, -1.7933971)
GOLDEN_FEW = (-0.5980127, 0.0641535, 0.2725314, 1.4046549)
GOLDEN_UNIFORM = (0.5603739, 0.5432540, 0.1456817)

names = st.one_of(st.text(max_size=8), st.integers(), st.floats(allow_nan=False))


def test_golden_values() -> None:
    stream = ("program", "fc1")
    assert rng.derive(7, *stream) == GOLDEN_SEED
    drawn = rng.normal((2, 3, 5), rng.stream(7, *stream)).flatten()[:6]
    torch.testing.assert_close(drawn, torch.tensor(GOLDEN), atol=1e-6, rtol=0.0)
    few = rng.normal((4,), rng.stream(7, *stream))
    torch.testing.assert_close(few, torch.tensor(GOLDEN_FEW), atol=1e-6, rtol=0.0)
    uniform = rng.uniform((3,), rng.stream(7, *stream))
    torch.testing.assert_close(uniform, torch.tensor(GOLDEN_UNIFORM), atol=1e-6, rtol=0.0)


def test_same_in_another_process() -> None:
    """There is no hash randomisation and no state of the process."""
    code = "from aimc_bridge import rng; print(rng.derive(7, 'program', 'fc1'))"
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert int(process.stdout) == GOLDEN_SEED


def test_order_and_company_do_not_matter() -> None:
    layers = ("fc1", "fc2", "encoder.0.attention")
    alone = {name: rng.normal((40,), rng.stream(3, "program", name)) for name in layers}
    torch.manual_seed(99)
    torch.randn(1000)
    for order in itertools.permutations(layers):
        streams = {name: rng.stream(3, "program", name) for name in order}
        for name in reversed(order):
            assert torch.equal(rng.normal((40,), streams[name]), alone[name])


def test_the_default_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    rng.normal((100,), rng.stream(1, "a"))
    rng.uniform((100,), rng.stream(1, "b"))
    assert torch.equal(torch.randn(3), expected)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(), st.lists(names, max_size=3), st.integers(), st.lists(names, max_size=3))
def test_another_name_is_another_seed(a: int, first: list, b: int, second: list) -> None:
    seed, other_seed = rng.derive(a, *first), rng.derive(b, *second)
    assert 0 <= seed < 2**63
    same = a == b and list(map(repr, first)) == list(map(repr, second))
    assert (seed == other_seed) == same


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (("ab", "c"), ("a", "bc")),
        (("a",), ("a", "")),
        ((1,), ("1",)),
        ((3600,), (3600.0,)),
        ((), (0,)),
    ],
)
def test_names_do_not_run_together(first: tuple, second: tuple) -> None:
    assert rng.derive(0, *first) != rng.derive(0, *second)


def test_streams_are_not_correlated() -> None:
    """Neighbouring seeds and names have correlations like independent draws."""
    count = 20_000
    keys = [(seed, name) for seed in range(4) for name in ("fc1", "fc2", "fc3")]
    draws = torch.stack([rng.normal((count,), rng.stream(s, "program", n)) for s, n in keys])
    correlation = torch.corrcoef(draws.double())
    worst = correlation.fill_diagonal_(0.0).abs().max().item()
    assert worst <= quantile() / math.sqrt(count)


def test_normal_is_standard() -> None:
    drawn = rng.normal((200_000,), rng.stream(0, "moments"))
    assert_sd(drawn, 1.0)
    assert abs(drawn.double().mean().item()) <= quantile() / drawn.numel() ** 0.5


def test_uniform_is_uniform() -> None:
    drawn = rng.uniform((200_000,), rng.stream(0, "moments"))
    assert drawn.min().item() >= 0.0 and drawn.max().item() < 1.0
    assert_sd(drawn, 12**-0.5)
    for level in (0.01, 0.5, 0.9):
        below = (drawn < level).double().mean().item()
        assert abs(below - level) <= quantile() * math.sqrt(level * (1 - level) / drawn.numel())


def test_dtype_and_device() -> None:
    assert rng.normal((2,), rng.stream(0, "a")).dtype == torch.float32
    assert rng.normal((2,), rng.stream(0, "a"), dtype=torch.float64).dtype == torch.float64
    assert rng.normal((2, 3), rng.stream(0, "a"), device="meta").device.type == "meta"
    assert rng.stream(0, "a").device.type == "cpu"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cpu_and_cuda_share_a_chip() -> None:
    on_cpu = rng.normal((100,), rng.stream(4, "program", "fc"))
    on_cuda = rng.normal((100,), rng.stream(4, "program", "fc"), device="cuda")
    assert on_cuda.device.type == "cuda"
    assert torch.equal(on_cuda.cpu(), on_cpu)
    drawn = [rng.normal((100,), rng.stream(4, "a", device="cuda"), "cuda") for _ in range(2)]
    assert torch.equal(*drawn)
