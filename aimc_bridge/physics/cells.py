"""A matrix of weights as memory cells: programmed once, read at any time after.

A weight is a pair of devices, one of them with target 0. The reference simulator converts the
programmed weights to conductances again at each reading: the pair is netted (the noise on the zero
leg subtracted first) and the scale taken from the programmed maximum of the tile. `pcm.netting`
chooses between that and two devices that drift each by themselves. A device whose `pairs` is False
is one cell that holds the signed weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aimc_bridge.physics.drift import Moment, drift_exponent, drifted
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid, from_legs, from_pair, legs, to_pair
from aimc_bridge.physics.programming import programmed, target_us
from aimc_bridge.physics.reading import read
from aimc_bridge.spec import DeviceSpec

_SMALLEST = 1e-7  # aihwkit's lower limit of a tile's largest |w|, of its programmed one too


@dataclass(frozen=True)
class Cells:
    """A programmed matrix.

    conductance_us    `(*chips, out, in)`, signed; `(*chips, 2, out, in)` where each device of a
                      pair drifts by itself
    nu                drift exponents, same shape
    us_per_unit       microsiemens of a normalised weight of 1, `(*chips, row tiles, column tiles)`
    """

    conductance_us: Tensor
    nu: Tensor
    us_per_unit: Tensor


def paired(pcm: DeviceSpec) -> bool:
    """Whether the state keeps both devices of a pair."""
    return pcm.pairs and not pcm.netting


def netted(pcm: DeviceSpec) -> bool:
    """Whether the state keeps what is left of a pair."""
    return pcm.pairs and pcm.netting


def noise_shapes(grid: TileGrid, pcm: DeviceSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the N(0, 1) draws that `program_cells` takes: (programming, exponents)."""
    cells = (grid.out_features, grid.in_features)
    pair = (2, *cells)
    if not pcm.pairs:
        return cells, cells
    return pair, pair if paired(pcm) else cells


def us_per_unit(weight: Tensor, grid: TileGrid, pcm: DeviceSpec) -> Tensor:
    """g_max over the largest |w| of each tile: `(..., out, in) -> (..., row tiles, col tiles)`."""
    return us_per_largest(grid.tile_amax(weight), pcm)


def us_per_largest(largest: Tensor, pcm: DeviceSpec) -> Tensor:
    """`us_per_unit` of tiles whose largest |w| is known; a tile of zeros is one of `_SMALLEST`."""
    return pcm.g_max_us / largest.clamp_min(_SMALLEST)


def _by_cell(values: Tensor, grid: TileGrid) -> Tensor:
    return grid.expand_columns(grid.expand_tiles(values))


def program_cells(
    weight: Tensor, grid: TileGrid, pcm: DeviceSpec, eps_prog: Tensor, eps_nu: Tensor
) -> Cells:
    """Write normalised weights into cells.

    Args:    weight  `(out, in)`, normalised.    eps_prog, eps_nu  N(0, 1), `(*chips, ...)` in front
             of the shapes that `noise_shapes` gives. After netting only one exponent of a pair is
             ever used, that of the leg which came out larger: one draw a weight is enough.
    Returns: Cells.    Raises: ShapeError.    Source: rasch2023 SI; aihwkit `program_weights`.
    """
    scale = us_per_unit(weight, grid, pcm)
    scale_by_cell = _by_cell(scale, grid)
    if netted(pcm):
        net, nu = program_netted(weight, scale_by_cell, pcm, eps_prog.unbind(-3), eps_nu)
        rescale = us_per_unit(net, grid, pcm)
        return Cells(net * _by_cell(rescale, grid), nu, rescale)
    target = to_pair(weight, scale_by_cell) if pcm.pairs else weight * scale_by_cell
    g_prog = programmed(target, pcm, eps_prog)
    chips = g_prog.shape[: g_prog.ndim - target.ndim]
    nu = drift_exponent(target_us(target, pcm), pcm, eps_nu)
    return Cells(g_prog, nu, scale.expand(*chips, *scale.shape))


def program_netted(
    weight: Tensor,
    us_per_unit: Tensor,
    pcm: DeviceSpec,
    eps_prog: Sequence[Tensor],
    eps_nu: Tensor,
) -> tuple[Tensor, Tensor]:
    """Pairs that are netted, elementwise: (normalised weights, drift exponents).

    Args:    eps_prog  of the positive and of the negative devices.
    """
    target = legs(weight, us_per_unit)
    plus, minus = (programmed(g, pcm, eps) for g, eps in zip(target, eps_prog, strict=True))
    net = from_legs(plus, minus, us_per_unit)
    return net, drift_exponent(torch.where(net > 0, *target), pcm, eps_nu)


def held_weight(cells: Cells, grid: TileGrid) -> Tensor:
    """Normalised weights right after programming, before any drift: `(*chips, out, in)`."""
    return _weights(cells.conductance_us, cells, grid)


def read_cells(cells: Cells, grid: TileGrid, pcm: DeviceSpec, t_s: float, eps: Tensor) -> Tensor:
    """Normalised weights as read `t_s` seconds after programming.

    Args:    eps  N(0, 1), the shape of `cells.conductance_us`.
    Returns: `(*chips, out, in)`.    Raises: ShapeError, UsageError.
    """
    return _weights(read_us(cells.conductance_us, cells.nu, t_s, pcm, eps), cells, grid)


def read_us(g: Tensor, nu: Tensor, t_s: float | Moment, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Conductances as read `t_s` seconds after programming, signs kept: elementwise."""
    if paired(pcm) or law_of(pcm).keeps_sign:
        return read(drifted(g, nu, t_s, pcm), g, t_s, pcm, eps)
    size = g.abs()
    return torch.copysign(read(drifted(size, nu, t_s, pcm), size, t_s, pcm, eps), g)


def _weights(conductance_us: Tensor, cells: Cells, grid: TileGrid) -> Tensor:
    scale = _by_cell(cells.us_per_unit, grid)
    if conductance_us.ndim > cells.us_per_unit.ndim:  # a pair of devices in front of (out, in)
        return from_pair(conductance_us, scale)
    return conductance_us / scale
