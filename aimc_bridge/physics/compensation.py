"""Drift compensation: a digital factor a tile (or a column) that undoes the mean decay."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.physics.cells import us_per_unit
from aimc_bridge.physics.drift import age, mean_drift_factor
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import CompensationSpec, DeviceSpec, ScalarDriftSpec


def readout(outputs: Tensor, grid: TileGrid, spec: CompensationSpec) -> Tensor:
    """Mean |output| of an identity readout, by tile or by column, not below the floor.

    Args:    outputs  `(*chips, out, in)`, from `crossbar.identity_readout`.
    Returns: `(*chips, row tiles, out)`.
    """
    return from_columns(grid.column_mean(outputs.abs()), grid, spec)


def from_columns(by_column: Tensor, grid: TileGrid, spec: CompensationSpec) -> Tensor:
    """`readout` from the mean |output| of each column of each tile, `(*chips, row tiles, out)`."""
    if spec.drift_compensation != "per_column":
        by_column = grid.expand_tiles(grid.reduce_columns(by_column, "mean"))
    return by_column.clamp_min(spec.alpha_floor)


def oracle(weight: Tensor, grid: TileGrid, pcm: DeviceSpec, t_s: float) -> Tensor:
    """The inverse of the known mean drift, from the targets and the mean exponents alone.

    Args:    weight  the targets, `(out, in)`, normalised.
    Returns: `(row tiles, out)`, one value a tile: sum |w| / sum |w| ((t + t0)/t0)^-nu_mean; for the
             scalar device the exact inverse of its factor.
    """
    if isinstance(pcm, ScalarDriftSpec):
        shape = (len(grid.rows), grid.out_features)
        return weight.new_full(shape, age(t_s, pcm) ** pcm.nu)
    scale = grid.expand_columns(grid.expand_tiles(us_per_unit(weight, grid, pcm)))
    size = weight.abs()
    before = grid.tile_mean(size)
    after = grid.tile_mean(size * mean_drift_factor(size * scale, t_s, pcm))
    ratio = torch.where(after > 0, before / after, torch.ones_like(after))
    return grid.expand_tiles(ratio)
