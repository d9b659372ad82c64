"""Named random streams: the only file that draws the numbers that make a chip.

A stream is named by a seed and words, and two names share nothing: a layer's draws do not depend
on what other layers the model has, in which order they are programmed, or what ran before. On the
CPU torch's generator begins in one of 2**32 ways: of two names one pair in 4e9 shares its numbers.
"""

import hashlib

import torch


def derive(seed: int, *names: object) -> int:
    """A seed of its own for every name.

    Args:    seed  any integer.    names  words and numbers, compared by their `repr`.
    Returns: an integer in [0, 2**63), the first bytes of SHA-256 of the name.
    """
    text = "\x1f".join([repr(int(seed)), *(repr(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def stream(seed: int, *names: object, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator named by (seed, names), at its beginning, on `device`."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive(seed, *names))
    return generator


def normal(
    shape: tuple[int, ...],
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> torch.Tensor:
    """N(0, 1) of `shape`, drawn where the generator lives and moved to `device`.

    A generator on the CPU gives the same numbers whatever `device` is: CPU and CUDA share a chip.
    """
    draw = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
    return draw.to(device)


def uniform(
    shape: tuple[int, ...], generator: torch.Generator, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """U[0, 1) of `shape`, drawn where the generator lives and moved to `device`."""
    return torch.rand(shape, generator=generator, device=generator.device).to(device)


def noise_like(values: torch.Tensor) -> torch.Tensor:
    """N(0, 1) of the shape and memory order of `values`, from its device's default generator.

    Drawn in the order of the memory: on the CPU that is ten times as fast as drawing into a tensor
    whose channels come last.
    """
    flat = torch.empty(values.numel(), dtype=values.dtype, device=values.device).normal_()
    return flat.as_strided(values.shape, values.stride())
