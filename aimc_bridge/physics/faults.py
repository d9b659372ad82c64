"""Faults of a chip: devices that are stuck, and rows and columns of tiles that are dead.

A broken device has one conductance for ever: 0 or g_max. It is not programmed, does not drift, and
is read without noise, since the laws of a device describe working ones. Its neighbours, and the
other device of its pair, work as before.

If a weight is a pair of devices, each of the two can break by itself. If it is one cell that holds
the sign, a cell that is stuck at g_max is stuck at either sign with equal probability. The cells of
a user's device are such cells too, with the largest weight of the tile at g_max. A dead row or
column takes all devices of its weights with it: they pass no current.

If a weight is several pairs, each of their devices can break by itself. If it is one device that is
read against a reference, the device can be stuck at either end: at 0 it holds the weight of a
device at 0, and in a dead row or column a weight of 0. The reference itself does not break.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.physics import unit_cell
from aimc_bridge.physics.mapping import TileGrid, from_pair, to_pair
from aimc_bridge.spec import DeviceSpec

Generators = Callable[[int, int], torch.Generator]
"""Returns the generator of a tile, by its row and column."""


class FaultMap(NamedTuple):
    """The broken devices of a matrix.

    Attributes:
        broken: Which devices are broken, shape (2, out, in), the positive devices first;
            (pairs, 2, out, in) for several pairs; or (out, in) if a weight is one cell or device.
        stuck_at: Where they are stuck, in units of g_max: 0 or 1, or also -1 if a weight is one
            cell; 0 where they work. The reference is subtracted if there is one. Of the same shape.
    """

    broken: Tensor
    stuck_at: Tensor

    def to(self, like: Tensor) -> FaultMap:
        """Return the map where a tensor is, with its dtype.

        Args:
            like: The tensor.
        """
        return FaultMap(self.broken.to(like.device), self.stuck_at.to(like))


class Broken(NamedTuple):
    """The effect of broken devices on the weights of a matrix.

    Attributes:
        working: Which cells still work at least in part: true or false, in the shape of the cells'
            conductances; (out, in) for netted pairs.
        stuck: The share of the weights that broken devices hold, normalised weights, shape
            (out, in).
    """

    working: Tensor
    stuck: Tensor


def generators(seed: int, *names: object) -> Generators:
    """Return a function that makes the generator of a tile's faults.

    Args:
        seed: Seed of the chip, or of the training.
        *names: The name of the stream. A chip has the name of the layer in its random streams.
    """
    return lambda row, column: rng.stream(seed, "faults", *names, row, column)


def draw(grid: TileGrid, pcm: DeviceSpec, generators: Generators) -> FaultMap:
    """Draw the faults of a matrix.

    Numbers are drawn on the CPU in double precision. A higher rate breaks the same devices and some
    more.

    Args:
        grid: The tiles.
        pcm: The device, `preset.pcm`, with the rates.
        generators: The generator of each tile, on the CPU.

    Returns:
        The broken devices.
    """
    rows = []
    for row, inputs in enumerate(grid.rows):
        tiles = [
            _tile(outputs, inputs, pcm, generators(row, column))
            for column, outputs in enumerate(grid.columns)
        ]
        rows.append([torch.cat(parts, dim=-2) for parts in zip(*tiles, strict=True)])
    broken, stuck_at = (torch.cat(parts, dim=-1) for parts in zip(*rows, strict=True))
    return FaultMap(broken, stuck_at)


def _tile(
    outputs: int, inputs: int, pcm: DeviceSpec, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return a tile's parts of `FaultMap.broken` and `FaultMap.stuck_at`."""
    faults = pcm.faults
    shape: tuple[int, ...] = (outputs, inputs)
    if pcm.pairs and not pcm.referenced:
        shape = (2, *shape) if pcm.pairs == 1 else (pcm.pairs, 2, *shape)
    row = rng.uniform((inputs,), generator, dtype=torch.float64)
    column = rng.uniform((outputs, 1), generator, dtype=torch.float64)
    device = rng.uniform(shape, generator, dtype=torch.float64)
    dead = (row < faults.dead_rows) | (column < faults.dead_columns)
    at_gmax = device < faults.stuck_at_gmax
    at_zero = device >= 1.0 - faults.stuck_at_zero
    high = at_gmax.float()
    if not pcm.pairs:
        sign = rng.uniform(shape, generator, dtype=torch.float64)
        high = torch.where(sign < 0.5, high, -high)
    if pcm.referenced:
        high = torch.where(at_gmax | at_zero, high - pcm.reference_us / pcm.g_max_us, 0.0)
    return at_gmax | at_zero | dead, torch.where(dead, 0.0, high)


def of_cells(
    faults: FaultMap, largest: Tensor, netted: bool, factors: Sequence[float] = (1.0,)
) -> Broken:
    """Return what broken devices do to the weights.

    Args:
        faults: The broken devices, where the weights are.
        largest: Normalised weight of a device at g_max, shape (*chips, out, in), or broadcastable
            to it.
        netted: Whether all devices of a weight are kept as one.
        factors: The factor of each pair.

    Returns:
        Working cells and stuck weights.
    """
    broken, stuck_at = faults
    pair = broken.ndim > 2
    stuck = from_pair(stuck_at, 1.0) if pair else stuck_at
    if broken.ndim == 4:
        stuck = unit_cell.joined(stuck, factors)
    if pair and netted:  # what all devices of a weight hold is kept together
        return Broken(~broken.flatten(0, -3).all(0), stuck * largest)
    working = ~broken
    return Broken(working, stuck * largest)


def on_weights(
    weight: Tensor, faults: FaultMap, largest: Tensor, factors: Sequence[float] = (1.0,)
) -> Tensor:
    """Return weights with faults, where only weights are known and no conductances.

    This is for training, and for a user's device. A working device of a pair holds what the weight
    asks of it.

    Args:
        weight: Normalised weights, shape (out, in).
        faults: The broken devices, where the weights are.
        largest: Normalised weight of a device at g_max, broadcastable to (out, in).
        factors: The factor of each pair.

    Returns:
        Normalised weights, shape (out, in).
    """
    broken, stuck_at = faults
    if broken.ndim == 4:
        devices = unit_cell.legs_of(unit_cell.split(weight, 1.0, factors, largest))
        devices = torch.where(broken, stuck_at * largest, devices)
        return unit_cell.joined(from_pair(devices, 1.0), factors)
    if broken.ndim == 2:
        return torch.where(broken, stuck_at * largest, weight)
    return from_pair(torch.where(broken, stuck_at * largest, to_pair(weight, 1.0)), 1.0)
