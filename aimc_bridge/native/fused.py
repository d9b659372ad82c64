"""What a crossbar does beside its products, as compiled passes with a generator of their own.

torch draws Gaussians on a CPU with one thread, at 2.3 ns each; every other step is a pass through
memory of its own. Here one kernel of torch.compile draws, adds and converts while an output is in
a register: on two threads all of it takes half the time of the draws alone.

The generator is a hash of (key, index), so that numbers depend neither on the number of threads nor
on the order: two rounds of a 32-bit finaliser (C. Wellons, hash-prospector, shifts 16, 15, 15 and
factors 21f0aaad, 735a2d97), a word of the key before each, then the inverse normal distribution in
single precision (M. Giles, GPU Computing Gems 2, chapter 10).
Each product takes a key of 64 bits from the default generator of its device; what makes a chip has
keys with names. The largest draw is 6.3.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.errors import CapabilityError


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
    bits = _mixed(index ^ key[0])
    bits = _mixed(bits + key[1])
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


def _mixed(bits: Tensor) -> Tensor:
    """The finaliser; masks make the shifts of signed numbers logical ones."""
    bits = bits ^ ((bits >> 16) & 0xFFFF)
    bits = bits * 0x21F0AAAD
    bits = bits ^ ((bits >> 15) & 0x1FFFF)
    bits = bits * 0x735A2D97
    return bits ^ ((bits >> 15) & 0x1FFFF)


# --- the passes -----------------------------------------------------------------------------------


class Inputs(NamedTuple):
    """Inputs of the products: as the DAC gives them, their size for the side products, its square;
    None where not wanted."""

    x: Tensor
    side: Tensor | None
    size: Tensor | None
    square: Tensor | None


def inputs(
    x: Tensor,
    input_range: Tensor | None,
    *,
    unit: float,
    steps: int | None,
    scale: float,
    side: torch.dtype | None,
    wanted: tuple[bool, bool],
) -> Inputs:
    """`forward.converted` and what side products take of it.

    Args:    steps  of the DAC; None without one.    scale  of `size`.    side  their precision,
             None that of `x`.    wanted  (size, square).
    """
    flat, strides = _flat(x)
    if input_range is not None:
        input_range = input_range.detach()
    most = unit if steps is None else float(steps)
    numbers = constants((unit if input_range is None else most, unit / most, scale), x)
    own = kernel(_inputs, *kind(flat), input_range is None, steps is None, side, wanted)
    found = own(flat, input_range, numbers, steps is not None, side, wanted)
    new, *rest = (None if one is None else one.as_strided(x.shape, strides) for one in found)
    assert new is not None
    return Inputs(new, *rest)


def _inputs(
    x: Tensor,
    input_range: Tensor | None,
    numbers: Tensor,
    rounded: bool,
    dtype: torch.dtype | None,
    wanted: tuple[bool, bool],
) -> tuple[Tensor | None, ...]:
    if input_range is None:
        x = x * numbers[0]
    else:
        x = torch.clamp(x * (numbers[0] / input_range), -numbers[0], numbers[0])
        if rounded:
            x = torch.round(x) * numbers[1]
    side = x if dtype is None else x.to(dtype)
    size = torch.abs(side * numbers[2].to(side.dtype)) if any(wanted) else None
    square = None if size is None or not wanted[1] else size * size
    return x, None if dtype is None else side, size if wanted[0] else None, square


def finish(
    y: Tensor,
    loss: Tensor | None,
    b: Tensor | None,
    variance: Tensor | None,
    *,
    late: float,
    drop: float,
    sigma: float,
    bound: int | None,
) -> Tensor:
    """IR drop, noise and ADC of a product's outputs; in their memory where that is possible.

    Args:    loss, b, late  as in `forward.Currents`.    drop  `ir_drop` of the spec.    sigma  of
             the noise, times the root of `variance` where that is given; 0 is none.
             bound  of the ADC; None without one.
    """
    flat, strides = _flat(y)
    others = [None if one is None else _like(one, y, strides) for one in (loss, b, variance)]
    memory = flat.untyped_storage().data_ptr()
    if any(one is not None and one.untyped_storage().data_ptr() == memory for one in others):
        flat = flat.clone()
    key = new_key(y.device) if sigma > 0.0 else None
    numbers = constants(
        (late, 2.0 * drop, 20.0**0.5 * drop, sigma, 0.0 if bound is None else float(bound)), y
    )
    kinds = [None if one is None else one.dtype for one in others]
    own = kernel(_finish, *kind(flat), *kinds, key is None, bound is None)
    own(flat, *others, numbers, key, bound is not None)
    return flat.as_strided(y.shape, strides)


def _finish(
    y: Tensor,
    loss: Tensor | None,
    b: Tensor | None,
    variance: Tensor | None,
    numbers: Tensor,
    key: Tensor | None,
    rounded: bool,
) -> None:
    new = y
    if loss is not None and b is not None:
        b = b.to(y.dtype) + numbers[0]
        lost = loss.to(y.dtype) * (b * b + 0.3)
        new = new - numbers[1] * lost - numbers[2] * lost * b
    if key is not None:
        noise = normal(key, y.numel()).to(y.dtype)
        if variance is not None:
            noise = noise * torch.sqrt(torch.clamp(variance.to(y.dtype), min=0.0))
        new = new + numbers[3] * noise
    if rounded:
        new = torch.clamp(torch.round(new), -numbers[4], numbers[4])
    y.copy_(new)


# --- kernels --------------------------------------------------------------------------------------


@cache
def kernel(function: Callable[..., Any], *kind: object) -> Callable[..., Any]:
    """The function compiled for one kind of arguments.

    A kind has a code object of its own: torch.compile counts compilations by code object and gives
    up after eight. It also decides by the first sizes it sees whether threads are worth it, for
    all sizes and, on disk, for all later processes: here everything is worth it.
    """
    own = types.FunctionType(function.__code__.replace(), function.__globals__)
    # named among the options, the number of threads is in the name under which code is kept on disk
    options: dict[str, Any] = {
        "cpp.threads": torch.get_num_threads(),
        "cpp.min_chunk_size": 1,
    }
    compiled: Callable[..., Any] = torch.compile(own, dynamic=True, fullgraph=True, options=options)
    return compiled


def kind(flat: Tensor) -> tuple[object, ...]:
    """What torch.compile compiles anew for."""
    return (
        flat.dtype,
        flat.device.type,
        flat.numel() == 1,
        torch.get_num_threads(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


def drawn(key: Tensor, n: int) -> Tensor:
    """`normal(key, n)` from a compiled pass."""
    new = torch.empty(n, dtype=torch.float32, device=key.device)
    kernel(_drawn, *kind(new))(new, key)
    return new


def _drawn(new: Tensor, key: Tensor) -> None:
    new.copy_(normal(key, new.numel()))


@lru_cache(maxsize=4096)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Constants as a tensor: numbers would be compiled in, and compiled anew for each value."""
    return _on_device(values, like.dtype, like.device)


def _flat(values: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    """(in the order of its memory, the strides that lead back); a copy where memory has gaps."""
    values = values.detach()  # torch.compile warns of a view of what gets a gradient
    strides = values.stride()
    pairs = zip(values.shape, strides, strict=True)
    if 1 + sum((size - 1) * stride for size, stride in pairs) != values.numel():
        values = values.clone()  # keeps the order of dimensions
        strides = values.stride()
    return values.as_strided((values.numel(),), (1,)), strides


def _like(values: Tensor, other: Tensor, strides: tuple[int, ...]) -> Tensor:
    """Flat, in the order of memory that `other` has by `strides`."""
    if any(
        size > 1 and stride != wanted
        for size, stride, wanted in zip(values.shape, values.stride(), strides, strict=True)
    ):
        copied = values.new_empty_strided(other.shape, strides)
        values = copied.copy_(values)
    return values.as_strided((values.numel(),), (1,), values.storage_offset())


@cache
def check(device: str) -> None:
    """Compile something once.

    Raises:  CapabilityError where torch.compile does not work on this kind of device.
    """

    def probe(x: Tensor) -> Tensor:
        return torch.round(x * 2.0) + 1.0

    try:
        torch.compile(probe, fullgraph=True)(torch.ones(8, device=device))
    except Exception as problem:
        text = " ".join(str(problem).split())[:300]
        raise CapabilityError(
            f"compiled: torch.compile does not work here for {device} ({text}); it needs a C++ "
            "compiler (g++, or what CXX names) on a CPU, triton on a GPU; without it leave "
            "compiled off"
        ) from problem
