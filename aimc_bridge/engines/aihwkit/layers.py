"""Layers of the aihwkit engine: aihwkit's own modules, or bridges over its tiles.

The modules are aihwkit's `AnalogLinear` and `AnalogConv2d`, with what a digital layer has and they
lack: a weight and a bias to read, inputs and outputs of any floating-point dtype, outputs in the
memory order of torch's, and errors for inputs that do not fit. The tiles compute in float32.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from aihwkit.nn import AnalogConv2d, AnalogLinear
from aihwkit.simulator.tiles.array import TileModuleArray
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import rng
from aimc_bridge.engines.aihwkit.config import rpu_config
from aimc_bridge.engines.aihwkit.matrix import TileMatrix
from aimc_bridge.engines.aihwkit.tile import ChipTile
from aimc_bridge.errors import ShapeError, StateError
from aimc_bridge.layers import linear_around
from aimc_bridge.layers.attributes import computed
from aimc_bridge.layers.border import admitted, returned
from aimc_bridge.layers.convolution import (
    Conv,
    UnfoldedConv,
    as_batch,
    check_space,
    in_order_of,
    smallest_space,
)
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset

MATRIX = "aimc_matrix"
"""The attribute of a module that holds its matrix.

Bridges over several matrices have none.
"""


@lru_cache(maxsize=64)
def tile_config(preset: Preset) -> Any:
    """Return the config of a preset with our tile class; every tile copies it.

    Args:
        preset: The preset.
    """
    return dataclasses.replace(rpu_config(preset), tile_class=ChipTile)


def _tiles(layer: nn.Module) -> list[list[ChipTile]]:
    """Return the tiles of one of aihwkit's layers, by row and column."""
    inner: Any = layer.analog_module
    if isinstance(inner, TileModuleArray):
        return [list(row) for row in inner.array]
    return [[inner]]


class TileLinear(AnalogLinear):  # type: ignore[misc]
    """aihwkit's AnalogLinear: `[..., in_features] -> [..., out_features]`.

    Attributes:
        precision: An empty tensor in the dtype of the digital layer, which `weight` has too.
        transposed: Whether `weight` is `[in, out]`, as in Hugging Face's Conv1D.
        tile_matrix: The tiles of this layer as a matrix.
    """

    precision: Tensor
    transposed: bool
    tile_matrix: TileMatrix

    @property
    def weight(self) -> Tensor:
        """The trained weights in own units: a copy. To assign to it writes the tiles."""
        return _read(self.tile_matrix.clean_weight(), self)

    @weight.setter
    def weight(self, values: Tensor) -> None:
        _write(values, self)

    @property
    def bias(self) -> nn.Parameter | None:
        """The digital bias, `[out_features]`, a parameter of aihwkit's module; or None."""
        return self.tile_matrix.bias()  # type: ignore[return-value]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a weight is written to the tiles, and a bias to aihwkit's parameter."""
        _set(self, name, value, super().__setattr__)

    def forward(self, x: Tensor) -> Tensor:
        """Return the analog product, plus the bias.

        Args:
            x: Inputs, `[..., in_features]`.

        Raises:
            ShapeError: If the inputs have another number of features.
            UsageError: If they are no dense floating-point tensor on the CPU.
        """
        inner = admitted(x, self.tile_matrix.tiles[0][0].shared_weights)
        if inner.ndim == 0 or inner.shape[-1] != self.in_features:
            raise ShapeError(f"input {tuple(x.shape)}; allowed: [..., {self.in_features}]")
        return returned(self.analog_module(inner), x)


class TileConv2d(AnalogConv2d):  # type: ignore[misc]
    """aihwkit's AnalogConv2d: `[batch, channels, height, width]`, with or without a batch.

    Attributes:
        precision: As in `TileLinear`.
        transposed: False, as in a digital convolution.
        tile_matrix: As in `TileLinear`.
        least: The least height and width of an input.
    """

    precision: Tensor
    transposed: bool
    tile_matrix: TileMatrix
    least: tuple[int, ...]

    @property
    def weight(self) -> Tensor:
        """As in `TileLinear`, in the shape `[out_channels, in_channels, height, width]`."""
        return _read(self.tile_matrix.clean_weight().unflatten(1, self._kernel()), self)

    @weight.setter
    def weight(self, values: Tensor) -> None:
        _write(values, self)

    @property
    def bias(self) -> nn.Parameter | None:
        """As in `TileLinear`, `[out_channels]`."""
        return self.tile_matrix.bias()  # type: ignore[return-value]

    def _kernel(self) -> tuple[int, ...]:
        """Return the shape of the weights of one output."""
        return (self.in_channels, *self.kernel_size)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute as `TileLinear` does."""
        _set(self, name, value, super().__setattr__)

    def forward(self, x: Tensor) -> Tensor:
        """Return the analog convolution, plus the bias, in the memory order of torch's.

        Args:
            x: Inputs, `[batch, channels, height, width]` or `[channels, height, width]`.

        Raises:
            ShapeError: If the inputs have another shape.
            UsageError: If they are no dense floating-point tensor on the CPU.
        """
        inner = admitted(x, self.tile_matrix.tiles[0][0].shared_weights)
        images = as_batch(inner, self.in_channels, 2)
        check_space(images, self.least)
        vectors = functional.unfold(
            images, self.kernel_size, self.dilation, self.padding, self.stride
        )
        y = self.analog_module(vectors.transpose(-1, -2)).transpose(-1, -2)
        height = self.get_image_size(images.shape[2], 0)
        width = self.get_image_size(images.shape[3], 1)
        y = y.reshape(len(images), self.out_channels, height, width)
        y = returned(in_order_of(y, images), x)
        return y if x.ndim == 4 else y.squeeze(0)


def _read(weight: Tensor, layer: TileLinear | TileConv2d) -> Tensor:
    """Return trained weights as the digital layer has them, to be read only."""
    weight = weight.to(layer.precision.dtype)
    return computed(
        weight.T if layer.transposed else weight,
        "assign new ones, which are then written to the tiles: layer.weight = values",
    )


def _write(values: Tensor, layer: TileLinear | TileConv2d) -> None:
    """Write trained weights, given as the digital layer has them."""
    shape, matrix = layer.weight.shape, layer.tile_matrix
    if values.shape != shape:
        raise ShapeError(f"weight {tuple(values.shape)}; allowed: {tuple(shape)}")
    if any(tile.programmed_weights is not None for row in matrix.tiles for tile in row):
        raise StateError(
            f"{matrix.label} holds a programmed chip; call restore(model) first, and set its "
            "weights again"
        )
    values = values.detach().T if layer.transposed else values.detach()
    matrix.set_clean_weight(values.to(torch.float32).flatten(1))


def _set(
    layer: TileLinear | TileConv2d, name: str, value: Any, other: Callable[[str, Any], None]
) -> None:
    """Set an attribute of one of aihwkit's layers.

    torch would register a parameter named "weight" beside the tiles, which no product then uses.
    """
    if name == "weight":
        _write(value, layer)
    elif name == "bias":
        bias = layer.bias
        if bias is None or value is None or value.shape != bias.shape:
            raise ShapeError(
                f"bias {None if value is None else tuple(value.shape)}; allowed: "
                f"{None if bias is None else tuple(bias.shape)}"
            )
        bias.data.copy_(value.detach())
    else:
        other(name, value)


def _from_digital(kind: type[nn.Module], module: nn.Linear | nn.Conv2d, preset: Preset) -> Any:
    """Return one of our layers, made by aihwkit from a digital one.

    The state of torch's generator does not change. The flags of the digital layer (`training`,
    `requires_grad`) are kept.
    """
    dtype = module.weight.dtype
    if dtype != torch.float32:
        module = copy.deepcopy(module).to(torch.float32)
    # its constructor draws weights that are overwritten
    with rng.alone(), torch.random.fork_rng(devices=[]):
        # aihwkit's constructors use `weight` and `bias` in their own way: it makes its own class
        layer: Any = kind.__bases__[0].from_digital(module, tile_config(preset))  # type: ignore[attr-defined]
    inner: Any = layer.analog_module
    tiles = _tiles(layer)
    for row in tiles:
        for tile in row:
            tile.shared_weights.requires_grad_(module.weight.requires_grad)
    if module.bias is not None:
        inner.bias.requires_grad_(module.bias.requires_grad)
    grid = TileGrid.of(layer.out_features, layer.in_features, preset.crossbar)
    layer.tile_matrix = TileMatrix(tiles, grid, preset, inner)
    layer.transposed = False
    layer.register_buffer("precision", torch.empty(0, dtype=dtype), persistent=False)
    layer.__class__ = kind
    return layer.train(module.training)


def convert_linear(module: nn.Module, preset: Preset) -> nn.Module:
    """Return aihwkit's AnalogLinear with the weights of a `nn.Linear`.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    assert isinstance(module, nn.Linear)
    layer = _from_digital(TileLinear, module, preset)
    setattr(layer, MATRIX, layer.tile_matrix)
    return layer  # type: ignore[no-any-return]


def convert_transposed(module: nn.Module, preset: Preset) -> nn.Module:
    """Return aihwkit's AnalogLinear with the weights of Hugging Face's `Conv1D`.

    These are stored as `[in, out]`.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    layer: Any = convert_linear(linear_around(weight.T, bias).train(module.training), preset)
    layer.transposed = True
    layer.nx, layer.nf = layer.in_features, layer.out_features  # their names in that layer
    return layer  # type: ignore[no-any-return]


def convert_conv(module: nn.Module, preset: Preset) -> nn.Module:
    """Return aihwkit's AnalogConv2d with the weights of a convolution, or a bridge.

    aihwkit's 2d convolution has no groups, and no padding other than a number of zeros. Its 1d and
    3d convolutions run on one tile only, and the 1d one has no dilation.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.Conv2d) and module.groups == 1 and zeros:
        layer = _from_digital(TileConv2d, module, preset)
        layer.least = smallest_space(module, padded=False)
        setattr(layer, MATRIX, layer.tile_matrix)
        return layer  # type: ignore[no-any-return]
    return _bridge(module, preset)


def _bridge(module: Conv, preset: Preset) -> nn.Module:
    """Return a convolution over aihwkit's linear layers, one per group."""

    def make_linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
        part = linear_around(weight, bias)
        part.weight.requires_grad_(module.weight.requires_grad)
        return _from_digital(TileLinear, part, preset)  # type: ignore[no-any-return]

    layer = UnfoldedConv(module, make_linear).train(module.training)
    rows = module.weight[0].numel()
    grid = TileGrid.of(module.out_channels, rows, preset.crossbar, groups=module.groups)
    groups = [_tiles(group) for group in layer.parts]
    tiles = [[tile for group in groups for tile in group[row]] for row in range(len(grid.rows))]
    setattr(layer, MATRIX, TileMatrix(tiles, grid, preset, layer))
    return layer
