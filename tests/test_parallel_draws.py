"""Long draws of normal numbers: reproducible, independent of threads, and standard normal."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.parallel_draws import CHUNK, fill_normal

LENGTHS = [1, CHUNK, CHUNK + 1, 3 * CHUNK, 5 * CHUNK - 7]


@pytest.fixture(autouse=True)
def same_threads_afterwards():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def drawn(
    length: int, seed: int = 3, threads: int = 1, dtype: torch.dtype = torch.float32
) -> Tensor:
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    numbers = torch.full((length,), torch.nan, dtype=dtype)
    fill_normal(numbers)
    return numbers


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_the_seed_alone_decides(length: int, dtype: torch.dtype) -> None:
    """One, two and three threads give the same numbers; another seed gives others."""
    first = drawn(length, dtype=dtype)
    assert bool(first.isfinite().all()) and first.dtype == dtype
    for threads in (2, 3):
        assert torch.equal(drawn(length, threads=threads, dtype=dtype), first)
    assert not torch.equal(drawn(length, seed=4, dtype=dtype), first)


def test_short_draws_are_those_of_torch() -> None:
    torch.manual_seed(3)
    assert torch.equal(torch.randn(CHUNK), drawn(CHUNK))


def test_the_next_draw_is_another_one() -> None:
    torch.manual_seed(3)
    first, second = torch.empty(2, 3 * CHUNK)
    fill_normal(first)
    fill_normal(second)
    assert float(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 5.0 / len(first) ** 0.5


def test_numbers_are_standard_normal_and_chunks_are_independent() -> None:
    """Kolmogorov and Smirnov's test of all, and correlations of all pairs of chunks.

    A right draw fails once in a million.
    """
    chunks = drawn(16 * CHUNK, threads=2).view(16, CHUNK)
    assert stats.kstest(chunks.flatten().numpy(), "norm").pvalue > 3e-7
    for shift in (0, 1, 2, 624):
        shifted = torch.cat([chunks[:, : CHUNK - shift], chunks[:, shift:]])
        pairs = np.corrcoef(shifted.double().numpy())[np.triu_indices(32, 1)]
        if shift == 0:
            pairs = np.corrcoef(chunks.double().numpy())[np.triu_indices(16, 1)]
        bound = stats.norm.isf(3e-7 / 4 / len(pairs) / 2) / (CHUNK - shift) ** 0.5
        assert np.abs(pairs).max() < bound


def test_the_words_of_a_state_are_where_they_are_expected() -> None:
    """NumPy's Mersenne twister has the same words after the same seed."""
    generator = torch.Generator().manual_seed(5)
    words = generator.get_state()[24 : 24 + 8 * 624].view(torch.int64)
    assert np.array_equal(words.numpy(), np.random.RandomState(5).get_state()[1])  # type: ignore[index]


def test_every_state_of_the_default_generator_counts() -> None:
    """Two states that differ in the last word alone give different chunks."""
    draws = []
    for change in (0, 1):
        torch.manual_seed(3)
        torch.rand(1)
        state = torch.get_rng_state()
        state[24 + 8 * 600] ^= change
        torch.set_rng_state(state)
        numbers = torch.empty(2 * CHUNK)
        fill_normal(numbers)
        draws.append(numbers)
    assert not torch.equal(draws[0][:CHUNK], draws[1][:CHUNK])


def test_noise_has_the_order_of_the_memory() -> None:
    values = torch.empty(8, 16, 64, 64).to(memory_format=torch.channels_last)
    noise = rng.noise_like(values)
    assert noise.stride() == values.stride()
    torch.manual_seed(3)
    noise = rng.noise_like(values)
    assert torch.equal(noise.permute(0, 2, 3, 1).flatten(), drawn(values.numel(), threads=2))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_draws() -> None:
    """Its parent's threads are not in it, neither ours nor OpenMP's: NumPy compares."""
    expected = drawn(3 * CHUNK, threads=2).numpy()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.manual_seed(3)
            numbers = torch.empty(3 * CHUNK)
            fill_normal(numbers)
            code = 0 if np.array_equal(numbers.numpy(), expected) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
