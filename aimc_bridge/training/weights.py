"""Changes of weights in a training: noise per mini-batch, clipping and remapping per step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.engines.base import Matrix
from aimc_bridge.physics import cells, faults, own
from aimc_bridge.physics.injection import injected
from aimc_bridge.spec import OwnDevice, TrainingSpec


def noisy_weight(
    matrix: Matrix, spec: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
) -> Tensor:
    """Return normalised weights for one mini-batch, with noise, drop-connect and faults.

    The random numbers come from the stream (seed, *names), on the device of the weights. A native
    model that is `compiled` draws them from its own generator.

    Args:
        matrix: The weight matrix.
        spec: The recipe.
        scale: Factor on the noise in this mini-batch.
        seed: Seed of the noise.
        names: The rest of the stream's name.

    Returns:
        The noisy weights, shape [out, in].
    """
    drawn = matrix.draw_noisy_weight(spec, scale, seed, names)
    weight = _drawn(matrix, spec, scale, seed, names) if drawn is None else drawn
    if spec.faults == "none" or not matrix.preset.pcm.faults:
        return weight
    return _broken(matrix, weight, spec, seed, names)


def _broken(
    matrix: Matrix, weight: Tensor, spec: TrainingSpec, seed: int, names: tuple[object, ...]
) -> Tensor:
    """Return the weights of a mini-batch with the faults of its chip, or of the known chip."""
    grid, pcm = matrix.grid, matrix.preset.pcm
    generators = faults.generators(seed, *names)
    if spec.faults == "chip":
        generators = faults.generators(spec.fault_chip, matrix.name)
    largest = cells.us_per_unit(matrix.normalised_weight(), grid, pcm).reciprocal() * pcm.g_max_us
    by_cell = grid.expand_columns(grid.expand_tiles(largest))
    broken = faults.draw(grid, pcm, generators).to(weight)
    return faults.on_weights(weight, broken, by_cell, pcm.factors)


def _drawn(
    matrix: Matrix, spec: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
) -> Tensor:
    """Return normalised weights with noise and drop-connect."""
    weight = matrix.normalised_weight()
    grid = matrix.grid
    generator = rng.stream(seed, *names, device=weight.device)
    shape = tuple(weight.shape)
    pcm = matrix.preset.pcm
    whole_tiles = isinstance(pcm, OwnDevice) and spec.noise_type in ("pcm", "programming")
    if isinstance(pcm, OwnDevice) and whole_tiles and scale > 0.0:

        def tile(row: int, column: int) -> torch.Generator:
            return rng.stream(seed, *names, row, column, device=weight.device)

        weight = own.noisy(weight, grid, pcm, spec, scale, tile)
    elif spec.noise_type != "none" and scale > 0.0:
        largest = grid.expand_columns(grid.expand_tiles(grid.tile_amax(weight)))
        largest = torch.where(largest > 0, largest, torch.ones_like(largest))
        eps = rng.normal(shape, generator, weight.device, weight.dtype)
        eps_read = eps
        if spec.noise_type == "pcm":
            eps_read = rng.normal(shape, generator, weight.device, weight.dtype)
        weight = injected(weight, largest, pcm, spec, scale, eps, eps_read)
    if spec.drop_connect > 0.0:
        connected = rng.uniform(shape, generator, weight.device) >= spec.drop_connect
        weight = weight * connected
    return weight


def clip_and_remap(
    matrices: Mapping[str, Matrix], spec: TrainingSpec, before: int, now: int
) -> None:
    """Clip the weights, and remap them when it is time.

    Frozen matrices stay as they are, because no optimizer may change them.

    Args:
        matrices: The weight matrices, by the name of the layer.
        spec: The recipe.
        before: Number of mini-batches done at the step before this one.
        now: Number of mini-batches done. Matrices are remapped if a multiple of the recipe's
            `remap_every` lies in (before, now].
    """
    every = spec.remap_every
    for matrix in matrices.values():
        if not matrix.trainable():
            continue
        if spec.clip_type == "fixed":
            matrix.clip(torch.tensor(spec.clip_value))
        elif spec.clip_type != "none":
            spread = _spread(matrix, by_column=spec.clip_type == "column_gaussian")
            matrix.clip(matrix.grid.expand_columns(spread * spec.clip_value))
        if every > 0 and now // every > before // every:
            matrix.remap()


def _spread(matrix: Matrix, by_column: bool) -> Tensor:
    """Return the standard deviation of the weights, shape [row tiles, out].

    It is taken per column of each tile, or per tile and repeated for each of its columns.
    """
    weight, grid = matrix.normalised_weight(), matrix.grid

    def mean(values: Tensor) -> Tensor:
        return grid.column_mean(values) if by_column else grid.expand_tiles(grid.tile_mean(values))

    return (mean(weight.square()) - mean(weight).square()).clamp_min(0.0).sqrt()
