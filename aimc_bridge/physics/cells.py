"""A matrix of weights as memory cells: programmed once, read at any time after.

A weight is a pair of devices, and one of the two has the target 0. The reference simulator
(aihwkit) converts the programmed weights to conductances again at each reading. For that it nets
the pair: it subtracts the noise on the device with target 0, and takes the scale from the largest
programmed weight of the tile. `pcm.netting` chooses between this and two devices that drift each by
themselves. If `pcm.pairs` is 0, a weight is one cell that holds the sign. `physics.unit_cell` says
how a weight lies on several pairs, or on one device with a reference; netted, what all pairs hold
together is split among them again. Broken devices (`physics.faults`) are left out of all this, and
their share of the weights is added at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.physics import faults as fault_law
from aimc_bridge.physics import unit_cell
from aimc_bridge.physics.drift import Moment, drift_exponent
from aimc_bridge.physics.elementwise import check_elementwise
from aimc_bridge.physics.faults import FaultMap
from aimc_bridge.physics.laws import law_of, of_library
from aimc_bridge.physics.mapping import TileGrid, from_legs, from_pair, legs
from aimc_bridge.physics.programming import programmed, target_us
from aimc_bridge.physics.reading import read_after_drift
from aimc_bridge.spec import DeviceSpec

_SMALLEST = 1e-7  # aihwkit's lower limit of a tile's largest |w|, of its programmed one too


@dataclass(frozen=True)
class Cells:
    """A programmed matrix.

    Attributes:
        conductance_us: Programmed conductances in microsiemens, shape (*chips, out, in), signed; or
            (*chips, 2, out, in) if each device of a pair drifts by itself. Several pairs have one
            more dimension, (*chips, pairs, out, in) or (*chips, pairs, 2, out, in). One device with
            a reference has the shape of `unit_cell.shape` and no sign.
        nu: Drift exponents, in the same shape; or the several numbers of each device that a law
            needs instead, stacked in front of that shape.
        us_per_unit: Microsiemens of a normalised weight of 1, shape (*chips, row tiles, column
            tiles).
        working: Which cells work, see `faults.Broken`; None if all do.
        stuck: What the broken devices add to the normalised weights, shape (*chips, out, in); None
            if all devices work.
        pcm: The device; None is one with one pair per weight, netted.
    """

    conductance_us: Tensor
    nu: Tensor
    us_per_unit: Tensor
    working: Tensor | None = None
    stuck: Tensor | None = None
    pcm: DeviceSpec | None = None


def paired(pcm: DeviceSpec) -> bool:
    """Return whether the cells keep both devices of a pair.

    Args:
        pcm: The device, `preset.pcm`.
    """
    return pcm.pairs > 0 and not pcm.referenced and not pcm.netting


def netted(pcm: DeviceSpec) -> bool:
    """Return whether the cells keep the difference of a pair as one device.

    Args:
        pcm: The device, `preset.pcm`.
    """
    return pcm.pairs > 0 and not pcm.referenced and pcm.netting


def noise_shapes(grid: TileGrid, pcm: DeviceSpec) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of the noise that `program_cells` takes for one chip.

    Args:
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        The shapes of `eps_prog` and of `eps_nu`: the first is `unit_cell.shape`, the second is
        `state_shape`.
    """
    return unit_cell.shape(grid, pcm), state_shape(grid, pcm)


def state_shape(grid: TileGrid, pcm: DeviceSpec) -> tuple[int, ...]:
    """Return the shape of the conductances that the cells of one chip keep.

    Args:
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        `unit_cell.shape`, without the dimension of the two devices of a pair if they are netted.
    """
    shape = unit_cell.shape(grid, pcm)
    return (*shape[:-3], *shape[-2:]) if netted(pcm) else shape


def working_shape(grid: TileGrid, pcm: DeviceSpec) -> tuple[int, ...]:
    """Return the shape of what `Cells.working` says of one chip.

    Args:
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        `state_shape`; (out, in) if pairs are netted or the devices have a reference.
    """
    whole = netted(pcm) or pcm.referenced
    return (grid.out_features, grid.in_features) if whole else state_shape(grid, pcm)


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
        like = weight.new_empty(()).expand(state_shape(grid, pcm))
        _check_result("programmed", cells.conductance_us, like, pcm)
        _check_result("drift_exponent", cells.nu, like, pcm)
        target = weight.abs() * _by_cell(us_per_unit(weight, grid, pcm), grid)
        one = [eps.flatten()[: weight.numel()].view_as(weight) for eps in (eps_prog, eps_nu)]
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
    working = stuck = None
    if faults is not None:
        largest = pcm.g_max_us / scale_by_cell
        working, stuck = fault_law.of_cells(faults, largest, netted(pcm), pcm.factors)
    if netted(pcm):
        netted_law = program_netted if pcm.pairs == 1 else _program_netted_pairs
        eps = eps_prog.unbind(-3)
        net, nu = netted_law(weight, scale_by_cell, pcm, eps, eps_nu)
        rescale = us_per_unit(net, grid, pcm)
        if faults is not None:  # the scale of the tile is that of all its devices, if they worked
            dead = faults.broken.unbind(-3)
            net, nu = netted_law(weight, scale_by_cell, pcm, eps, eps_nu, dead)
        held = _rewritten(net, _by_cell(rescale, grid), pcm)
        return Cells(held, nu, rescale, working, stuck, pcm)
    target = unit_cell.targets_us(weight, scale_by_cell, grid, pcm)
    g_prog = programmed(target, pcm, eps_prog)
    chips = g_prog.shape[: g_prog.ndim - target.ndim]
    nu = drift_exponent(target_us(target, pcm), pcm, eps_nu)
    scale = scale.expand(*chips, *scale.shape)
    if faults is not None and not pcm.referenced:
        g_prog = g_prog.masked_fill(faults.broken, 0.0)
    return Cells(g_prog, nu, scale, working, stuck, pcm)


def _rewritten(net: Tensor, us_per_unit: Tensor, pcm: DeviceSpec) -> Tensor:
    """Return the signed conductances of netted pairs, from the weights that they hold."""
    if pcm.pairs == 1:
        return net * us_per_unit
    return unit_cell.split(net, us_per_unit, pcm.factors, pcm.g_max_us)


def _program_netted_pairs(
    weight: Tensor,
    us_per_unit: Tensor,
    pcm: DeviceSpec,
    eps_prog: Sequence[Tensor],
    eps_nu: Tensor,
    broken: Sequence[Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Do as `program_netted` for several pairs, which stand in front of (out, in) in all noise.

    Returns:
        The normalised weights that all pairs hold together, shape (*chips, out, in), and the
        exponents of one device per pair, shape (*chips, pairs, out, in): the device on the side of
        the sign of the weight, which is the one that is read.
    """
    pairs_us = unit_cell.split(weight, us_per_unit, pcm.factors, pcm.g_max_us)
    target = legs(pairs_us, 1.0)
    plus, minus = (programmed(g, pcm, eps) for g, eps in zip(target, eps_prog, strict=True))
    if broken is not None:
        plus, minus = plus.masked_fill(broken[0], 0.0), minus.masked_fill(broken[1], 0.0)
    net = unit_cell.joined(plus - minus, pcm.factors) / us_per_unit
    return net, drift_exponent(torch.where(net.unsqueeze(-3) > 0, *target), pcm, eps_nu)


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


def netted_cells(net: Tensor, exponents: Sequence[Tensor], pcm: DeviceSpec) -> Cells:
    """Return the cells of one tile from weights whose pairs are netted, as aihwkit keeps them.

    Args:
        net: The normalised weights right after programming, shape (out, in).
        exponents: The drift exponents of each device of a weight, (out, in) each: positive and
            negative one of the first pair, then of the second, and so on.
        pcm: The device, `preset.pcm`.

    Returns:
        The cells, with the exponents of the devices on the side of the weight's sign.
    """
    grid = TileGrid((net.shape[1],), (net.shape[0],))
    scale = us_per_unit(net, grid, pcm)
    plus, minus = (torch.stack(list(exponents[side::2]), dim=-3) for side in (0, 1))
    nu = torch.where(net > 0, plus, minus)
    held = _rewritten(net, _by_cell(scale, grid), pcm)
    return Cells(held, nu.reshape(held.shape), scale, pcm=pcm)


def held_weight(cells: Cells, grid: TileGrid) -> Tensor:
    """Return the normalised weights right after programming, before any drift.

    Args:
        cells: The programmed matrix.
        grid: The tiles.

    Returns:
        Normalised weights, shape (*chips, out, in).
    """
    return _weights(cells.conductance_us, cells, grid, cells.pcm)


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
    if cells.working is not None and not pcm.referenced:
        now = torch.where(cells.working, now, 0.0)
    return _weights(now, cells, grid, pcm)


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


def _weights(
    conductance_us: Tensor, cells: Cells, grid: TileGrid, pcm: DeviceSpec | None
) -> Tensor:
    """Return the normalised weights of conductances, with the scale of the cells."""
    scale = _by_cell(cells.us_per_unit, grid)
    if pcm is not None and pcm.referenced:
        weights = unit_cell.less_reference(conductance_us, grid, pcm) / scale
        if cells.working is not None:
            weights = torch.where(cells.working, weights, 0.0)
    elif pcm is not None and pcm.pairs > 1:
        pairs_us = conductance_us if pcm.netting else from_pair(conductance_us, 1.0)
        weights = unit_cell.joined(pairs_us, pcm.factors) / scale
    else:
        pair = conductance_us.ndim > cells.us_per_unit.ndim  # of devices, in front of (out, in)
        weights = from_pair(conductance_us, scale) if pair else conductance_us / scale
    return weights if cells.stuck is None else weights + cells.stuck
