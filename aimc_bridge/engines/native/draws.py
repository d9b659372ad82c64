"""Random numbers drawn inside compiled passes.

torch draws Gaussians on a CPU with one thread, at 2.3 ns each, in a pass through memory of their
own; here they are drawn where they are needed.

The generator is a hash of (key, index), so that numbers depend neither on the number of threads nor
on the order: two rounds of a 32-bit finaliser (C. Wellons, hash-prospector, shifts 16, 15, 15 and
factors 21f0aaad, 735a2d97), a word of the key before each, then the inverse normal distribution in
single precision (M. Giles, GPU Computing Gems 2, chapter 10).
Each product takes a key of 64 bits from the default generator of its device; what makes a chip, and
noise injected in training, has keys with names. The largest draw is 6.3.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.engines.native.kernels import kernel, kind


def key_of(device: torch.device, seed: int, *streams: tuple[object, ...]) -> Tensor:
    """The keys of named streams of a seed, `[streams, 2]`: 63 bits each, as `rng.derive` has it."""
    derived = [rng.derive(seed, *names) for names in streams]
    words = [[(number & 0xFFFFFFFF) - 2**31, number >> 32] for number in derived]
    return torch.tensor(words, dtype=torch.int32).to(device)


def new_key(device: torch.device) -> Tensor:
    """64 random bits, `[2]`, from the default generator of the device."""
    return torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=device)


def normal(key: Tensor, n: int) -> Tensor:
    """The N(0, 1) numbers of a key, `[n]`, float32."""
    return normal_at(key, torch.arange(n, dtype=torch.int32, device=key.device))


def normal_at(key: Tensor, index: Tensor) -> Tensor:
    """Those of int32 indices, of their shape. Constants are literals: names are arguments to
    torch.compile, and each would be read from memory."""
    bits = _bits(key, index)
    p = ((bits & 0x7FFFFFFF).to(torch.float32) + 0.5) * 2.0**-31  # of both tails
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
    """Numbers in [0, 1), multiples of 2^-24, of int32 indices."""
    return ((_bits(key, index) >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24


def _bits(key: Tensor, index: Tensor) -> Tensor:
    return _mixed(_mixed(index ^ key[0]) + key[1])


def _mixed(bits: Tensor) -> Tensor:
    """The finaliser; masks make the shifts of signed numbers logical ones."""
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * 0x21F0AAAD
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * 0x735A2D97
    return bits ^ ((bits >> 15) & 0x1FFFF)


def drawn(key: Tensor, n: int) -> Tensor:
    """`normal(key, n)` from a compiled pass."""
    new = torch.empty(n, dtype=torch.float32, device=key.device)
    kernel(_drawn, *kind(new))(new, key)
    return new


def _drawn(new: Tensor, key: Tensor) -> None:
    new.copy_(normal(key, new.numel()))
