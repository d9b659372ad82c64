"""Attributes of digital layers that an analog layer computes from what it holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.errors import UsageError

_HARMLESS = ("requires_grad_", "share_memory_", "detach_")


class ComputedWeight(Tensor):
    """The trained weights of a layer, computed when they were read.

    They are read like any tensor. To write to them would change a copy only, so in-place changes
    (such as those of `nn.init`) are an error that says how the layer's weights are set.

    Attributes:
        how: How the weights are set, for the error.
    """

    how: str

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run an operation on plain tensors, or refuse it if it would write to a weight.

        Args:
            func: The operation.
            types: Types of its arguments.
            args: Its arguments.
            kwargs: Its named arguments.

        Raises:
            UsageError: If it writes to a computed weight, or to a view of one.
        """
        kwargs = kwargs or {}
        first = args[0] if args else kwargs.get("tensor", kwargs.get("input"))
        targets = (first if _writes(func.__name__) else None, kwargs.get("out"))
        for target in targets:
            if isinstance(target, ComputedWeight):
                raise UsageError(
                    f"{func.__name__}: these weights are a copy, which no product uses; "
                    f"{target.how}"
                )
        weights = [value for value in (*args, *kwargs.values()) if isinstance(value, cls)]
        with torch._C.DisableTorchFunctionSubclass():
            plain = [_plain(value) for value in args]
            result = func(*plain, **{name: _plain(value) for name, value in kwargs.items()})
            for weight in weights:
                if isinstance(result, Tensor) and _shares_memory(result, weight):
                    return computed(result, weight.how)
        return result


def _writes(name: str) -> bool:
    """Return whether an operation changes its first argument, from its name."""
    if name.startswith("__"):
        return name in ("__set__", "__setitem__") or name.startswith("__i") and name != "__invert__"
    return name.endswith("_") and name not in _HARMLESS


def _plain(value: Any) -> Any:
    """Return arguments with plain tensors in place of computed weights."""
    if isinstance(value, ComputedWeight):
        return value.as_subclass(Tensor)
    if isinstance(value, tuple | list):
        return type(value)(map(_plain, value))
    return value


def _shares_memory(result: Tensor, weight: Tensor) -> bool:
    """Return whether a result is a view of a weight."""
    if result.layout is not torch.strided or result.is_meta:
        return False
    return result.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr()


def computed(weight: Tensor, how: str) -> Tensor:
    """Return weights that can be read but not written.

    Args:
        weight: The weights, a tensor of their own.
        how: How the layer's weights are set, for the error: "set ...".
    """
    result = weight.as_subclass(ComputedWeight)
    result.how = how
    return result


def weight_of(part: nn.Module, name: str = "weight") -> Tensor:
    """Return the trained weights of an analog linear layer, detached.

    Args:
        part: The layer, of any engine.
        name: "weight", or "bias" if the layer has one.
    """
    weight = getattr(part, name)
    assert isinstance(weight, Tensor)
    return weight.detach()


def missing(layer: nn.Module, name: str) -> AttributeError:
    """Return the error for an attribute that an analog layer does not have.

    Args:
        layer: The analog layer.
        name: Name of the attribute.
    """
    own = {name for kind in type(layer).__mro__ for name in vars(kind)} - set(dir(nn.Module))
    own |= {*vars(layer), *layer._parameters, *layer._buffers, *layer._modules}
    own -= set(vars(nn.Module()))
    public = ", ".join(sorted(name for name in own if not name.startswith("_")))
    return AttributeError(
        f"{type(layer).__name__} has no attribute {name!r}; this analog layer has: {public}"
    )


class AnalogModule(nn.Module):
    """A layer whose error for an attribute that is not there lists those that are."""

    def __getattr__(self, name: str) -> Any:
        """Return a parameter, buffer or child."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise missing(self, name) from None


class OfMatrices(AnalogModule):
    """A recurrent layer or cell, whose weights and biases are those of its analog children.

    `weight_ih_l0` is the weight of the child `ih_l0`, and so on: it can be read and set.
    """

    def __getattr__(self, name: str) -> Any:
        """Return a weight or bias of a child, or a child."""
        child, kind = self._part(name)
        value = None if child is None else getattr(child, kind)
        if value is not None:
            return value
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a weight or bias of a child, or another attribute."""
        child, kind = self._part(name)
        if child is None:
            super().__setattr__(name, value)
        else:
            setattr(child, kind, value)

    def _part(self, name: str) -> tuple[nn.Module | None, str]:
        """Return the child that a name such as "weight_ih_l0" means, or None; and "weight"."""
        kind, _, child = name.partition("_")
        if kind not in ("weight", "bias"):
            return None, kind
        return self.__dict__.get("_modules", {}).get(child), kind
