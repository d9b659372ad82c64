"""torch.compile for passes that are called with tensors of many sizes."""

from __future__ import annotations

import types
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

from aimc_bridge.errors import CapabilityError


@cache
def kernel(function: Callable[..., Any], *kind: object) -> Callable[..., Any]:
    """The function compiled for one kind of arguments.

    A kind has a code object of its own: torch.compile counts compilations by code object and gives
    up after eight. It also decides by the first sizes it sees whether threads are worth it, for
    all sizes and, on disk, for all later processes: here everything is worth it.
    """
    copy = types.FunctionType(function.__code__.replace(), function.__globals__)
    # named among the options, the number of threads is in the name under which code is kept on disk
    options: dict[str, Any] = {
        "cpp.threads": torch.get_num_threads(),
        "cpp.min_chunk_size": 1,
    }
    compiled: Callable[..., Any] = torch.compile(
        copy, dynamic=True, fullgraph=True, options=options
    )
    return compiled


def kind(flat: Tensor) -> tuple[object, ...]:
    """What torch.compile compiles anew for."""
    return (
        flat.dtype,
        flat.device.type,
        tuple(size == 1 for size in flat.shape),
        flat.is_contiguous(),
        torch.get_num_threads(),
        torch.is_inference_mode_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@lru_cache(maxsize=4096)
def _on_device(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Constants as a tensor: numbers would be compiled in, and compiled anew for each value."""
    return _on_device(values, like.dtype, like.device)


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
