"""Layers that a model holds outside of its module tree.

They are in lists, dicts, attributes and bound methods.
A model may call a layer through such a second reference. If a conversion replaced the layer in the
tree alone, the second reference would still lead to the digital layer, and nothing would tell.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from torch import nn

from aimc_bridge.errors import ConversionError

_TREE = ("_modules", "_parameters", "_buffers")


def _others(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """Yield name and value of the attributes that are not part of the module tree."""
    for key, value in list(module.__dict__.items()):
        if key not in _TREE:
            yield key, value


def unregistered(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that a model holds only outside of its module tree.

    They are in lists, dicts and the like.

    Args:
        model: The model.

    Yields:
        Name of the attribute, such as "head.stages", and a module that it holds.
    """
    known = set(model.modules())
    for name, module in model.named_modules():
        for key, value in _others(module):
            for reached in _modules_in(value, set()):
                if reached not in known:
                    known.update(reached.modules())
                    yield f"{name}.{key}" if name else key, reached


def _modules_in(value: Any, seen: set[int]) -> Iterator[nn.Module]:
    """Yield the modules in a value; `seen` has the ids of containers done before."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, list | tuple | set | frozenset | dict):
        if id(value) in seen:
            return
        seen.add(id(value))
        for item in (*value.values(), *value) if isinstance(value, dict) else value:
            yield from _modules_in(item, seen)
    elif isinstance(value, types.MethodType) and isinstance(value.__self__, nn.Module):
        yield value.__self__
    elif isinstance(value, partial):
        yield from _modules_in([value.func, *value.args, *value.keywords.values()], seen)


def redirect(
    model: nn.Module,
    replaced: Mapping[nn.Module, nn.Module | None],
    names: Mapping[nn.Module, str],
    exclude: Iterable[str],
) -> None:
    """Replace modules in everything that a model holds outside of its module tree.

    Args:
        model: The model. Its lists and dicts are changed in place.
        replaced: The replacement of each module; None if it has none of its own, such as a part of
            a layer that is converted whole.
        names: The name of each module that has one, for errors.
        exclude: The patterns that are excluded already, for errors.

    Raises:
        ConversionError: If references cannot be changed. It names all of them.
    """
    problems: list[str] = []
    to_exclude = dict.fromkeys(exclude)
    for name, module in model.named_modules():
        for key, value in _others(module):
            if any(reached in replaced for reached in _modules_in(value, set())):
                where = f"{name}.{key}" if name else key
                try:
                    module.__dict__[key] = _changed(value, replaced, where, set())
                except ConversionError as problem:
                    problems.append(str(problem))
                    held = [m for m in _modules_in(value, set()) if m in replaced]
                    to_exclude |= dict.fromkeys(filter(None, map(names.get, held)))
    if problems:
        listed = ", ".join(f'"{name}"' for name in to_exclude)
        raise ConversionError(
            f"{'; '.join(problems)}; keep layers in the module tree alone (nn.ModuleList, "
            f"nn.ModuleDict), or leave these digital: exclude=[{listed}]"
        )


def _changed(
    value: Any, replaced: Mapping[nn.Module, nn.Module | None], where: str, seen: set[int]
) -> Any:
    """Return the value with its modules replaced, or raise ConversionError."""

    def each(items: Iterable[Any]) -> Iterator[Any]:
        """Yield every item with its modules replaced."""
        return (_changed(item, replaced, where, seen) for item in items)

    if isinstance(value, nn.Module):
        replacement = replaced.get(value, value)
        if replacement is not None:
            return replacement
    elif not any(m in replaced for m in _modules_in(value, set())) or id(value) in seen:
        return value
    elif isinstance(value, types.MethodType):
        owner = replaced.get(value.__self__)  # type: ignore[call-overload]
        if owner is not None:
            return getattr(owner, value.__name__)
    elif isinstance(value, list):
        seen.add(id(value))
        value[:] = each(value)
        return value
    elif isinstance(value, dict) and not any(key in replaced for key in value):
        seen.add(id(value))
        value.update(zip(list(value), list(each(value.values())), strict=True))
        return value
    elif type(value) in (tuple, set, frozenset):
        return type(value)(each(value))
    raise ConversionError(
        f"attribute {where!r} holds a layer in a {type(value).__name__}, through which it would "
        "stay digital"
    )
