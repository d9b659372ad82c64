"""Which handler converts a layer: registration by layer type, and the rules of a match."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from aimc_bridge.errors import ConversionError
from aimc_bridge.spec import Preset

Handler = Callable[[nn.Module, Preset], nn.Module]
"""Makes the analog counterpart of a layer, weights copied, or raises ConversionError."""


class Handlers:
    """The layer types that one engine converts, and how."""

    def __init__(self) -> None:
        self.by_type: dict[type[nn.Module], Handler] = {}
        self.by_name: dict[tuple[str, str], Handler] = {}

    def add(self, handler: Handler, *types: type[nn.Module]) -> None:
        """Register a handler for layer types, and for subclasses that do not change `forward`."""
        for kind in types:
            self.by_type[kind] = handler

    def add_named(self, handler: Handler, module: str, name: str) -> None:
        """Register a handler for a class of a package that must not be imported for it."""
        self.by_name[module, name] = handler

    def of_type(self, kind: type) -> Handler | None:
        """Return the handler registered for exactly this class, or None."""
        return self.by_type.get(kind) or self.by_name.get((kind.__module__, kind.__qualname__))


def match(module: nn.Module, handlers: Handlers) -> Handler | None:
    """Return the handler of the nearest base class whose `forward` the module still has.

    Args:
        module: A digital layer.
        handlers: Those of the engine in use.

    Returns:
        The handler, or None if no class that the module derives from has one.

    Raises:
        ConversionError: If the analog layer would leave out something that the module does: a
            parametrization, a hook, a forward pass of its own.
    """
    for base in type(module).__mro__:
        handler = handlers.of_type(base)
        if handler is not None:
            check_replaceable(module, base)
            return handler
    return None


def check_replaceable(module: nn.Module, base: type) -> None:
    """Check that a layer does what its class `base` does, and nothing else.

    Raises:
        ConversionError: If it has parametrizations, hooks or another forward pass.
    """
    if is_parametrized(module):
        raise ConversionError(
            f"{base.__name__} with parametrizations; call "
            "torch.nn.utils.parametrize.remove_parametrizations first, or exclude it"
        )
    if hooks := _hooks(module):
        raise ConversionError(
            f"{type(module).__name__} has {hooks} that its analog layer would not run; "
            "remove them first (torch.nn.utils.remove_spectral_norm, "
            "remove_weight_norm, prune.remove, or the handle of a hook of your own), "
            "or exclude it"
        )
    on_instance = "forward" in module.__dict__  # set on this very module, by a wrapper
    if type(module).forward is not base.forward or on_instance:  # type: ignore[attr-defined]
        name = type(module).__name__
        raise ConversionError(
            f"{name} changes the forward pass of {base.__name__}; "
            f"register a handler for it with @aimc_bridge.handles({name}), or exclude it"
        )


def _hooks(module: nn.Module) -> str:
    """Which kinds of hooks a layer's forward and backward pass run; "" for none."""
    kinds = {
        "forward hooks": module._forward_hooks,
        "forward pre-hooks": module._forward_pre_hooks,
        "backward hooks": module._backward_hooks,
        "backward pre-hooks": module._backward_pre_hooks,
    }
    return " and ".join(kind for kind, hooks in kinds.items() if hooks)
