"""The state of a user's device as a list of tensors, and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from aimc_bridge.errors import CheckpointError, UsageError

_ALLOWED = (
    "tensors, numbers and None, alone or in tuples, lists, NamedTuples, dataclasses and dicts with "
    "text keys"
)


def tensors_of(state: object) -> list[Tensor]:
    """Return all tensors and numbers of a state, in a fixed order.

    Args:
        state: What a user's `program` returned.

    Returns:
        The tensors themselves, detached, and numbers as tensors of shape ().

    Raises:
        UsageError: If there is something else in the state.
    """
    leaves: list[Tensor] = []

    def keep(leaf: Tensor | float, where: str) -> Tensor | float:
        leaves.append(leaf.detach() if isinstance(leaf, Tensor) else _number(leaf))
        return leaf

    _mapped(state, keep, "state")
    return leaves


def like(state: object, tensors: list[Tensor]) -> Any:
    """Return a state with the structure of another one, and with other tensors and numbers.

    Args:
        state: A state of the same device.
        tensors: What `tensors_of` returned for the state that is wanted.

    Returns:
        The state.

    Raises:
        CheckpointError: If number, shapes or types of the tensors do not fit.
    """
    remaining = iter(tensors)

    def take(leaf: Tensor | float, where: str) -> Tensor | float:
        stored = next(remaining, None)
        wanted = leaf if isinstance(leaf, Tensor) else _number(leaf)
        if stored is None or stored.shape != wanted.shape or stored.dtype != wanted.dtype:
            found = "nothing" if stored is None else f"{tuple(stored.shape)} {stored.dtype}"
            raise CheckpointError(
                f"{where} of the device: {found}; needs {tuple(wanted.shape)} {wanted.dtype}"
            )
        return stored if isinstance(leaf, Tensor) else type(leaf)(stored.item())

    made = _mapped(state, take, "state")
    if next(remaining, None) is not None:
        raise CheckpointError("the state of the device has more tensors than this device needs")
    return made


def _number(value: float) -> Tensor:
    """Return a number as a tensor of shape ()."""
    kind = {bool: torch.bool, int: torch.int64, float: torch.float64}
    return torch.tensor(value, dtype=next(t for k, t in kind.items() if isinstance(value, k)))


def _mapped(state: Any, change: Callable[[Any, str], Any], where: str) -> Any:
    """Return a copy of a state in which a function has replaced each tensor and number."""
    if state is None:
        return None
    if isinstance(state, Tensor):
        if state.layout != torch.strided or state.is_quantized:
            raise UsageError(f"{where} is a {state.layout} tensor; allowed: a dense tensor")
        return change(state, where)
    if isinstance(state, bool | int | float):
        return change(state, where)
    if isinstance(state, Mapping) and all(isinstance(key, str) for key in state):
        items = {key: _mapped(value, change, f"{where}[{key!r}]") for key, value in state.items()}
        return items if type(state) is dict else type(state)(items)  # type: ignore[call-arg]
    if isinstance(state, tuple | list):
        values = [_mapped(value, change, f"{where}[{i}]") for i, value in enumerate(state)]
        named = isinstance(state, tuple) and type(state) is not tuple
        return type(state)(*values) if named else type(state)(values)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        names = [f.name for f in dataclasses.fields(state) if f.init]
        changed = {n: _mapped(getattr(state, n), change, f"{where}.{n}") for n in names}
        return dataclasses.replace(state, **changed)
    raise UsageError(
        f"program returned a state with a {type(state).__name__} at {where}, which save_chip could "
        f"not write; allowed: {_ALLOWED}"
    )
