"""Recognise the layers that a conversion cannot serve, and name them in its errors."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aimc_bridge.converted import shortened
from aimc_bridge.errors import ConversionError

_QUANTISED = re.compile(r"(^|\.)quantized(\.|$)|^torchao\.|^bitsandbytes\.")
_MULTIPLIES = re.compile(r"Linear|Conv|LSTM|GRU|RNN|Attention|Bilinear")
_SHOWN = 12  # entries that the error writes out of each cause


class Cause(Enum):
    """Why weights cannot lie on tiles; the value is what the error says of it, and what to do."""

    UNSERVED = (
        "these hold weight matrices that no handler of engine {engine!r} serves",
        "write a handler for their types (@aimc_bridge.handles, or handlers={{...}})",
    )
    LEFT = (
        "these hold weight matrices that a handler of yours left digital",
        "convert them there with make_linear",
    )
    REFUSED = ("these layers cannot be converted as they are", "change them as the reasons say")


def is_matrix(tensor: Tensor) -> bool:
    """Return whether a tensor has more than one side; sides of length 1 do not count.

    Args:
        tensor: A parameter.
    """
    return sum(side > 1 for side in tensor.shape) > 1


def why_not(module: nn.Module) -> str:
    """Return why a layer's weights cannot lie on tiles, whatever its handler; "" if they can.

    Args:
        module: A layer. It may hold its weights in no parameter, but packed.
    """
    kind = type(module)
    packed = any(isinstance(value, torch.ScriptObject) for value in module.__dict__.values())
    if _MULTIPLIES.search(kind.__name__) and _QUANTISED.search(kind.__module__):
        return f"{kind.__name__} of {kind.__module__} multiplies with quantised weights"
    if packed and not kind.__name__.startswith("Embedding"):
        return f"{kind.__name__} holds packed weights"
    return ""


def no_cells(module: nn.Module) -> str:
    """Return which weights of a layer are empty or not floating point; "" for none.

    Args:
        module: A layer that a handler serves.
    """
    for name, parameter in module.named_parameters():
        if parameter.numel() == 0:
            return f"{type(module).__name__} with an empty {name} {tuple(parameter.shape)}"
        if not parameter.is_floating_point() and is_matrix(parameter):
            return f"{type(module).__name__} with a {name} of {parameter.dtype}: dequantise it"
        if type(parameter.data) is not Tensor and type(parameter) is not nn.Parameter:
            return f"{type(module).__name__} with a {name} that is a {type(parameter).__name__}"
    return ""


class _Refusal(NamedTuple):
    """One thing that stays digital although it may multiply.

    Attributes:
        cause: Why.
        what: The entry of the error.
        exclude: The names that exclude it; none if no name does.
    """

    cause: Cause
    what: str
    exclude: tuple[str, ...]


class Refusals:
    """All that a strict conversion refuses, for one error that says how to go on."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._refusals: list[_Refusal] = []

    def __bool__(self) -> bool:
        """Return whether anything is refused."""
        return bool(self._refusals)

    def add(self, cause: Cause, what: str, exclude: Iterable[str]) -> None:
        """Note one thing.

        Args:
            cause: Why it cannot lie on tiles.
            what: The entry of the error: names, and the reason in parentheses.
            exclude: The names that exclude it; "" is the whole model, which none does.
        """
        self._refusals.append(_Refusal(cause, what, tuple(name for name in exclude if name)))

    def error(self, engine: str, exclude: Iterable[str], names: Iterable[str]) -> ConversionError:
        """Return the error, which ends with an `exclude` to paste.

        Args:
            engine: Name of the engine.
            exclude: The patterns that the user has excluded already.
            names: Names of all modules and parameters of the model.
        """
        parts = []
        for cause in Cause:
            entries = [refusal.what for refusal in self._refusals if refusal.cause is cause]
            if len(entries) > _SHOWN + 1:
                entries[_SHOWN:] = [f"and {len(entries) - _SHOWN} more"]
            if entries:
                found, advice = (text.format(engine=engine) for text in cause.value)
                parts.append(f"{found}: {', '.join(entries)}; {advice}")
        message = f"{'; '.join(parts)}, or pass strict=False to leave them digital"
        named = [name for refusal in self._refusals for name in refusal.exclude]
        if named and all(refusal.exclude for refusal in self._refusals):
            patterns = [*exclude, *shortened(named, list(names))]
            listed = ", ".join(f'"{pattern}"' for pattern in dict.fromkeys(patterns))
            message += f", or exclude them by name: exclude=[{listed}]"
        return ConversionError(message)
