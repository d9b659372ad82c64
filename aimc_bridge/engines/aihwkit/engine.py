"""The aihwkit engine: how it checks presets, and finds and finishes layers."""

from __future__ import annotations

from typing import Any

import torch
from aihwkit.nn.modules.base import AnalogLayerBase
from aihwkit.nn.modules.container import AnalogContainerBase
from torch import nn

from aimc_bridge import layers
from aimc_bridge.converted import owners
from aimc_bridge.engines.aihwkit.capability import require
from aimc_bridge.engines.aihwkit.layers import (
    MATRIX,
    convert_conv,
    convert_linear,
    convert_transposed,
)
from aimc_bridge.engines.aihwkit.matrix import TileMatrix
from aimc_bridge.engines.base import Engine, Matrix
from aimc_bridge.errors import CapabilityError
from aimc_bridge.layers.border import check_dtype
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import Preset


class AihwkitEngine(Engine):
    """IBM's aihwkit with its C++ tile: on the CPU, in float32 inside."""

    name = "aihwkit"
    # its tiles draw on the CPU only: all words that the native engine knows mean that here
    draw_on = ("cpu", "device", "compiled")

    def check(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        """Accept floating-point weights on the CPU, with settings that the C++ tile can run."""
        check_dtype(dtype, self.name)
        if device.type != "cpu":
            raise CapabilityError(
                f"aihwkit engine: model on {device}; its wheels run the C++ tile on the CPU only: "
                'model.cpu() first, or engine="native"'
            )
        law_of(preset.pcm)  # if the device has no law, this raises before anything is converted
        require(preset, "rpucuda")

    def matrices(self, model: nn.Module) -> dict[str, Matrix]:
        """Return the matrices that the converted layers carry."""
        return {
            name: module.__dict__[MATRIX]
            for name, module in owners(model, nn.Module)
            if MATRIX in module.__dict__
        }

    def finish(self, model: nn.Module) -> None:
        """Name the layers for errors, and give the model aihwkit's functions."""
        for name, matrix in self.matrices(model).items():
            matrix.name = name
            assert isinstance(matrix, TileMatrix)
            matrix.named(f"layer {name!r}" if name else "this layer")
        if not isinstance(model, AnalogLayerBase):
            model.__class__ = _analog_class(type(model))

    def unfinish(self, model: nn.Module) -> None:
        """Give the model the class that it had before `finish`."""
        if isinstance(model, AnalogModel):
            model.__class__ = type(model).__bases__[1]


class AnalogModel(AnalogContainerBase):  # type: ignore[misc]
    """A base class that gives a whole model aihwkit's functions.

    Such functions are `analog_tiles` and `drift_analog_weights`.

    aihwkit's AnalogWrapper finds the classes that it makes by the name of the model's class alone:
    if two models have classes of the same name, the second gets the forward pass of the first. Its
    models cannot be pickled either. Here one class is made per class of model, and a copy finds it
    again.
    """

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Pickle the model by the class that it was made from."""
        return _empty, (type(self).__bases__[1],), self.__dict__


_CLASSES: dict[type[nn.Module], type[nn.Module]] = {}


def _analog_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the subclass of a model's class that has aihwkit's functions."""
    if kind not in _CLASSES:
        _CLASSES[kind] = type(f"Analog{kind.__name__}", (AnalogModel, kind), {})
    return _CLASSES[kind]


def _empty(kind: type[nn.Module]) -> nn.Module:
    """Return a model without contents, for unpickling."""
    analog = _analog_class(kind)
    return analog.__new__(analog)


ENGINE = AihwkitEngine()
layers.register_defaults(
    ENGINE.handlers, convert_linear, convert_conv, convert_transposed, ENGINE.matrices
)
