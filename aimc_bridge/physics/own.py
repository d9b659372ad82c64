"""Devices of a user: whole tiles that two functions program and read.

Both engines call these functions and no others of the user's object. A tile is given to it with
weights in [-1, 1], scaled by the largest of the tile, and with a generator of its own.
"""

from __future__ import annotations

import pickle
import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aimc_bridge.errors import AimcError, ShapeError, UsageError
from aimc_bridge.physics import faults as fault_law
from aimc_bridge.physics.drift import check_time
from aimc_bridge.physics.faults import Broken, FaultMap, Generators
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.state import like, tensors_of
from aimc_bridge.spec import OwnDevice, TrainingSpec

_SMALLEST = 1e-30


class TileState(NamedTuple):
    """A programmed tile.

    Attributes:
        state: What the user's `program` returned.
        largest: The largest |w| of the tile, shape ().
        shape: Outputs and inputs of the tile.
        broken: What broken cells do to the weights; None if all work.
    """

    state: Any
    largest: Tensor
    shape: tuple[int, int]
    broken: Broken | None = None

    def tensors(self) -> list[Tensor]:
        """Return everything as tensors, from which `restored` makes the tile again."""
        return [self.largest, *tensors_of(self.state), *(self.broken or ())]


_REPEATABLE: set[OwnDevice] = set()
"""Devices that were found to give the same weights for the same generator."""


def program_tile(
    weight: Tensor,
    pcm: OwnDevice,
    generator: torch.Generator,
    faults: FaultMap | None = None,
) -> TileState:
    """Program one tile.

    Args:
        weight: Normalised weights, shape (out, in).
        pcm: The device.
        generator: The source of all random numbers, on the device of the weights.
        faults: The broken cells of the tile, where its weights are; None if all work.

    Returns:
        The programmed tile.

    Raises:
        UsageError: If the object fails, if its state holds something that cannot be saved, if it
            draws random numbers from somewhere else, or if reading changes the state. Also all
            errors of `read_tile`, for the first tile that a device programs.
    """
    largest = weight.abs().max().clamp_min(_SMALLEST)
    scaled = weight / largest
    start, first = generator.get_state(), pcm not in _REPEATABLE
    elsewhere = _global_states(generator) if first else {}
    state = _called(pcm, "program", scaled.clone(), generator)
    tensors_of(state)
    tile = TileState(state, largest, (weight.shape[0], weight.shape[1]))
    if first:
        _check_repeatable(tile, scaled, pcm, generator, start, elsewhere)
        _REPEATABLE.add(pcm)
    if faults is None:
        return tile
    return tile._replace(broken=fault_law.of_cells(faults, largest, netted=False))


def read_tile(tile: TileState, pcm: OwnDevice, t_s: float, generator: torch.Generator) -> Tensor:
    """Read one tile.

    Args:
        tile: The programmed tile.
        pcm: The device.
        t_s: Seconds after the end of programming.
        generator: The source of all random numbers.

    Returns:
        Normalised weights, shape (out, in).

    Raises:
        ShapeError: If the object returns another shape.
        UsageError: If the object fails, or returns something else than finite weights on the device
            of those that it was given. Other floating point types are converted.
    """
    t_s = check_time(t_s)
    result = _called(pcm, "read", tile.state, t_s, generator)
    weights = checked_weights(result, tile.shape, tile.largest, f"read of {pcm.label()}", t_s)
    weights = weights * tile.largest
    if tile.broken is None:
        return weights
    return torch.where(tile.broken.working, weights, 0.0) + tile.broken.stuck


def checked_weights(
    weights: object, shape: tuple[int, ...], like: Tensor, function: str, t_s: float
) -> Tensor:
    """Check what a user's `read` returned, and return it with the right dtype.

    Args:
        weights: The result.
        shape: The shape of the tile.
        like: A tensor with the dtype and the device of the weights that `program` was given.
            Weights of another floating point type are converted to that dtype.
        function: What the user's function is called in errors.
        t_s: Seconds after the end of programming, for errors.

    Returns:
        The weights, without gradients.

    Raises:
        ShapeError: If the shape is another one.
        UsageError: If it is no dense tensor of finite floating point numbers on that device.
    """
    name = f"{function} returned"
    if not isinstance(weights, Tensor):
        raise UsageError(f"{name} a {type(weights).__name__}; allowed: a tensor of weights")
    if tuple(weights.shape) != tuple(shape):
        raise ShapeError(
            f"{name} {tuple(weights.shape)} for weights {tuple(shape)}; allowed: the same shape, "
            "[out, in]"
        )
    dense = weights.layout == torch.strided and weights.is_floating_point()
    if not dense or weights.device != like.device:
        kind = "" if weights.layout == torch.strided else f"{weights.layout} "
        raise UsageError(
            f"{name} {kind}{weights.dtype} on {weights.device}; allowed: floating point weights on "
            f"{like.device}, like those that program was given"
        )
    weights = weights.detach().to(like.dtype)
    if not bool(weights.isfinite().all()):
        raise UsageError(
            f"{name} NaN or infinite weights at t_inference={t_s:g}; allowed: finite weights, also "
            "at 0, right after programming"
        )
    return weights


def restored(
    tensors: list[Tensor], weight: Tensor, pcm: OwnDevice, generator: torch.Generator
) -> TileState:
    """Return a programmed tile from the tensors that it was saved as.

    A file holds tensors and no classes. The structure of the state is that of a tile which the
    object programs here.

    Args:
        tensors: The result of `TileState.tensors`.
        weight: Weights of the tile's shape, (out, in).
        pcm: The device.
        generator: A source of random numbers for the tile that shows the structure.

    Raises:
        CheckpointError: If the tensors do not fit the device.
    """
    first = program_tile(weight, pcm, generator)
    broken = None
    if pcm.faults and len(tensors) > 2:
        broken = Broken(tensors[-2].bool(), tensors[-1])
        tensors = tensors[:-2]
    return TileState(like(first.state, tensors[1:]), tensors[0], first.shape, broken)


def program_tiles(
    weight: Tensor,
    grid: TileGrid,
    pcm: OwnDevice,
    generators: Generators,
    faults: FaultMap | None = None,
) -> list[list[TileState]]:
    """Program all tiles of a matrix.

    Args:
        weight: Normalised weights, shape (out, in).
        grid: The tiles.
        pcm: The device.
        generators: The generator of each tile.
        faults: The broken cells of the matrix, where its weights are; None if all work.

    Returns:
        The programmed tiles, by row and column. All errors are those of `program_tile`.
    """

    def part(outputs: slice, inputs: slice) -> FaultMap | None:
        return None if faults is None else FaultMap(*(each[outputs, inputs] for each in faults))

    return [
        [
            program_tile(
                weight[outputs, inputs], pcm, generators(row, column), part(outputs, inputs)
            )
            for column, outputs in enumerate(grid.column_slices())
        ]
        for row, inputs in enumerate(grid.row_slices())
    ]


def read_tiles(
    tiles: list[list[TileState]], pcm: OwnDevice, t_s: float, generators: Generators
) -> Tensor:
    """Read all tiles of a matrix.

    Args:
        tiles: The programmed tiles, by row and column.
        pcm: The device.
        t_s: Seconds after the end of programming.
        generators: The generator of each tile.

    Returns:
        Normalised weights, shape (out, in). All errors are those of `read_tile`.
    """
    parts = [
        torch.cat(
            [
                read_tile(tile, pcm, t_s, generators(row, column))
                for column, tile in enumerate(columns)
            ]
        )
        for row, columns in enumerate(tiles)
    ]
    return torch.cat(parts, dim=1)


def noisy(
    weight: Tensor,
    grid: TileGrid,
    pcm: OwnDevice,
    recipe: TrainingSpec,
    scale: float,
    generators: Generators,
) -> Tensor:
    """Return weights with the noise of one mini-batch: programmed, and read again.

    With `noise_type` "pcm" they are read at the recipe's time, with "programming" right after
    programming. What is added is the difference to the clean weights, times `scale`. The mean decay
    of a tile is not part of it: it is measured as the factor that fits best.

    Args:
        weight: Normalised weights, shape (out, in).
        grid: The tiles.
        pcm: The device.
        recipe: The recipe.
        scale: Factor on the noise.
        generators: The generator of each tile.

    Returns:
        Normalised weights, shape (out, in).
    """
    t_s = recipe.noise_t_s if recipe.noise_type == "pcm" else 0.0
    new = torch.empty_like(weight)
    for row, inputs in enumerate(grid.row_slices()):
        for column, outputs in enumerate(grid.column_slices()):
            clean = weight[outputs, inputs]
            generator = generators(row, column)
            now = read_tile(program_tile(clean, pcm, generator), pcm, t_s, generator)
            size = clean.square().sum()
            decay = torch.where(size > 0, (clean * now).sum() / size, torch.ones_like(size))
            new[outputs, inputs] = clean + scale * (now - decay * clean)
    return new


def _called(pcm: OwnDevice, function: str, *arguments: Any) -> Any:
    """Call a function of the object; what it raises becomes our error."""
    try:
        with torch.no_grad():
            return getattr(pcm.physics, function)(*arguments)
    except AimcError:
        raise
    except Exception as problem:
        at = f" at t_inference={arguments[1]:g}" if function == "read" else ""
        raise UsageError(
            f"{function} of {pcm.label()} failed{at}: {type(problem).__name__}: {problem}"
        ) from problem


def _check_repeatable(
    tile: TileState,
    scaled: Tensor,
    pcm: OwnDevice,
    generator: torch.Generator,
    start: Tensor,
    elsewhere: dict[str, object],
) -> None:
    """Raise UsageError if the object does not give the same weights for the same generator."""
    end = generator.get_state()
    before = [tensor.clone() for tensor in tensors_of(tile.state)]
    readings = [read_tile(tile, pcm, 0.0, generator)]
    after = tensors_of(tile.state)
    if not all(map(_same, before, after)):
        raise UsageError(
            f"read of {pcm.label()} changed the state that it was given; allowed: new tensors, so "
            "that the next reading starts from what was programmed"
        )
    generator.set_state(start)
    state = _called(pcm, "program", scaled.clone(), generator)
    generator.set_state(end)
    readings.append(read_tile(TileState(state, tile.largest, tile.shape), pcm, 0.0, generator))
    generator.set_state(end)
    now = _global_states(generator)
    drawn = [name for name, state in elsewhere.items() if now.get(name, state) != state]
    if drawn:
        raise UsageError(
            f"{pcm.label()} drew from, or seeded, the generator of {' and '.join(drawn)} that the "
            "whole program shares; allowed: every random number from generator=, as in "
            "torch.randn(shape, generator=generator)"
        )
    if not torch.equal(*readings):
        raise UsageError(
            f"{pcm.label()} returned other weights when it was called again with the same weights "
            "and the same generator; allowed: every random number from generator=, as in "
            "torch.randn(shape, generator=generator), and nothing kept between two calls"
        )


def _same(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors are equal; NaN equals NaN."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    different = (a != b) & ~((a != a) & (b != b))
    return not bool(different.any())


def _global_states(generator: torch.Generator) -> dict[str, object]:
    """Return the states of the generators that a whole program shares, by name.

    Without torch's if it is the generator that the device is to use, as on aihwkit.
    """
    states: dict[str, object] = {
        "numpy": pickle.dumps(np.random.get_state()),
        "random": random.getstate(),
    }
    if generator is not torch.default_generator:
        states["torch"] = torch.get_rng_state().numpy().tobytes()
    return states
