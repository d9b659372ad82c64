"""Normal numbers drawn by all threads at once, on the CPU.

A generator of torch draws with one thread, however many torch has. Long draws are therefore cut
into chunks of a fixed length, each with a generator of its own, which threads fill side by side.
The numbers depend on the state of torch's default generator alone, not on the number of threads.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

CHUNK = 1 << 17
"""Numbers of a chunk: some 0.5 ms, next to which starting a thread's work costs little."""

_WORDS = 624
_FIRST_BYTE = 24
"""Place of the Mersenne twister's words in a state of torch: behind the seed and three counters."""

_pools: dict[int, ThreadPoolExecutor] = {}

if os.name != "nt":  # Windows does not fork
    os.register_at_fork(after_in_child=_pools.clear)  # the threads of a pool are not in the child


def fill_normal(numbers: Tensor) -> None:
    """Fill a tensor with standard normal numbers, from torch's default generator.

    Args:
        numbers: A contiguous tensor with one dimension.
    """
    chunks = numbers.split(CHUNK) if numbers.device.type == "cpu" else ()
    if len(chunks) < 2:
        numbers.normal_()
        return
    # all words of a state, not a seed: torch's seeds have 32 bits, and two in 65,000 would be equal
    words = torch.randint(1 << 32, (len(chunks), _WORDS))
    threads = min(torch.get_num_threads(), len(chunks))
    if threads == 1:
        for chunk, of_chunk in zip(chunks, words, strict=True):
            _fill(chunk, of_chunk)
        return
    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads, thread_name_prefix="draws")
    list(_pools[threads].map(_fill, chunks, words))


@torch.no_grad()
def _fill(chunk: Tensor, words: Tensor) -> None:
    """Fill a chunk by a Mersenne twister that begins with these words."""
    generator = torch.Generator()
    generator.manual_seed(0)
    state = generator.get_state()
    state[_FIRST_BYTE : _FIRST_BYTE + 8 * _WORDS].view(torch.int64).copy_(words)
    generator.set_state(state)
    chunk.normal_(generator=generator)
