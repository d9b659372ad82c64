"""Handlers of layers: how they are registered by layer type, and how one is found."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from aimc_bridge.errors import ConversionError, UsageError, shown
from aimc_bridge.spec import Preset

Handler = Callable[[nn.Module, Preset], nn.Module]
"""A function that makes the analog counterpart of a layer, with copied weights.

It raises ConversionError if the layer cannot be converted.
"""


CustomFunction = Callable[[Any, Any], nn.Module]
"""A user's handler: (layer, make_linear) -> the module that replaces the layer."""

Note = str | Callable[[Any], str]
"""The coverage report's remark on a layer, or a function of the layer that returns it."""

F = TypeVar("F", bound=CustomFunction)


@dataclass(frozen=True)
class CustomHandler:
    """A user's handler, which serves every engine.

    Attributes:
        function: The function that converts a layer.
    """

    function: CustomFunction

    @property
    def name(self) -> str:
        """Return the name of the function, for coverage and errors."""
        return str(getattr(self.function, "__name__", repr(self.function)))


_REGISTERED: dict[type[nn.Module], CustomHandler] = {}


def handles(*types: type[nn.Module]) -> Callable[[F], F]:
    """Register a handler for a layer type of your own, for both engines.

    The handler is called as `handler(module, make_linear)` for every layer of the type that
    `convert` meets, and for subclasses that do not change `forward`. It returns the module that
    takes the place of the layer. `make_linear(weight, bias)` makes an analog linear layer of the
    engine in use, from a weight `[out, in]` and a bias `[out]` or None. `make_linear(linear)` does
    the same from a whole `nn.Linear`. The analog layer holds copies. A weight learns if its tensor
    requires a gradient, as a parameter does, and anything that is computed from one.

    `module` is a layer of the copy that `convert` works on, so a handler may change it and return
    it. Digital parts of the returned module are treated like the rest of the model: with `strict`
    a digital weight matrix is an error, unless it is excluded by its name. If `exclude` or
    `overrides` name an `nn.Linear` in the layer, this holds for `make_linear(linear)` too.

    For one conversion only, without registration:
    `convert(model, preset, handlers={LowRank: convert_low_rank})`.

    A layer with two factors, for which the library has no handler:

    >>> import torch
    >>> from torch import nn
    >>> from aimc_bridge import convert, coverage, handles
    >>> from presets import ideal
    >>> class LowRank(nn.Module):
    ...     def __init__(self, inputs, outputs, rank):
    ...         super().__init__()
    ...         self.down = nn.Parameter(torch.randn(rank, inputs))
    ...         self.up = nn.Parameter(torch.randn(outputs, rank))
    ...         self.bias = nn.Parameter(torch.zeros(outputs))
    ...
    ...     def forward(self, x):
    ...         return x @ self.down.T @ self.up.T + self.bias
    >>> @handles(LowRank)
    ... def convert_low_rank(module, make_linear):
    ...     down = make_linear(module.down, None)
    ...     up = make_linear(module.up, module.bias)
    ...     return nn.Sequential(down, up)
    >>> model = nn.Sequential(LowRank(12, 7, rank=3), nn.ReLU(), nn.Linear(7, 2))
    >>> x = torch.randn(5, 12)
    >>> for engine in ("native", "aihwkit"):
    ...     analog = convert(model, ideal, engine=engine)
    ...     print(torch.allclose(analog(x), model(x), atol=1e-4))
    True
    True
    >>> row = coverage(analog).iloc[0]
    >>> print(row["type"], row["where"], row["tiles"], row["reason"])
    LowRank analog 2 handler convert_low_rank

    Args:
        *types: Layer types, subclasses of `torch.nn.Module`. The handler that was registered last
            for a type is used, also if the library has one for it.

    Returns:
        A decorator that returns the handler as it is.

    Raises:
        UsageError: If a type is not a layer type, or the handler does not take two arguments.
    """
    if not types:
        raise UsageError("handles() names no layer type; allowed: @handles(MyLinear)")
    for kind in types:
        check_type(kind, "handles")

    def register(function: F) -> F:
        custom = custom_handler(function, "handles")
        for kind in types:
            _REGISTERED[kind] = custom
        return function

    return register


def check_type(kind: object, caller: str) -> None:
    """Check that something is a type of layers.

    Args:
        kind: The object that is to be a subclass of `torch.nn.Module`.
        caller: The function that the user called, for the error.

    Raises:
        UsageError: If it is not a type of layers.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)) or kind is nn.Module:
        what = "torch.nn.Module itself" if kind is nn.Module else shown(kind)
        raise UsageError(
            f"{caller}: {what} is not a layer type; allowed: a class derived from "
            "torch.nn.Module, as in @handles(MyLinear) or handlers={MyLinear: convert_mine}"
        )


def custom_handler(function: object, caller: str) -> CustomHandler:
    """Return a function of the user as a handler.

    Args:
        function: The function.
        caller: The function that the user called, for the error.

    Raises:
        UsageError: If it cannot be called with (module, make_linear).
    """
    wrong = not callable(function)
    if callable(function):
        try:
            inspect.signature(function).bind(None, None)
        except TypeError:
            wrong = True
        except ValueError:  # a built-in, which does not describe its arguments
            pass
    if wrong:
        raise UsageError(
            f"{caller}: {function!r} cannot handle a layer; allowed: a function of two arguments, "
            "such as def convert_mine(module, make_linear)"
        )
    return CustomHandler(function)  # type: ignore[arg-type]


def registered() -> dict[type[nn.Module], CustomHandler]:
    """Return the handlers that `handles` has registered so far, by layer type."""
    return dict(_REGISTERED)


class Handlers:
    """The layer types that one engine converts, with their handlers.

    Attributes:
        by_type: Handlers by class.
        by_name: Handlers by module and name of a class.
        notes: Remarks of the coverage report on layers of these classes, or functions that return
            them.
        holding: Handlers of modules that hold bare weights, with what recognises the modules.
    """

    def __init__(self) -> None:
        """Start without handlers."""
        self.by_type: dict[type[nn.Module], Handler] = {}
        self.by_name: dict[tuple[str, str], Handler] = {}
        self.notes: dict[tuple[str, str], Note] = {}
        self.holding: list[tuple[Callable[[nn.Module], bool], Handler]] = []

    def add(self, handler: Handler, *types: type[nn.Module]) -> None:
        """Register a handler for layer types.

        It serves subclasses that do not change `forward`, too.

        Args:
            handler: The handler.
            *types: The layer types.
        """
        for kind in types:
            self.by_type[kind] = handler

    def add_named(self, handler: Handler, module: str, name: str, note: Note = "") -> None:
        """Register a handler for a class of a package that must not be imported for this.

        Args:
            handler: The handler.
            module: Name of the module that defines the class.
            name: Qualified name of the class in that module.
            note: The coverage report's remark on such a layer, or a function that returns it for a
                layer.
        """
        self.by_name[module, name] = handler
        self.notes[module, name] = note

    def add_holding(self, handler: Handler, holds: Callable[[nn.Module], bool]) -> None:
        """Register a handler for modules that keep their own forward pass on the tiles.

        Args:
            handler: The handler. The module that it returns has the class of the digital one.
            holds: Returns whether a module is one of them.
        """
        self.holding.append((holds, handler))

    def note(self, module: nn.Module) -> str:
        """Return the coverage report's remark on a layer that is known by name; "" for none.

        Args:
            module: A digital layer.
        """
        kinds = ((kind.__module__, kind.__qualname__) for kind in type(module).__mro__)
        note = next((self.notes[kind] for kind in kinds if kind in self.notes), "")
        return note if isinstance(note, str) else note(module)

    def of_type(self, kind: type) -> Handler | None:
        """Return the handler that is registered for exactly this class, or None.

        Args:
            kind: The class.
        """
        return self.by_type.get(kind) or self.by_name.get((kind.__module__, kind.__qualname__))


def match(
    module: nn.Module, handlers: Handlers, custom: Mapping[type[nn.Module], CustomHandler]
) -> Handler | CustomHandler | None:
    """Return the handler of the nearest base class that does what the module does.

    Args:
        module: A digital layer.
        handlers: The handlers of the engine in use.
        custom: The handlers of the user; for the same type they come first.

    Returns:
        The handler, or None if no class that the module derives from has one.

    Raises:
        ConversionError: If the analog layer would leave out something that the module does: a
            parametrization, a hook, or its own forward pass.
    """
    base, handler = _nearest(module, handlers, custom)
    if not isinstance(handler, CustomHandler):
        for holds, keeps_forward in handlers.holding:
            if holds(module):
                check_replaceable(module, type(module))
                return keeps_forward
    if handler is not None:
        check_replaceable(module, base)
    return handler


def is_served(
    module: nn.Module, handlers: Handlers, custom: Mapping[type[nn.Module], CustomHandler]
) -> bool:
    """Return whether there is a handler for a class that a module derives from.

    Args:
        module: A digital layer.
        handlers: The handlers of the engine in use.
        custom: The handlers of the user.
    """
    return _nearest(module, handlers, custom)[1] is not None


def _nearest(
    module: nn.Module, handlers: Handlers, custom: Mapping[type[nn.Module], CustomHandler]
) -> tuple[type, Handler | CustomHandler | None]:
    """Return the nearest base class of a module that has a handler, and the handler."""
    for base in type(module).__mro__:
        handler = custom.get(base) or handlers.of_type(base)
        if handler is not None:
            return base, handler
    return nn.Module, None


def check_replaceable(module: nn.Module, base: type) -> None:
    """Check that a layer does what its class `base` does, and nothing else.

    Args:
        module: The layer.
        base: The class that a handler is registered for.

    Raises:
        ConversionError: If the layer has parametrizations, hooks or another forward pass.
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
    changed = [name for name in _run_by(base) if _is_changed(module, base, name)]
    if changed:
        name = type(module).__name__
        by = "" if changed[0] == "forward" else f" (by its own {changed[0]})"
        raise ConversionError(
            f"{name} changes the forward pass of {base.__name__}{by}; "
            f"register a handler for it with @aimc_bridge.handles({name}), or exclude it"
        )


@lru_cache(maxsize=256)
def _run_by(base: type) -> tuple[str, ...]:
    """Return the names of all that a pass through a layer of a class runs or reads from it."""
    names = ["forward", "__call__", "_call_impl", "__getattr__", "__getattribute__"]
    names += ["__torch_function__"]
    for name in names:  # it grows
        code = getattr(getattr(base, name, None), "__code__", None)
        if code is not None and not name.startswith("_call"):
            names += [used for used in code.co_names if used not in names and used not in _OFTEN]
    return tuple(names)


_OFTEN = frozenset({"training", "__class__", "__dict__", "__name__", "type"})
"""Names in the code of a forward pass that say nothing about what it computes."""


def _is_changed(module: nn.Module, base: type, name: str) -> bool:
    """Return whether a layer has something else under a name than its class `base` has."""
    own = inspect.getattr_static(type(module), name, None)
    if own is not inspect.getattr_static(base, name, None):
        return True
    return callable(own) and name in module.__dict__  # set on this very module, by a wrapper


def _hooks(module: nn.Module) -> str:
    """Return the kinds of hooks that a layer runs in its passes, as text; "" for none."""
    kinds = {
        "forward hooks": module._forward_hooks,
        "forward pre-hooks": module._forward_pre_hooks,
        "backward hooks": module._backward_hooks,
        "backward pre-hooks": module._backward_pre_hooks,
    }
    return " and ".join(kind for kind, hooks in kinds.items() if hooks)
