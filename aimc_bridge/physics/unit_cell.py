"""The devices of one weight: what is written to each, and the weight that they hold together.

A weight is one of these:

- one cell that holds the sign, for a law of whole weights,
- a pair of devices, one of which has the target 0,
- several pairs, each with a factor (its significance). The pairs are filled one after the other:
  the first one takes the weight until it is full, the second one takes what is left, and so on.
  This is the way of aihwkit's NPairConductanceConverter. With the factors in ascending order, the
  errors of most weights are those of the smallest factor,
- one device from g_min to g_max, less a reference in the middle of the range.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aimc_bridge.physics.mapping import TileGrid, to_pair
from aimc_bridge.spec import DeviceSpec


def shape(grid: TileGrid, pcm: DeviceSpec) -> tuple[int, ...]:
    """Return the shape of all devices of a matrix.

    Args:
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        (out, in) for one cell or device per weight, (2, out, in) for a pair with the positive
        devices first, (pairs, 2, out, in) for several pairs. A column of references adds a row to
        (out, in) for each column tile, behind all others.
    """
    outs, ins = grid.out_features, grid.in_features
    if pcm.reference == "column":
        return outs + len(grid.columns), ins
    if pcm.referenced or not pcm.pairs:
        return outs, ins
    return (2, outs, ins) if pcm.pairs == 1 else (pcm.pairs, 2, outs, ins)


def targets_us(weight: Tensor, us_per_unit: Tensor, grid: TileGrid, pcm: DeviceSpec) -> Tensor:
    """Return the target of every device of a matrix.

    Args:
        weight: Normalised weights, shape (..., out, in).
        us_per_unit: Microsiemens of a normalised weight of 1, broadcastable to (..., out, in).
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        Microsiemens, in the shape of `shape` with (...) in front.
    """
    if pcm.referenced:
        return with_reference(weight, us_per_unit, grid, pcm)
    if not pcm.pairs:
        return weight * us_per_unit
    if pcm.pairs == 1:
        return to_pair(weight, us_per_unit)
    return legs_of(split(weight, us_per_unit, pcm.factors, pcm.g_max_us))


def split(
    weight: Tensor, us_per_unit: Tensor | float, factors: Sequence[float], full_us: Tensor | float
) -> Tensor:
    """Return what each pair of devices holds of a weight.

    Args:
        weight: Normalised weights, shape (..., out, in).
        us_per_unit: Microsiemens of a weight of 1, broadcastable to (..., out, in).
        factors: The factor of each pair, in the order in which pairs are filled.
        full_us: Conductance at which a pair is full, in microsiemens, a number or broadcastable.

    Returns:
        Conductances with the sign of the weight in microsiemens, shape (..., pairs, out, in).

    Source: aihwkit NPairConductanceConverter.
    """
    return torch.stack(parts_of(weight, us_per_unit, factors, full_us), dim=-3)


def parts_of(
    weight: Tensor, us_per_unit: Tensor | float, factors: Sequence[float], full_us: Tensor | float
) -> list[Tensor]:
    """Return what `split` returns as one tensor per pair, for weights of any shape (*cells)."""
    left, parts = weight.abs() * us_per_unit, []
    for factor in factors:
        parts.append((left / factor).clamp_min(0.0).clamp(max=full_us) * weight.sign())
        left = left - factor * full_us
    return parts


def joined(pairs_us: Tensor, factors: Sequence[float]) -> Tensor:
    """Return the sum of pairs times their factors.

    Args:
        pairs_us: Conductances with a sign in microsiemens, shape (..., pairs, out, in).
        factors: The factor of each pair.

    Returns:
        Microsiemens, shape (..., out, in).
    """
    first, *others = pairs_us.unbind(-3)
    total = factors[0] * first
    for factor, pair_us in zip(factors[1:], others, strict=True):
        total = total + factor * pair_us
    return total


def legs_of(pairs_us: Tensor) -> Tensor:
    """Return both devices of signed conductances; one of the two is 0.

    Args:
        pairs_us: Microsiemens, shape (..., out, in).

    Returns:
        Microsiemens, shape (..., 2, out, in), the positive devices first.
    """
    return torch.stack((pairs_us.clamp_min(0.0), (-pairs_us).clamp_min(0.0)), dim=-3)


def with_reference(weight: Tensor, us_per_unit: Tensor, grid: TileGrid, pcm: DeviceSpec) -> Tensor:
    """Return the targets of single devices that are read against a reference.

    Args:
        weight: Normalised weights, shape (..., out, in).
        us_per_unit: Microsiemens of a weight of 1, broadcastable to (..., out, in).
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        Microsiemens in the shape `shape`, with chips in front if the weights have them.
    """
    g = weight * us_per_unit + pcm.reference_us
    if pcm.reference != "column":
        return g
    column = g.new_full((*g.shape[:-2], len(grid.columns), g.shape[-1]), pcm.reference_us)
    return torch.cat((g, column), dim=-2)


def less_reference(g_us: Tensor, grid: TileGrid, pcm: DeviceSpec) -> Tensor:
    """Return conductances of single devices less their reference.

    Args:
        g_us: Microsiemens in the shape `shape`, with chips in front.
        grid: The tiles.
        pcm: The device, `preset.pcm`.

    Returns:
        Microsiemens, shape (*chips, out, in).
    """
    if pcm.reference != "column":
        return g_us - pcm.reference_us
    outs = grid.out_features
    cells, column = g_us[..., :outs, :], g_us[..., outs:, :]
    sizes = torch.tensor(grid.columns, device=g_us.device)
    return cells - column.repeat_interleave(sizes, dim=-2)
