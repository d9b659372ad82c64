"""Drift compensation: a digital factor that undoes the mean decay.

There is one factor per tile, or one per column of a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.physics import unit_cell
from aimc_bridge.physics.cells import us_per_unit
from aimc_bridge.physics.drift import check_time, mean_drift_factor
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import CompensationSpec, DeviceSpec


def readout(outputs: Tensor, grid: TileGrid, spec: CompensationSpec) -> Tensor:
    """Return the mean |output| of an identity readout, per tile or per column.

    Args:
        outputs: Outputs of the tiles, shape (*chips, out, in), from `crossbar.identity_readout`.
        grid: The tiles.
        spec: The compensation, `preset.compensation`. "per_column" takes the mean of each column of
            each tile, every other kind the mean of each tile.

    Returns:
        Means in units of the outputs, not below `alpha_floor`, shape (*chips, row tiles, out). The
        compensation factor is this mean right after programming over the same mean now.

    Raises:
        ShapeError: If the outputs do not fit the grid.

    Source: aihwkit GlobalDriftCompensation; "per_column": aihwkit PerColumnDriftCompensation.
    """
    return from_columns(grid.column_mean(outputs.abs()), grid, spec)


def from_columns(by_column: Tensor, grid: TileGrid, spec: CompensationSpec) -> Tensor:
    """Return what `readout` returns, from means that are known for each column.

    Args:
        by_column: Mean |output| of each column of each tile, shape (*chips, row tiles, out).
        grid: The tiles.
        spec: The compensation, `preset.compensation`.

    Returns:
        Means in units of the outputs, not below `alpha_floor`, shape (*chips, row tiles, out).
    """
    if spec.drift_compensation != "per_column":
        by_column = grid.expand_tiles(grid.reduce_columns(by_column, "mean"))
    return by_column.clamp_min(spec.alpha_floor)


def oracle(weight: Tensor, grid: TileGrid, pcm: DeviceSpec, t_s: float) -> Tensor:
    """Return the inverse of the known mean drift.

    It needs targets and mean exponents alone. The factor of a tile is sum |w| over
    sum |w| ((t + t0) / t0)^-nu_mean. Several pairs drift each by themselves, and a reference is
    subtracted. The factor is the exact inverse if all devices drift by one factor, as on the scalar
    device.

    Args:
        weight: The targets, normalised, shape (out, in).
        grid: The tiles.
        pcm: The device, `preset.pcm`.
        t_s: Seconds after the end of programming.

    Returns:
        Factors, ratios without a unit, shape (row tiles, out), with one value per tile. A tile
        without weights has 1 unless all devices drift by one factor.

    Raises:
        ShapeError: If the weights do not fit the grid.
        UsageError: If t_s is negative or not finite, if `pcm` is not a device, or if its law is not
            registered.

    Not modelled: any readout. The factor knows neither programming errors nor noise.

    Source: for one common factor, the description of the public replication.
    """
    common = law_of(pcm).common_factor(check_time(t_s), pcm)
    if common is not None:
        return weight.new_full((len(grid.rows), grid.out_features), common)
    scale = grid.expand_columns(grid.expand_tiles(us_per_unit(weight, grid, pcm)))
    size = weight.abs()
    before = grid.tile_mean(size)
    if pcm.referenced or pcm.pairs > 1:
        after = grid.tile_mean(_mean_later(weight, scale, pcm, t_s) * weight.sign())
    else:
        after = grid.tile_mean(size * mean_drift_factor(size * scale, t_s, pcm))
    ratio = torch.where(after > 0, before / after, torch.ones_like(after))
    return grid.expand_tiles(ratio)


def _mean_later(weight: Tensor, us_per_unit: Tensor, pcm: DeviceSpec, t_s: float) -> Tensor:
    """Return weights as their devices hold them if each drifts with its mean exponent."""

    def later(g_us: Tensor) -> Tensor:
        return g_us * mean_drift_factor(g_us.abs(), t_s, pcm)

    if not pcm.referenced:
        pairs_us = unit_cell.split(weight, us_per_unit, pcm.factors, pcm.g_max_us)
        return unit_cell.joined(later(pairs_us), pcm.factors) / us_per_unit
    zero = torch.full_like(weight, pcm.reference_us)
    reference = later(zero) if pcm.reference == "column" else zero
    return (later(weight * us_per_unit + zero) - reference) / us_per_unit
