"""Tensors that depend on the inputs of a pass, told apart by their storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.weak import WeakTensorKeyDictionary

_MOST_OBJECTS = 10_000  # that arguments of a module are searched through
_WITHOUT_TENSORS = (str, bytes, int, float, type(None), type, nn.Module)


class Marks:
    """The tensors that depend on the inputs, by the storage they lie in."""

    def __init__(self) -> None:
        """Start with none."""
        self._storages: dict[int, StorageWeakRef] = {}
        self._others: Any = WeakTensorKeyDictionary()  # of tensors without a storage

    def add(self, tensor: Tensor) -> None:
        """Mark a tensor, and all that share its storage."""
        for part in _parts(tensor):
            storage = storage_of(part)
            if storage is None:
                self._others[part] = True
            elif storage._cdata not in self._storages:
                # while there is a reference, no other storage gets its address
                self._storages[storage._cdata] = StorageWeakRef(storage)

    def has(self, tensor: Tensor) -> bool:
        """Return whether a tensor depends on the inputs."""
        for part in _parts(tensor):
            storage = storage_of(part)
            if part in self._others if storage is None else storage._cdata in self._storages:
                return True
        return False


def storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """Return the storage of a tensor; None if its kind has none.

    Args:
        tensor: Any tensor.
    """
    try:
        # contexts of aihwkit 1.2.0 answer with the storage of a copy: soon another tensor has it
        with torch._C.DisableTorchFunctionSubclass():
            return tensor.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the strided tensors that a sparse one consists of, or the tensor itself."""
    if tensor.layout is torch.strided:
        return (tensor,)
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.values()
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    return (tensor,)


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is dense, so that operations on it are those of dense tensors.

    Args:
        tensor: Any tensor.
    """
    return tensor.layout is torch.strided and not tensor.is_nested


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in the arguments or the result of a module.

    Args:
        value: A tensor, or containers, dataclasses and other objects that hold tensors, such as
            batches of graphs and caches of keys and values.
    """
    seen: set[int] = set()
    todo = [value]
    while todo and len(seen) < _MOST_OBJECTS:
        item = todo.pop()
        if isinstance(item, Tensor):
            yield item
        elif id(item) not in seen and not isinstance(item, _WITHOUT_TENSORS):
            seen.add(id(item))
            if isinstance(item, Mapping):
                todo += item.values()
            elif isinstance(item, list | tuple | set | frozenset | deque):
                todo += item
            else:
                todo += getattr(item, "__dict__", {}).values()
                slots = (getattr(kind, "__slots__", ()) for kind in type(item).__mro__)
                names = (n for s in slots for n in ([s] if isinstance(s, str) else s))
                todo += (getattr(item, name, None) for name in names if name != "__dict__")


def holders_by_storage(model: nn.Module, name: str) -> dict[int, list[str]]:
    """Return the names of the parameters and buffers that lie in each storage.

    Args:
        model: The model, or a part of one.
        name: The name of the part in the whole model; "" for the model itself.
    """
    holders: dict[int, list[str]] = {}
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    for key, tensor in named:
        storage = storage_of(tensor)
        if storage is not None:
            full = ".".join(filter(None, [name, key]))
            holders.setdefault(storage._cdata, []).append(full)
    return holders
