"""What training does to the weights beside the optimizer: noise before a step, clip and remap
after it."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from aimc_bridge import rng
from aimc_bridge.engines.base import Matrix
from aimc_bridge.physics.injection import injected
from aimc_bridge.spec import TrainingSpec


def noisy_weight(
    matrix: Matrix, spec: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
) -> Tensor:
    """Normalised weights of one mini-batch, `[out, in]`: noise and drop-connect.

    The draws come from the stream (seed, *names), on the device of the weights; those of a native
    model that is `compiled` from its own generator.
    """
    own = matrix.draw_noisy_weight(spec, scale, seed, names)
    if own is not None:
        return own
    weight = matrix.normalised_weight()
    grid = matrix.grid
    generator = rng.stream(seed, *names, device=weight.device)
    shape = tuple(weight.shape)
    if spec.noise_type != "none" and scale > 0.0:
        largest = grid.expand_columns(grid.expand_tiles(grid.tile_amax(weight)))
        largest = torch.where(largest > 0, largest, torch.ones_like(largest))
        eps = rng.normal(shape, generator, weight.device, weight.dtype)
        eps_read = eps
        if spec.noise_type == "pcm":
            eps_read = rng.normal(shape, generator, weight.device, weight.dtype)
        weight = injected(weight, largest, matrix.preset.pcm, spec, scale, eps, eps_read)
    if spec.drop_connect > 0.0:
        kept = rng.uniform(shape, generator, weight.device) >= spec.drop_connect
        weight = weight * kept
    return weight


def clip_and_remap(matrices: dict[str, Matrix], spec: TrainingSpec, before: int, now: int) -> None:
    """Clip, and remap where a multiple of `remap_every` lies in (before, now] mini-batches.

    Frozen matrices, whose weights no optimizer may change, stay as they are.
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


class Untrained:
    """A model before a training is set up: which parameters ask for gradients, and the values of
    all but the weights, which no set-up changes. (How a range was found is a parameter of aihwkit's
    that asks for gradients and gets none.)"""

    def __init__(self, model: nn.Module) -> None:
        self.asks = [(p, p.requires_grad) for p in model.parameters()]
        tensors = chain(model.parameters(), model.buffers())
        small = (t for t in tensors if t.ndim < 2 or not t.requires_grad)
        self.values = [(t, t.detach().clone()) for t in small]

    @torch.no_grad()
    def put_back(self) -> None:
        """The model is that again."""
        for parameter, asks in self.asks:
            parameter.requires_grad_(asks)
        for tensor, value in self.values:
            tensor.copy_(value)


def _spread(matrix: Matrix, by_column: bool) -> Tensor:
    """Standard deviation of the weights of each column of each tile, or of each tile, for each of
    its columns: `[row tiles, out]`."""
    weight, grid = matrix.normalised_weight(), matrix.grid

    def mean(values: Tensor) -> Tensor:
        return grid.column_mean(values) if by_column else grid.expand_tiles(grid.tile_mean(values))

    return (mean(weight.square()) - mean(weight).square()).clamp_min(0.0).sqrt()
