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
    """Return a function compiled for one kind of arguments.

    Every kind has its own code object, because torch.compile counts compilations by code object and
    gives up after eight. torch.compile also decides by the first sizes that it sees whether threads
    are worth it, for all sizes and, on disk, for all later processes. Here they are always used.

    Args:
        function: The function, without defaults and closure.
        *kind: The result of `kind` for the arguments, and constants that are compiled in.
    """
    copy = types.FunctionType(function.__code__.replace(), function.__globals__)
    # as an option, the number of threads is a part of the name under which code is kept on disk
    options: dict[str, Any] = {
        "cpp.threads": torch.get_num_threads(),
        "cpp.min_chunk_size": 1,
    }
    compiled: Callable[..., Any] = torch.compile(
        copy, dynamic=True, fullgraph=True, options=options
    )
    return compiled


def kind(flat: Tensor) -> tuple[object, ...]:
    """Return the properties of a tensor for which torch.compile compiles again.

    Args:
        flat: The tensor.
    """
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
    """Return numbers as a tensor, made once per device and dtype."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def constants(values: tuple[float, ...], like: Tensor) -> Tensor:
    """Return constants as a tensor.

    As plain numbers they would be compiled in, and the pass would be compiled again for every
    value.

    Args:
        values: The numbers.
        like: A tensor of the dtype and device that the constants get.
    """
    return _on_device(values, like.dtype, like.device)


@cache
def check(device: str) -> None:
    """Compile a small function once, to see whether torch.compile works.

    Args:
        device: Type of the device, "cpu" or "cuda".

    Raises:
        CapabilityError: If torch.compile does not work on this type of device.
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
