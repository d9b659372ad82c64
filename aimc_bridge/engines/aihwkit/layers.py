"""Layers of the aihwkit engine: aihwkit's own modules, or bridges over its tiles."""

from __future__ import annotations

import dataclasses
from functools import lru_cache
from typing import Any

import torch
from aihwkit.nn import AnalogConv2d, AnalogLinear
from aihwkit.simulator.tiles.array import TileModuleArray
from torch import Tensor, nn

from aimc_bridge.engines.aihwkit.config import rpu_config
from aimc_bridge.engines.aihwkit.matrix import TileMatrix
from aimc_bridge.engines.aihwkit.tile import ChipTile
from aimc_bridge.layers import linear_around
from aimc_bridge.layers.convolution import Conv, UnfoldedConv
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


def _with_matrix(
    layer: nn.Module, parts: list[list[list[ChipTile]]], grid: TileGrid, preset: Preset
) -> Any:
    """Attach its matrix to a layer, with the tiles of its groups side by side."""
    tiles = [[tile for group in parts for tile in group[row]] for row in range(len(grid.rows))]
    owner = layer if isinstance(layer, UnfoldedConv) else layer.analog_module
    setattr(layer, MATRIX, TileMatrix(tiles, grid, preset, owner))  # type: ignore[arg-type]
    return layer


def _from_digital(kind: type[nn.Module], module: nn.Module, preset: Preset) -> nn.Module:
    """Return one of aihwkit's layers, made from a digital one.

    The state of torch's generator does not change. The flags of the digital layer (`training`,
    `requires_grad`) are kept.
    """
    with torch.random.fork_rng(devices=[]):  # its constructor draws weights that are overwritten
        layer: nn.Module = kind.from_digital(module, tile_config(preset))  # type: ignore[attr-defined]
    inner: Any = layer.analog_module
    for row in _tiles(layer):
        for tile in row:
            tile.shared_weights.requires_grad_(module.weight.requires_grad)
    if module.bias is not None:
        inner.bias.requires_grad_(module.bias.requires_grad)
    return layer.train(module.training)


def convert_linear(module: nn.Module, preset: Preset) -> nn.Module:
    """Return aihwkit's AnalogLinear with the weights of a `nn.Linear`.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    assert isinstance(module, nn.Linear)
    layer = _from_digital(AnalogLinear, module, preset)
    grid = TileGrid.of(module.out_features, module.in_features, preset.crossbar)
    return _with_matrix(layer, [_tiles(layer)], grid, preset)  # type: ignore[no-any-return]


def convert_transposed(module: nn.Module, preset: Preset) -> nn.Module:
    """Return aihwkit's AnalogLinear with the weights of Hugging Face's `Conv1D`.

    These are stored as `[in, out]`.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    weight, bias = module.weight, module.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return convert_linear(linear_around(weight.T, bias).train(module.training), preset)


def convert_conv(module: nn.Module, preset: Preset) -> nn.Module:
    """Return aihwkit's AnalogConv2d with the weights of a convolution, or a bridge.

    aihwkit's 2d convolution has no groups, and no padding other than a number of zeros. Its 1d and
    3d convolutions run on one tile only, and the 1d one has no dilation.

    Args:
        module: The digital layer.
        preset: The preset.
    """
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    rows = module.weight[0].numel()
    grid = TileGrid.of(module.out_channels, rows, preset.crossbar, groups=module.groups)
    zeros = module.padding_mode == "zeros" and not isinstance(module.padding, str)
    if isinstance(module, nn.Conv2d) and module.groups == 1 and zeros:
        layer = _from_digital(AnalogConv2d, module, preset)
        return _with_matrix(layer, [_tiles(layer)], grid, preset)  # type: ignore[no-any-return]
    return _bridge(module, preset, grid)


def _bridge(module: Conv, preset: Preset, grid: TileGrid) -> nn.Module:
    """Return a convolution over aihwkit's linear layers, one per group."""

    def make_linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
        part = linear_around(weight, bias)
        part.weight.requires_grad_(module.weight.requires_grad)
        return _from_digital(AnalogLinear, part, preset)

    layer = UnfoldedConv(module, make_linear).train(module.training)
    return _with_matrix(layer, [_tiles(group) for group in layer.groups], grid, preset)  # type: ignore[no-any-return]
