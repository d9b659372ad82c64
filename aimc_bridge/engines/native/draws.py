"""Random numbers that are drawn inside compiled passes.

torch draws Gaussians on a CPU with one thread, at 2.3 ns each, in a separate pass through memory.
Here they are drawn where they are needed.

The generator is a hash of (key, index). The numbers therefore depend neither on the number of
threads nor on the order. The hash is two rounds of a 32-bit finaliser (C. Wellons, hash-prospector,
shifts 16, 15, 15 and factors 21f0aaad, 735a2d97), with a word of the key before each round. Then
comes the inverse normal distribution in single precision (M. Giles, GPU Computing Gems 2,
chapter 10). The largest draw is 6.3.

Each product takes a key of 64 bits from the default generator of its device. The keys of a chip,
and of noise that is injected in training, are derived from names.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.engines.native.kernels import kernel, kind


def key_of(device: torch.device, seed: int, *streams: tuple[object, ...]) -> Tensor:
    """Return the keys of named streams of a seed: 63 bits each, from `rng.derive`.

    Args:
        device: The device of the keys.
        seed: The seed.
        *streams: The names of the streams.

    Returns:
        The keys as two words each, int32, shape [streams, 2].
    """
    derived = [rng.derive(seed, *names) for names in streams]
    words = [[(number & 0xFFFFFFFF) - 2**31, number >> 32] for number in derived]
    return torch.tensor(words, dtype=torch.int32).to(device)


def new_key(device: torch.device) -> Tensor:
    """Return 64 random bits from the default generator of a device.

    Args:
        device: The device.

    Returns:
        A key of two words, int32, shape [2].
    """
    return torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=device)


def normal(key: Tensor, n: int) -> Tensor:
    """Return the first N(0, 1) numbers of a key.

    Args:
        key: The key, int32, shape [2].
        n: How many numbers.

    Returns:
        The numbers, float32, shape [n].
    """
    return normal_at(key, torch.arange(n, dtype=torch.int32, device=key.device))


def normal_at(key: Tensor, index: Tensor) -> Tensor:
    """Return the N(0, 1) numbers of a key at some indices.

    The constants are literals, because torch.compile turns names into arguments and would read each
    of them from memory.

    Args:
        key: The key, int32, shape [2].
        index: The indices, int32, any shape.

    Returns:
        The numbers, float32, in the shape of `index`.
    """
    bits = _bits(key, index)
    p = ((bits & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-31  # probability of both tails
    w = -torch.log(p * (2.0 - p))
    v = w - 2.5
    near = 2.81022636e-08 * v + 3.43273939e-07
    near = near * v - 3.5233877e-06
    near = near * v - 4.39150654e-06
    near = near * v + 0.00021858087
    near = near * v - 0.00125372503
    near = near * v - 0.00417768164
    near = near * v + 0.246640727
    near = near * v + 1.50140941
    u = torch.sqrt(w) - 3.0
    far = -0.000200214257 * u + 0.000100950558
    far = far * u + 0.00134934322
    far = far * u - 0.00367342844
    far = far * u + 0.00573950773
    far = far * u - 0.0076224613
    far = far * u + 0.00943887047
    far = far * u + 1.00167406
    far = far * u + 2.83297682
    z = (1.0 - p) * 1.4142135623730951 * torch.where(w < 5.0, near, far)
    return torch.where(bits < 0, -z, z)


def uniform_at(key: Tensor, index: Tensor) -> Tensor:
    """Return numbers in [0, 1) of a key at some indices; they are multiples of 2^-24.

    Args:
        key: The key, int32, shape [2].
        index: The indices, int32, any shape.

    Returns:
        The numbers, float32, in the shape of `index`.
    """
    return ((_bits(key, index) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def _bits(key: Tensor, index: Tensor) -> Tensor:
    """Return the hash of a key and of indices, int32."""
    return _mixed(_mixed(index ^ key[0]) + key[1])


def _mixed(bits: Tensor) -> Tensor:
    """Return one round of the finaliser.

    The masks turn the shifts of signed numbers into logical ones.
    """
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * 0x21F0AAAD
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * 0x735A2D97
    return bits ^ ((bits >> 15) & 0x1FFFF)


def drawn(key: Tensor, n: int) -> Tensor:
    """Return `normal(key, n)`, drawn in a compiled pass.

    Args:
        key: The key, int32, shape [2].
        n: How many numbers.
    """
    new = torch.empty(n, dtype=torch.float32, device=key.device)
    kernel(_drawn, *kind(new))(new, key)
    return new


def _drawn(new: Tensor, key: Tensor) -> None:
    """Write the numbers of a key to a tensor; this is the pass of `drawn`."""
    new.copy_(normal(key, new.numel()))
