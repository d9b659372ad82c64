"""Targets, programmed conductances and drift exponents of a matrix, device by device."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import unit_cell
from aimc_bridge.physics.cells import Cells
from aimc_bridge.physics.faults import FaultMap
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import DeviceSpec


class DeviceValues(NamedTuple):
    """One device of every weight of a matrix.

    Attributes:
        pair: Number of the pair, from 0 on.
        device: "plus" and "minus" of a pair; "cell" if a weight is one cell that holds the sign;
            "single" if it is one device, and "reference" for the column that it is read against.
        target_us: Target conductances in microsiemens, shape (out, in); (column tiles, in) for the
            references.
        programmed_us: Conductances right after programming, in the same shape.
        nu: Drift exponents, in the same shape. NaN where the device has none: it is broken, its
            law has no exponents, or it is the smaller one of two that are netted.
    """

    pair: int
    device: str
    target_us: Tensor
    programmed_us: Tensor
    nu: Tensor


def device_values(
    weight: Tensor, cells: Cells, grid: TileGrid, pcm: DeviceSpec, faults: FaultMap | None
) -> list[DeviceValues]:
    """Return targets, conductances and exponents of all devices of a matrix.

    Conductances are on the scale of the targets: the largest weight of a tile is at g_max. If the
    pairs are netted, the cells keep only what their devices hold together. It stands on one of the
    two devices, and on the pairs in the order in which they are filled; the other device is at 0.

    Args:
        weight: The normalised weights that were programmed, shape (out, in).
        cells: The programmed cells of one chip.
        grid: The tiles.
        pcm: The device, `preset.pcm`.
        faults: The broken devices, where the weights are; None if all work.

    Returns:
        One entry for each device of a weight.
    """

    def by_cell(values: Tensor) -> Tensor:
        return grid.expand_columns(grid.expand_tiles(values))

    scale = by_cell(cell_law.us_per_unit(weight, grid, pcm))
    target = unit_cell.targets_us(weight, scale, grid, pcm)
    programmed, law = cells.conductance_us, law_of(pcm)
    unknown = law.tabulated or law.redrawn or cells.nu.shape != programmed.shape
    nu = torch.full_like(programmed, math.nan) if unknown else cells.nu
    if cell_law.netted(pcm):
        programmed = programmed * (scale / by_cell(cells.us_per_unit))
        plus = programmed > 0
        nu = torch.stack((nu.where(plus, math.nan), nu.where(~plus, math.nan)), dim=-3)
        programmed = torch.stack((programmed.clamp_min(0.0), (-programmed).clamp_min(0.0)), dim=-3)
    rows = slice(grid.out_features)
    if faults is not None:
        stuck = faults.stuck_at * pcm.g_max_us + pcm.reference_us * pcm.referenced
        for end in (0.0, pcm.g_max_us):  # exactly, although the reference was subtracted and added
            stuck = torch.where((stuck - end).abs() < 1e-5 * pcm.g_max_us, end, stuck)
        programmed, nu = programmed.clone(), nu.clone()
        programmed[..., rows, :] = torch.where(faults.broken, stuck, programmed[..., rows, :])
        nu[..., rows, :] = nu[..., rows, :].masked_fill(faults.broken, math.nan)
    if pcm.referenced:
        parts = (target, programmed, nu)
        single = [DeviceValues(0, "single", *(each[rows] for each in parts))]
        if pcm.reference == "column":
            single.append(DeviceValues(0, "reference", *(each[rows.stop :] for each in parts)))
        return single
    if not pcm.pairs:  # a law may know single devices nevertheless, as differences to a reference
        middle = pcm.reference_us
        name = "single" if middle else "cell"
        return [DeviceValues(0, name, target + middle, programmed + middle, nu)]
    shape = (pcm.pairs, 2, grid.out_features, grid.in_features)
    each = [values.reshape(shape) + 0.0 for values in (target, programmed, nu)]  # no -0.0
    return [
        DeviceValues(pair, name, *(values[pair, side] for values in each))
        for pair in range(pcm.pairs)
        for side, name in enumerate(("plus", "minus"))
    ]
