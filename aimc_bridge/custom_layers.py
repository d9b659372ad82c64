"""Layers that a user's own handler converts: what it is given and may return."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aimc_bridge.converted import inside
from aimc_bridge.engines.base import Engine
from aimc_bridge.engines.match import CustomHandler, check_replaceable
from aimc_bridge.errors import AimcError, ConversionError, ShapeError, UsageError
from aimc_bridge.layers.linear import linear_around
from aimc_bridge.spec import Preset


class MakeLinear:
    """A function that makes analog linear layers; a user's handler is given one.

    Attributes:
        engine: The engine in use.
        preset_of: Returns the preset of a part of the layer, by its name in the layer. The layer
            itself is "".
        excluded: Returns the pattern that excludes a part, by its name in the layer, or None.
        training: Whether the digital layer is in training mode; the layers made here are then too.
        parameters: The parameters of the digital layer.
        names: Names of the layer's parts, by their identity.
        made: The analog layers made so far.
        replaced: Digital part -> the analog layer made from it.
        left: Excluded part -> its name and the pattern that excludes it.
    """

    def __init__(
        self,
        module: nn.Module,
        engine: Engine,
        preset_of: Callable[[str], Preset],
        excluded: Callable[[str], str | None],
    ) -> None:
        """Prepare for one digital layer.

        Args:
            module: The digital layer that the user's handler converts.
            engine: The engine in use.
            preset_of: Returns the preset of a part of the layer, by its name in the layer.
            excluded: Returns the pattern that excludes a part, by its name in the layer, or None.
        """
        self.engine, self.preset_of, self.excluded = engine, preset_of, excluded
        self.training = module.training
        self.parameters = list(module.parameters())
        self.names = {id(part): name for name, part in module.named_modules()}
        self.made: list[nn.Module] = []
        self.replaced: dict[nn.Module, nn.Module | None] = {}
        self.left: dict[nn.Module, tuple[str, str]] = {}

    def __call__(self, weight: Tensor | nn.Linear, bias: Tensor | None = None) -> nn.Module:
        """Return an analog linear layer that holds copies.

        Args:
            weight: The weight, shape [out, in], or a whole `nn.Linear`. If a part of the layer is
                excluded by its name, it is returned as it is, digital.
            bias: The bias, shape [out], or None.

        Returns:
            The analog layer, or the excluded digital one.

        Raises:
            UsageError: If these are no tensors, or a bias is given beside a whole layer.
            ShapeError: If the shapes do not fit.
            ConversionError: If the weight is not of finite floating-point numbers, or the layer
                does more than an `nn.Linear`.
            CapabilityError: If the engine cannot run the preset on this device or in this dtype.
        """
        name = ""
        if isinstance(weight, nn.Linear):
            if bias is not None:
                raise UsageError(
                    "make_linear(linear, bias): the layer has its bias itself; allowed: "
                    "make_linear(linear), or make_linear(linear.weight, bias)"
                )
            name = self.names.get(id(weight), "")
            pattern = self.excluded(name) if name else None
            if pattern is not None:
                self.left[weight] = (name, pattern)
                return weight
            check_replaceable(weight, nn.Linear)
            linear = weight
        else:
            linear = self._around(weight, bias)
        for tensor in (linear.weight, linear.bias):
            _check_numbers(tensor)
        preset = self.preset_of(name)
        self.engine.check(preset, linear.weight.device, linear.weight.dtype)
        layer = self.engine.handlers.by_type[nn.Linear](linear, preset)
        self.made.append(layer)
        if name:
            self.replaced[linear] = layer
        return layer

    def _around(self, weight: Tensor, bias: Tensor | None) -> nn.Linear:
        """Return a digital layer around a weight and a bias, after a check of both."""
        for name, tensor, dims in (("weight", weight, 2), ("bias", bias, 1)):
            if tensor is None and name == "bias":
                continue
            if not isinstance(tensor, Tensor):
                raise UsageError(
                    f"make_linear: {name} is a {type(tensor).__name__}; allowed: a weight "
                    "[out, in] with a bias [out] or None, or a whole nn.Linear"
                )
            if tensor.ndim != dims or 0 in tensor.shape:
                raise ShapeError(
                    f"make_linear: {name} {tuple(tensor.shape)}; allowed: a weight [out, in] and a "
                    "bias [out]"
                )
        if bias is not None and bias.shape[0] != weight.shape[0]:
            raise ShapeError(
                f"make_linear: weight {tuple(weight.shape)} with bias {tuple(bias.shape)}; "
                "allowed: as many biases as the weight has rows, [out, in] and [out]"
            )
        if bias is not None and (bias.dtype, bias.device) != (weight.dtype, weight.device):
            raise ConversionError(
                f"make_linear: weight of {weight.dtype} on {weight.device} with bias of "
                f"{bias.dtype} on {bias.device}; allowed: one dtype on one device"
            )
        linear = linear_around(weight, bias).train(self.training)
        linear.weight.requires_grad_(self._learns(weight))
        if bias is not None:
            linear.bias.requires_grad_(self._learns(bias))
        return linear

    def _learns(self, tensor: Tensor) -> bool:
        """Return whether a tensor is to be trained.

        It is if it requires a gradient, or is the `.data` of a parameter that does.
        """
        if not tensor.is_floating_point():
            return False  # `_check_numbers` says what is wrong with it
        memory = tensor.untyped_storage().data_ptr()
        return tensor.requires_grad or any(
            p.requires_grad and p.untyped_storage().data_ptr() == memory for p in self.parameters
        )


def _check_numbers(tensor: Tensor | None) -> None:
    """Raise ConversionError unless a tensor holds finite floating-point numbers."""
    if tensor is None:
        return
    if not tensor.is_floating_point():
        raise ConversionError(
            f"make_linear: numbers of {tensor.dtype}; allowed: floating point, so dequantise first"
        )
    if tensor.is_meta or not bool(torch.isfinite(tensor).all()):
        raise ConversionError("make_linear: numbers that are NaN, infinite or on the meta device")


class DigitalPart(NamedTuple):
    """A module with parameters that stayed digital in what a handler returned.

    Attributes:
        name: Name of the part in the returned module.
        module: The part.
    """

    name: str
    module: nn.Module


class Handled:
    """The result of a user's handler for one layer.

    Attributes:
        module: What the handler returned.
        given: Number of parameters of the digital layer.
        analog: Number of weights and biases on analog layers.
        digital: The parts that stayed digital and have parameters.
        gone: Modules of the digital layer that are not in the returned module.
    """

    def __init__(
        self, where: str, module: nn.Module, handler: CustomHandler, make: MakeLinear
    ) -> None:
        """Call the handler and check what it returns.

        Args:
            where: Name of the layer in errors.
            module: The digital layer, of the copy that may be changed.
            handler: The user's handler.
            make: Makes analog layers for the handler.

        Raises:
            ConversionError: If the handler returns no module, a module without an analog layer, or
                one that does not hold all the analog layers that were made.
        """
        before = set(module.modules())
        self.given = sum(parameter.numel() for parameter in module.parameters())
        origin = f"handler {handler.name} of {where}"
        try:
            with torch.inference_mode(False), torch.enable_grad():
                result = handler.function(module, make)
        except AimcError as problem:  # from make_linear, which does not know the layer
            raise type(problem)(f"{origin}: {problem}") from problem
        if not isinstance(result, nn.Module):
            raise ConversionError(
                f"{origin} returned a {type(result).__name__}; allowed: a torch.nn.Module whose "
                "layers are made by make_linear"
            )
        modules = set(result.modules())
        lost = [layer for layer in make.made if layer not in modules]
        if lost:
            raise ConversionError(
                f"{origin} made {len(make.made)} analog layers, of which {len(lost)} are not in "
                f"the module tree of the {type(result).__name__} it returned; keep each as an "
                "attribute of a module, or in an nn.ModuleList"
            )
        if not make.made and not make.left:
            raise ConversionError(
                f"{origin} returned a {type(result).__name__} without an analog layer; make its "
                "layers with make_linear, or exclude it"
            )
        self.module = result
        self.gone = before - modules
        matrices = make.engine.matrices(result)
        self.analog = sum(
            matrix.grid.out_features * matrix.grid.in_features
            + (0 if (bias := matrix.bias()) is None else bias.numel())
            for matrix in matrices.values()
        )
        digital = [
            DigitalPart(name, part)
            for name, part in result.named_modules()
            if not any(inside(name, layer) for layer in matrices)
        ]
        for part in digital:
            if part.module not in before:
                part.module.training = make.training
        self.digital = [part for part in digital if list(part.module.parameters(recurse=False))]
