"""Memory: bytes that a model holds, peak bytes of a run, bytes of a conversion.

A converted model has a copy of the trained weights, which takes the digital model's place. All else
that it keeps alive for its tiles is added: scales and ranges, the chip (conductances, drift
exponents, the weights held now, the compensation), and whatever is kept for the next product.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, drift, program, restore
from aimc_bridge.converted import digital_state, matrices_of
from aimc_bridge.spec import Preset
from benchmarks.speed.works import Work, outputs

_SKIPPED = (type, ModuleType, FunctionType, BuiltinFunctionType, str, bytes, int, float, complex)


def storage(tensor: Tensor) -> tuple[int, int]:
    """Return the address and the bytes of the memory behind a tensor; views share it.

    A tensor on the meta device has none.

    Args:
        tensor: Any tensor.
    """
    if tensor.is_meta:
        return id(tensor), 0
    if tensor.layout != torch.strided or tensor.is_mkldnn:
        return id(tensor), tensor.numel() * tensor.element_size()
    memory = tensor.untyped_storage()
    return memory.data_ptr(), memory.nbytes()


def held_by(model: nn.Module) -> dict[str, int]:
    """Return the bytes of every storage that a model keeps alive.

    These are parameters, buffers, gradients, and tensors in plain attributes, containers and
    objects: chips, injected weights, caches. A storage counts once. Python objects themselves do
    not count.

    Args:
        model: Any model.

    Returns:
        Path -> bytes; the path is the first way that leads to the storage.
    """
    sizes: dict[str, int] = {}
    addresses: set[int] = set()
    for path, tensor in _tensors(model, "", set()):
        address, size = storage(tensor)
        if size and address not in addresses:
            addresses.add(address)
            sizes[path] = size
    return sizes


def held_bytes(model: nn.Module) -> int:
    """Return the sum of `held_by`.

    Args:
        model: Any model.
    """
    return sum(held_by(model).values())


def _tensors(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if id(value) in seen or isinstance(value, _SKIPPED) or value is None:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield path, value
        if value.is_leaf and value.grad is not None:
            yield f"{path}.grad", value.grad
        return
    if isinstance(value, MethodType):
        yield from _tensors(value.__self__, path, seen)
        return
    children: list[tuple[object, Any]] = []
    if isinstance(value, Mapping):
        children += [(f"[{key!r}]", child) for key, child in value.items()]
    elif isinstance(value, list | tuple | set | frozenset):
        named = getattr(value, "_fields", None)
        keys = [f".{name}" for name in named] if named else [f"[{i}]" for i in range(len(value))]
        children += list(zip(keys, value, strict=True))
    if isinstance(value, nn.Module):
        # a layer's own tensors first: they must not be named by a crossbar's way back to its owner
        tensors = {**value._parameters, **value._buffers}
        children += [(f".{name}", child) for name, child in tensors.items()]
    if hasattr(value, "__dict__"):
        children += [
            (f".{name}", child)
            for name, child in vars(value).items()
            if name not in ("_modules", "_parameters", "_buffers")
        ]
    if isinstance(value, nn.Module):
        children += [(f".{name}", child) for name, child in value._modules.items()]
    for name, child in children:
        yield from _tensors(child, f"{path}{name}".removeprefix("."), seen)


def matrix_bytes(model: nn.Module) -> int:
    """Return the bytes of the trained weights on the tiles of a converted model.

    Args:
        model: The converted model.
    """
    weights = (matrix.clean_weight() for matrix in matrices_of(model).values())
    return sum(weight.numel() * weight.element_size() for weight in weights)


def events(run: Callable[[], object]) -> list[int]:
    """Return the sizes of torch's memory events on the CPU in a run, in order.

    They are bytes: positive when the allocator gives memory, negative when it takes it back. Memory
    that was given before the first call of this function is not seen when it is taken back. Memory
    that other libraries allocate by themselves (aihwkit's C++ tile) is not included.

    Args:
        run: The work.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else it complains of a missing GPU driver
    with torch.autograd.profiler.profile(use_kineto=True, profile_memory=True) as profiler:
        run()
    results: Any = profiler.kineto_results
    changes = [
        (event.start_ns(), event.nbytes())
        for event in results.events()
        if event.name() == "[memory]" and event.device_type().name == "CPU"
    ]
    return [size for _, size in sorted(changes, key=lambda pair: pair[0])]


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """Return the most memory that a work needs at once, in bytes.

    Memory that is held before it does not count. On the CPU the work runs twice.

    Args:
        run: The work.
        device: The device that it runs on.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    most = now = 0
    events(run)  # so that the sizes of what the next run frees are known
    for size in events(run):
        now += size
        most = max(most, now)
    return most


# --- what a converted model adds to its weights ---------------------------------------------------

BEFORE, AFTER, USED = 1.5, 4.0, 5.0
"""Bytes that may be added, as multiples of the weights' bytes.

They are those before programming, after it, and after the first products of the chip, which keep
what they derive from its weights until the next drift.
"""

CONVERTED, CLEAN = "converted", "clean forward pass"
PROGRAMMED, READ, RUN, RESTORED = "programmed", "drifted", "forward pass of the chip", "restored"
BOUNDS = {
    CONVERTED: BEFORE,
    CLEAN: BEFORE,
    PROGRAMMED: AFTER,
    READ: AFTER,
    RUN: USED,
    RESTORED: BEFORE,
}


def digital_bytes(model: nn.Module) -> int:
    """Return the bytes of parameters and buffers outside a model's analog layers.

    Args:
        model: The converted model.
    """
    tensors = digital_state(model, matrices_of(model)).values()
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def stages(work: Work, preset: Preset) -> Iterator[tuple[str, nn.Module]]:
    """Yield a converted model at each stage; it is the same object each time.

    Args:
        work: The work.
        preset: The chip.

    Yields:
        The name of the stage, and the model.
    """
    model = convert(work.model, preset, exclude=work.exclude).eval()
    yield CONVERTED, model
    if preset.crossbar.input_range != "none":
        calibrate(model, [work.batch(work.size)])

    def forward() -> None:
        with torch.no_grad():
            outputs(model, work.batch(work.size))

    later: list[tuple[str, Callable[[], object]]] = [
        (CLEAN, forward),
        (PROGRAMMED, lambda: program(model, 0)),
        (READ, lambda: drift(model, "1h")),
        (RUN, forward),
        (RESTORED, lambda: restore(model)),
    ]
    for stage, step in later:
        step()
        yield stage, model


def added(model: nn.Module) -> float:
    """Return the bytes that conversion adds, over the bytes of the weights on tiles.

    Digital parts and the trained weights themselves are not added.

    Args:
        model: The converted model.
    """
    weights = matrix_bytes(model)
    return (held_bytes(model) - digital_bytes(model)) / weights - 1.0


def added_by_stage(work: Work, preset: Preset) -> dict[str, float]:
    """Return what is `added` at each stage.

    Args:
        work: The work.
        preset: The chip.

    Returns:
        Stage -> added bytes, as a multiple of the bytes of the weights on tiles.
    """
    return {stage: added(model) for stage, model in stages(work, preset)}
