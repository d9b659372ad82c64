"""The steps of a training beside the optimizer: noise, clipping, remapping.

Weights get noise before a step of the optimizer, and are clipped and remapped after it. A `Session`
does that; a training loop calls it around its own steps. It knows nothing of loaders, losses,
epochs or files.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain

import torch
from torch import Tensor, nn

from aimc_bridge import rng
from aimc_bridge.engines.base import Matrix
from aimc_bridge.physics import own
from aimc_bridge.physics.injection import injected, ramped
from aimc_bridge.spec import OwnDevice, TrainingSpec


class Session:
    """Noise, clipping and remapping around the optimizer's steps of one training.

    A training loop calls `prepare` once, then `inject` before each mini-batch, `clear` after its
    backward pass and `follow` after each step of the optimizer; `close` at the end or after an
    error.

    Attributes:
        matrices: The weight matrices on tiles, by the name of the layer.
        spec: The recipe.
        seed: Seed of the noise.
        process: Index of this process among those that train together.
    """

    def __init__(
        self,
        model: nn.Module,
        matrices: Mapping[str, Matrix],
        spec: TrainingSpec,
        seed: int,
        process: int = 0,
    ) -> None:
        """Remember the model as it is; nothing changes before `prepare`.

        Args:
            model: The model that is trained.
            matrices: Its weight matrices on tiles, by the name of the layer. If there are none, as
                in a digital model, no step changes anything.
            spec: The recipe.
            seed: Seed of the noise. Every layer, mini-batch and process has noise of its own.
            process: Index of this process among those that train together.
        """
        self.matrices, self.spec, self.seed, self.process = matrices, spec, seed, process
        self._before: Untrained | None = Untrained(model)

    def prepare(self) -> None:
        """Tell every matrix what the recipe learns and how input ranges start."""
        for matrix in self.matrices.values():
            matrix.prepare_training(self.spec)

    def begin(self) -> None:
        """Declare the set-up finished: from here on `close` keeps what was learned."""
        self._before = None

    def noise_scale(self, step: int) -> float:
        """Return the scale of the noise in a mini-batch; it grows with the recipe's ramp.

        Args:
            step: Number of the mini-batch, from 0.
        """
        return ramped(self.spec.noise_scale, step, self.spec.ramp_batches)

    def inject(self, step: int) -> None:
        """Let every matrix multiply with a noisy copy of its weights until `clear`.

        Args:
            step: Number of the mini-batch, from 0.
        """
        scale = self.noise_scale(step)
        for name, matrix in self.matrices.items():
            names = ("inject", name, step, self.process)
            matrix.inject(noisy_weight(matrix, self.spec, scale, self.seed, names))

    def clear(self) -> None:
        """Let every matrix multiply with its clean weights again."""
        for matrix in self.matrices.values():
            matrix.inject(None)

    def follow(self, before: int, now: int) -> None:
        """Clip the weights after a step of the optimizer, and remap them when it is time.

        Args:
            before: Number of mini-batches done at the step before this one.
            now: Number of mini-batches done.
        """
        clip_and_remap(self.matrices, self.spec, before, now)

    def close(self) -> None:
        """Clear the noise; restore a model whose training never began."""
        self.clear()
        if self._before is not None:
            self._before.put_back()


def noisy_weight(
    matrix: Matrix, spec: TrainingSpec, scale: float, seed: int, names: tuple[object, ...]
) -> Tensor:
    """Return normalised weights for one mini-batch, with noise and drop-connect.

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
    if drawn is not None:
        return drawn
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


class Untrained:
    """A model as it was before a training was set up.

    It remembers which parameters require gradients, and the values of everything but the weights,
    which no set-up changes. (aihwkit keeps how a range was found in a parameter that requires
    gradients and gets none. A context of its tiles, which is a parameter of another class, shows
    weights and cannot be written to.)

    Attributes:
        asks: Parameters, and whether each requires gradients.
        values: Tensors and copies of their values.
    """

    def __init__(self, model: nn.Module) -> None:
        """Remember a model.

        Args:
            model: The model.
        """
        self.asks = [(p, p.requires_grad) for p in model.parameters()]
        tensors = chain(model.parameters(), model.buffers())
        small = (
            t
            for t in tensors
            if (t.ndim < 2 or not t.requires_grad)
            and (type(t) is nn.Parameter or not isinstance(t, nn.Parameter))
        )
        self.values = [(t, t.detach().clone()) for t in small]

    @torch.no_grad()
    def put_back(self) -> None:
        """Put the model back as it was."""
        for parameter, asks in self.asks:
            parameter.requires_grad_(asks)
        for tensor, value in self.values:
            tensor.copy_(value)


def _spread(matrix: Matrix, by_column: bool) -> Tensor:
    """Return the standard deviation of the weights, shape [row tiles, out].

    It is taken per column of each tile, or per tile and repeated for each of its columns.
    """
    weight, grid = matrix.normalised_weight(), matrix.grid

    def mean(values: Tensor) -> Tensor:
        return grid.column_mean(values) if by_column else grid.expand_tiles(grid.tile_mean(values))

    return (mean(weight.square()) - mean(weight).square()).clamp_min(0.0).sqrt()
