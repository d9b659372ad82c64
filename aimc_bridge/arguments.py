"""Checks of arguments: each returns the value in its plain form, or says what is allowed."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from aimc_bridge.errors import UsageError, shown
from aimc_bridge.files import check_path

if TYPE_CHECKING:
    from torch import nn

MOST_SEED = 2**128
"""The largest size of a seed, positive or negative."""
Kind = TypeVar("Kind")
_TRUTHS = ("bool", "bool_")  # Python's, and numpy's under two names


def integer(name: str, value: object, least: int | None = None, most: int = MOST_SEED) -> int:
    """Return a value as an int, if it is an integer of Python, numpy or torch.

    Args:
        name: Name of the argument, for the error.
        value: The value; True and False are not allowed.
        least: The smallest value allowed; None allows negative ones, too.
        most: The largest value allowed, also for the size of negative ones.

    Raises:
        UsageError: If the value is no integer, too small or too large.
    """
    number = None if _is_truth(value) else _as_integer(value)
    if number is None or abs(number) > most or (least is not None and number < least):
        bound = "" if least is None else f" >= {least}"
        if number is not None and abs(number) > most:
            bound = f" up to {most}"
        raise UsageError(f"{name}={shown(value)}; allowed: an integer{bound}")
    return number


def _as_integer(value: Any) -> int | None:
    """Return what Python takes for an index, or None."""
    try:
        return operator.index(value) if not getattr(value, "shape", ()) else None
    except Exception:  # noqa: BLE001 - a stranger's object
        return None


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    most: float = math.inf,
) -> float:
    """Return a value as a float, if it is a finite number of Python, numpy or torch.

    Args:
        name: Name of the argument, for the error.
        value: The value; True and False are not allowed.
        above: A number that the value must be above.
        least: The smallest value allowed.
        most: The largest value allowed.

    Raises:
        UsageError: If the value is no number, not finite, too small or too large.
    """
    size = math.nan
    if not _is_truth(value) and not isinstance(value, str | bytes) and not _sides(value):
        try:
            size = float(value)  # type: ignore[arg-type]
        except Exception:  # noqa: BLE001 - a stranger's object
            size = math.nan
    if not (math.isfinite(size) and above < size and least <= size <= most):
        bounds = [f"> {above:g}"] * (above > -math.inf) + [f">= {least:g}"] * (least > -math.inf)
        bounds += [f"<= {most:g}"] * (most < math.inf)
        allowed = f"a finite number {' and '.join(bounds)}".rstrip()
        raise UsageError(f"{name}={shown(value)}; allowed: {allowed}")
    return size


def _sides(value: Any) -> bool:
    """Return whether a value is an array or a tensor with sides, or complex."""
    return bool(getattr(value, "shape", ())) or isinstance(value, complex)


def flag(name: str, value: object) -> bool:
    """Return a value as a bool, if it is true or false.

    Args:
        name: Name of the argument, for the error.
        value: True or False, of Python, numpy or torch.

    Raises:
        UsageError: If the value is something else.
    """
    if _is_truth(value):
        return bool(value)
    raise UsageError(f"{name}={shown(value)}; allowed: True, False")


def _is_truth(value: object) -> bool:
    """Return whether a value is True or False, of Python, numpy or torch."""
    kind = str(getattr(value, "dtype", type(value).__name__)).rpartition(".")[2]
    return kind in _TRUTHS and not _sides(value)


def choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return a text, if it is one of those that are allowed.

    Args:
        name: Name of the argument, for the error.
        value: The value.
        allowed: The texts.

    Raises:
        UsageError: If the value is something else.
    """
    known = list(allowed)
    if not isinstance(value, str) or value not in known:
        raise UsageError(f"{name}={shown(value)}; allowed: {', '.join(map(repr, known))}")
    return value


def texts(name: str, value: object) -> list[str]:
    """Return the texts of an argument that takes one or several of them.

    Args:
        name: Name of the argument, for the error.
        value: A text, or an iterable of texts.

    Raises:
        UsageError: If the value is something else.
    """
    if isinstance(value, str):
        return [value]
    listed = None if isinstance(value, bytes) else _listed(value)
    if listed is None or not all(isinstance(text, str) for text in listed):
        raise UsageError(f"{name}={shown(value)}; allowed: a text, or a list of texts")
    return listed


def _listed(value: Any) -> list[Any] | None:
    """Return the members of an iterable; None if it is none."""
    try:
        return list(value)
    except Exception:  # noqa: BLE001 - a stranger's object
        return None


def iterable(name: str, value: Any, example: str) -> Iterable[Any]:
    """Return a value, if it can be iterated.

    Args:
        name: Name of the argument, for the error.
        value: The value. It is not iterated yet: a DataLoader would start its workers.
        example: What is allowed, for the error.

    Raises:
        UsageError: If the value cannot be iterated.
    """
    known = isinstance(value, Iterable) and getattr(value, "shape", None) != ()
    if not known:
        try:
            iter(value)  # also what has only __getitem__, such as a Dataset
        except Exception:  # noqa: BLE001 - a stranger's object
            raise UsageError(f"{name} is a {type(value).__name__}; allowed: {example}") from None
    plain: Iterable[Any] = value
    return plain


def mapping(name: str, value: object, example: str) -> dict[Any, Any]:
    """Return a copy of a mapping as a dict; None is an empty one.

    Args:
        name: Name of the argument, for the error.
        value: A mapping, or None.
        example: What is allowed, for the error.

    Raises:
        UsageError: If the value is something else.
    """
    if value is None or isinstance(value, Mapping):
        return dict(value or {})
    raise UsageError(f"{name} is a {type(value).__name__}; allowed: {example}")


def instance(name: str, value: object, kind: type[Kind], example: str) -> Kind:
    """Return a value, if it is an object of a class.

    Args:
        name: Name of the argument, for the error.
        value: The value.
        kind: The class.
        example: What is allowed, for the error.

    Raises:
        UsageError: If the value is something else.
    """
    if not isinstance(value, kind):
        raise UsageError(f"{name}={shown(value)}; allowed: {example}")
    return value


def module(name: str, value: object) -> nn.Module:
    """Return a value, if it is a model.

    Args:
        name: Name of the argument, for the error.
        value: The value.

    Raises:
        UsageError: If the value is something else.
    """
    from torch import nn

    if not isinstance(value, nn.Module):
        raise UsageError(f"{name} is a {type(value).__name__}; allowed: a torch.nn.Module")
    return value


def function(name: str, value: object, example: str) -> Callable[..., Any]:
    """Return a value, if it can be called.

    Args:
        name: Name of the argument, for the error.
        value: The value.
        example: What is allowed, for the error.

    Raises:
        UsageError: If the value cannot be called.
    """
    if not callable(value):
        raise UsageError(f"{name}={shown(value)}; allowed: {example}")
    return value


def path(name: str, value: object) -> Path:
    """Return a value as a path.

    Args:
        name: Name of the argument, for the error.
        value: A text or an object of `os.PathLike`.

    Raises:
        UsageError: If the value is something else or empty, or if the path cannot be encoded here.
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise UsageError(f"{name}={shown(value)}; allowed: a path, such as 'folder/name'")
    return check_path(text)
