"""A matrix of weights as memory cells: programmed once, read at any time after.

A weight is a pair of devices, and one of the two has the target 0. The reference simulator
(aihwkit) converts the programmed weights to conductances again at each reading. For that it nets
the pair: it subtracts the noise on the device with target 0, and takes the scale from the largest
programmed weight of the tile. `pcm.netting` chooses between this and two devices that drift each by
themselves. If `pcm.pairs` is False, a weight is one cell that holds the sign. Broken devices
(`physics.faults`) are left out of all this, and their share of the weights is added at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.physics import faults as fault_law
from aimc_bridge.physics.drift import Moment, drift_exponent
from aimc_bridge.physics.elementwise import check_elementwise
from aimc_bridge.physics.faults import FaultMap
from aimc_bridge.physics.laws import law_of, of_library
from aimc_bridge.physics.mapping import TileGrid, from_legs, from_pair, legs, to_pair
from aimc_bridge.physics.programming import programmed, target_us
from aimc_bridge.physics.reading import read_after_drift
from aimc_bridge.spec import DeviceSpec

_SMALLEST = 1e-7  # aihwkit's lower limit of a tile's largest |w|, of its programmed one too


@dataclass(frozen=True)
class Cells:
    """A programmed matrix.

    Attributes:
        conductance_us: Programmed conductances in microsiemens, shape (*chips, out, in), signed; or
            (*chips, 2, out, in) if each device of a pair drifts by itself.
        nu: Drift exponents, in the same shape; or the several numbers of each device that a law
            needs instead, stacked in front of that shape.
        us_per_unit: Microsiemens of a normalised weight of 1, shape (*chips, row tiles, column
            tiles).
        working: Which cells work, see `faults.Broken`; None if all do.
        stuck: What the broken devices add to the normalised weights, shape (*chips, out, in); None
            if all devices work.
    """

    conductance_us: Tensor
    nu: Tensor
    us_per_unit: Tensor
    working: Tensor | None = None
    stuck: Tensor | None = None


def paired(pcm: DeviceSpec) -> bool:
    """Return whether the cells keep both devices of a pair.

    Args:
        pcm: The device, `preset.pcm`.
    """
    return pcm.pairs and not pcm.netting


def netted(pcm: DeviceSpec) -> bool:
    """Return whether the cells keep the difference of a pair as one device.

    Args:
        pcm: The device, `preset.pcm`.
    """
    return pcm.pairs and pcm.netting


def noise_shapes(grid: TileGrid, pcm: DeviceSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the noise that `program_cells` takes for one chip.

    Args:
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        The shapes of `eps_prog` and of `eps_nu`: (out, in), or (2, out, in) for a pair.
    """
    cells = (grid.out_features, grid.in_features)
    pair = (2, *cells)
    if not pcm.pairs:
        return cells, cells
    return pair, pair if paired(pcm) else cells


def us_per_unit(weight: Tensor, grid: TileGrid, pcm: DeviceSpec) -> Tensor:
    """Return the microsiemens of a normalised weight of 1.

    They are g_max (`full_scale_us` of the device) over the largest |w| of the tile.

    Args:
        weight: Normalised weights, shape (..., out, in).
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        Microsiemens, shape (..., row tiles, column tiles).

    Raises:
        ShapeError: If the weights do not fit the grid.

    Source: aihwkit `program_weights`.
    """
    return us_per_largest(grid.tile_amax(weight), pcm)


def us_per_largest(largest: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return `us_per_unit` of tiles whose largest |w| is known.

    Args:
        largest: The largest |w|, any shape. One below 1e-7, as in a tile of zeros, counts as 1e-7.
        pcm: The device, `preset.pcm`.

    Returns:
        Microsiemens, in the shape of `largest`.
    """
    return pcm.full_scale_us / largest.clamp_min(_SMALLEST)


def _by_cell(values: Tensor, grid: TileGrid) -> Tensor:
    """Return a value per tile, (..., row tiles, column tiles), as (..., out, in)."""
    return grid.expand_columns(grid.expand_tiles(values))


def program_cells(
    weight: Tensor,
    grid: TileGrid,
    pcm: DeviceSpec,
    eps_prog: Tensor,
    eps_nu: Tensor,
    faults: FaultMap | None = None,
) -> Cells:
    """Write normalised weights into cells.

    Args:
        weight: Normalised weights, shape (out, in).
        grid: The tiles.
        pcm: The device, `preset.pcm`.
        eps_prog: Standard normal noise of the programming, in the first shape of `noise_shapes`
            with (*chips,) in front.
        eps_nu: Standard normal noise of the exponents, in the second shape of `noise_shapes` with
            (*chips,) in front. A netted pair uses the exponent of its larger device only, so that
            one draw per weight is enough.
        faults: The broken devices, from `faults.draw`; None if all work. The working cells are the
            same with and without them.

    Returns:
        The cells, with conductances in microsiemens.

    Raises:
        ShapeError: If the weights do not fit the grid, or the noise does not fit the weights.
        UsageError: If the law of the device is not registered, or is a user's and returns something
            else than finite conductances.

    Not modelled: temperature.

    Source: rasch2023 SI; aihwkit `program_weights`.
    """
    cells = _programmed_cells(weight, grid, pcm, eps_prog, eps_nu, faults)
    if not of_library(pcm):
        _check_result("programmed", cells.conductance_us, weight, pcm)
        _check_result("drift_exponent", cells.nu, weight, pcm)
        target = weight.abs() * _by_cell(us_per_unit(weight, grid, pcm), grid)
        one = [eps.reshape(-1, *weight.shape)[0] for eps in (eps_prog, eps_nu)]
        check_elementwise("programmed", lambda g, e: programmed(g, pcm, e), pcm, target, one[0])
        check_elementwise(
            "drift_exponent", lambda g, e: drift_exponent(g, pcm, e), pcm, target, one[1]
        )
    return cells


def _programmed_cells(
    weight: Tensor,
    grid: TileGrid,
    pcm: DeviceSpec,
    eps_prog: Tensor,
    eps_nu: Tensor,
    faults: FaultMap | None,
) -> Cells:
    """Return what `program_cells` returns, unchecked."""
    scale = us_per_unit(weight, grid, pcm)
    scale_by_cell = _by_cell(scale, grid)
    broken: tuple[Tensor, ...] = ()
    if faults is not None:
        broken = fault_law.of_cells(faults, pcm.g_max_us / scale_by_cell, netted(pcm))
    if netted(pcm):
        eps = eps_prog.unbind(-3)
        net, nu = program_netted(weight, scale_by_cell, pcm, eps, eps_nu)
        rescale = us_per_unit(net, grid, pcm)
        if faults is not None:  # the scale of the tile is that of all its devices, if they worked
            dead = faults.broken.unbind(-3)
            net, nu = program_netted(weight, scale_by_cell, pcm, eps, eps_nu, dead)
        return Cells(net * _by_cell(rescale, grid), nu, rescale, *broken)
    target = to_pair(weight, scale_by_cell) if pcm.pairs else weight * scale_by_cell
    g_prog = programmed(target, pcm, eps_prog)
    chips = g_prog.shape[: g_prog.ndim - target.ndim]
    nu = drift_exponent(target_us(target, pcm), pcm, eps_nu)
    if faults is not None:
        g_prog = g_prog.masked_fill(faults.broken, 0.0)
    return Cells(g_prog, nu, scale.expand(*chips, *scale.shape), *broken)


def program_netted(
    weight: Tensor,
    us_per_unit: Tensor,
    pcm: DeviceSpec,
    eps_prog: Sequence[Tensor],
    eps_nu: Tensor,
    broken: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Program pairs of devices and keep their difference, element by element.

    Args:
        weight: Normalised weights, shape (*cells).
        us_per_unit: Microsiemens of a normalised weight of 1, broadcastable to (*cells).
        pcm: The device, `preset.pcm`.
        eps_prog: Standard normal noise of the positive and of the negative devices, each of shape
            (*chips, *cells).
        eps_nu: Standard normal noise of the exponents, shape (*chips, *cells).
        broken: The positive and the negative devices that are broken, which count as 0; None if all
            work.

    Returns:
        The normalised weights right after programming and the drift exponents, both of shape
        (*chips, *cells). The exponent is drawn for the target of the larger device.

    Raises:
        ShapeError: If the noise does not fit the weights.

    Source: aihwkit `program_weights`.
    """
    target = legs(weight, us_per_unit)
    plus, minus = (programmed(g, pcm, eps) for g, eps in zip(target, eps_prog, strict=True))
    if broken is not None:
        plus, minus = plus.masked_fill(broken[0], 0.0), minus.masked_fill(broken[1], 0.0)
    net = from_legs(plus, minus, us_per_unit)
    return net, drift_exponent(torch.where(net > 0, *target), pcm, eps_nu)


def held_weight(cells: Cells, grid: TileGrid) -> Tensor:
    """Return the normalised weights right after programming, before any drift.

    Args:
        cells: The programmed matrix.
        grid: The tiles.

    Returns:
        Normalised weights, shape (*chips, out, in).
    """
    return _weights(cells.conductance_us, cells, grid)


def read_cells(cells: Cells, grid: TileGrid, pcm: DeviceSpec, t_s: float, eps: Tensor) -> Tensor:
    """Return the normalised weights as read some time after programming.

    Args:
        cells: The programmed matrix.
        grid: The tiles.
        pcm: The device, `preset.pcm`.
        t_s: Seconds after the end of programming.
        eps: Standard normal noise of the reading, in the shape of `cells.conductance_us`.

    Returns:
        Normalised weights, shape (*chips, out, in), before drift compensation.

    Raises:
        ShapeError: If the noise does not fit the cells.
        UsageError: If t_s is negative or not finite.

    Not modelled: a correlation of the noise between two reading times, temperature.

    Source: rasch2023 SI; aihwkit PCMLikeNoiseModel.
    """
    now = read_us(cells.conductance_us, cells.nu, t_s, pcm, eps)
    if not of_library(pcm):
        _check_result("read", now, cells.conductance_us, pcm)
        parts = cells.conductance_us, cells.nu, eps
        check_elementwise("read", lambda g, nu, e: read_us(g, nu, t_s, pcm, e), pcm, *parts)
    if cells.working is not None:
        now = torch.where(cells.working, now, 0.0)
    return _weights(now, cells, grid)


def _check_result(function: str, result: object, cells: Tensor, pcm: DeviceSpec) -> None:
    """Raise an error if a function of a user's law returned what cannot be conductances."""
    name = f"{function} of the law {pcm.law!r} returned"
    if not isinstance(result, Tensor):
        raise UsageError(f"{name} a {type(result).__name__}; allowed: a tensor")
    if result.shape[-2:] != cells.shape[-2:]:
        raise ShapeError(
            f"{name} {tuple(result.shape)} for cells {tuple(cells.shape[-2:])}; allowed: "
            "(*chips, *cells)"
        )
    if result.dtype != cells.dtype or result.device != cells.device:
        raise UsageError(
            f"{name} {result.dtype} on {result.device}; allowed: {cells.dtype} on {cells.device}, "
            "like the conductances it was given"
        )
    if not bool(result.isfinite().all()):
        raise UsageError(f"{name} NaN or infinite values; allowed: finite ones")


def read_us(g: Tensor, nu: Tensor, t_s: float | Moment, pcm: DeviceSpec, eps: Tensor) -> Tensor:
    """Return conductances as read some time after programming, element by element.

    Args:
        g: Programmed conductances in microsiemens, shape (*chips, *cells). They may have a sign,
            which they keep.
        nu: Drift exponents, in the same shape.
        t_s: Seconds after the end of programming, or a `Moment` in compiled passes.
        pcm: The device, `preset.pcm`.
        eps: Standard normal noise, in the same shape.

    Returns:
        Conductances in microsiemens, in the same shape.

    Raises:
        ShapeError: If the noise does not fit the conductances.
        UsageError: If t_s is negative or not finite.
    """
    if paired(pcm) or law_of(pcm).keeps_sign:
        return read_after_drift(g, nu, t_s, pcm, eps)
    return torch.copysign(read_after_drift(g.abs(), nu, t_s, pcm, eps), g)


def _weights(conductance_us: Tensor, cells: Cells, grid: TileGrid) -> Tensor:
    """Return the normalised weights of conductances, with the scale of the cells."""
    scale = _by_cell(cells.us_per_unit, grid)
    pair = conductance_us.ndim > cells.us_per_unit.ndim  # of devices, in front of (out, in)
    weights = from_pair(conductance_us, scale) if pair else conductance_us / scale
    return weights if cells.stuck is None else weights + cells.stuck
