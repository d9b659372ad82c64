"""Drift compensation: a digital factor a tile (or a column) that undoes the mean decay."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.physics.cells import us_per_unit
from aimc_bridge.physics.drift import check_time, mean_drift_factor
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import CompensationSpec, DeviceSpec


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
    """Return the inverse of the known mean drift, from targets and mean exponents alone.

    Args:
        weight: The targets, shape (out, in), normalised.
        grid: Its tiles.
        pcm: The device, `preset.pcm`.
        t_s: Seconds after the end of programming.

    Returns:
        Shape (row tiles, out), one value per tile: sum |w| / sum |w| ((t + t0)/t0)^-nu_mean; the
        exact inverse if all devices drift by one factor, as the scalar device's do.

    Raises:
        UsageError: If t_s is no time or `pcm` is no device.
    """
    common = law_of(pcm).common_factor(check_time(t_s), pcm)
    if common is not None:
        return weight.new_full((len(grid.rows), grid.out_features), common)
    scale = grid.expand_columns(grid.expand_tiles(us_per_unit(weight, grid, pcm)))
    size = weight.abs()
    before = grid.tile_mean(size)
    after = grid.tile_mean(size * mean_drift_factor(size * scale, t_s, pcm))
    ratio = torch.where(after > 0, before / after, torch.ones_like(after))
    return grid.expand_tiles(ratio)
