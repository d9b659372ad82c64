"""Named random streams: this file alone draws the numbers that make a chip.

The name of a stream is a seed and words, and two names share nothing. The draws of a layer do not
depend on the other layers of the model, on the order in which they are programmed, or on what ran
before. On the CPU, torch's generator has 2**32 different beginnings: of all pairs of names, one in
4e9 shares its numbers.
"""

import hashlib
import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from aimc_bridge.parallel_draws import fill_normal

_turn = threading.RLock()
WARN_AFTER_S = 60.0


@contextmanager
def alone() -> Iterator[None]:
    """Keep other threads from torch's default generator while the block runs.

    The threads of a process share that generator, and with it the noise of products, dropout and
    all noise of aihwkit. Whoever seeds it must have it alone until its numbers are drawn. A thread
    that has it may ask for it again.

    Yields:
        None.

    Warns:
        UserWarning: If another thread has had it for a minute. It may be training, or it may wait
            for this thread, and then both wait for ever.
    """
    turn = _turn
    if not turn.acquire(timeout=WARN_AFTER_S):
        warnings.warn(
            f"waiting since {WARN_AFTER_S:.0f} s for another thread that sweeps, trains or draws a "
            "chip. If that thread waits for this one (an `evaluate` that starts threads, and waits "
            "for them), both wait for ever: let `evaluate` call the library in its own thread, or "
            "in other processes",
            stacklevel=4,
        )
        turn.acquire()
    try:
        yield
    finally:
        turn.release()


def _new_turn() -> None:
    """Free the generator in a process that was forked: the thread that had it is not in it."""
    global _turn
    _turn = threading.RLock()


if os.name != "nt":  # Windows does not fork
    os.register_at_fork(after_in_child=_new_turn)


@contextmanager
def seeded(seed: int, *names: object, devices: Iterable[int] = ()) -> Iterator[None]:
    """Run a block with torch's default generator at the beginning of a named stream.

    After the block the generator is in the same state as before. No other thread has it meanwhile.

    Args:
        seed: Any integer.
        *names: Words and numbers. Their `repr` counts.
        devices: Numbers of the CUDA devices whose generators are put back, too.

    Yields:
        None.
    """
    with alone(), torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(derive(seed, *names))
        yield


def derive(seed: int, *names: object) -> int:
    """Return a seed for a name, different for every name.

    Args:
        seed: Any integer.
        *names: Words and numbers. Their `repr` counts.

    Returns:
        An integer in [0, 2**63), made of the first bytes of the name's SHA-256.
    """
    text = "\x1f".join([repr(int(seed)), *(repr(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of a name, at its beginning.

    Args:
        seed: Any integer.
        *names: Words and numbers. Their `repr` counts.
        device: Where the generator draws.

    Returns:
        A new generator, seeded by `derive`.
    """
    generator = torch.Generator(device=device)
    generator.manual_seed(derive(seed, *names))
    return generator


def normal(
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """Draw standard normal numbers where the generator is, and move them to a device.

    A generator on the CPU gives the same numbers for every `device`: a chip is the same on the CPU
    and on CUDA.

    Args:
        shape: Shape of the result.
        generator: The stream. It moves on.
        device: Device of the result.
        dtype: Floating-point type of the result.

    Returns:
        N(0, 1), of the given shape.
    """
    draw = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    return draw.to(device)


def uniform(
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Draw uniform numbers where the generator is, and move them to a device.

    Args:
        shape: Shape of the result.
        generator: The stream. It moves on.
        device: Device of the result.
        dtype: Floating-point type of the result; None is torch's default one.

    Returns:
        U[0, 1), of the given shape.
    """
    draw = torch.rand(shape, generator=generator, device=generator.device, dtype=dtype)
    return draw.to(device)


def noise_like(values: torch.Tensor) -> torch.Tensor:
    """Draw standard normal numbers of the shape and memory order of a tensor.

    They are drawn in the order of the memory. On the CPU that is ten times as fast as drawing into
    a tensor whose channels come last, and all threads draw (`parallel_draws`).

    Args:
        values: A dense tensor. Its values do not matter.

    Returns:
        N(0, 1), from the default generator of the device that `values` is on.
    """
    flat = torch.empty(values.numel(), dtype=values.dtype, device=values.device)
    fill_normal(flat)
    return flat.as_strided(values.shape, values.stride())
