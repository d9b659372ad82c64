"""The state of a chip on one of aihwkit's tiles: read, checked and written."""

from __future__ import annotations

import torch
from torch import Tensor

from aimc_bridge.engines.aihwkit.noise import LawNoiseModel
from aimc_bridge.engines.aihwkit.tile import ChipTile
from aimc_bridge.engines.aihwkit.variation import read_tile, write_tile
from aimc_bridge.errors import CheckpointError
from aimc_bridge.physics import variation
from aimc_bridge.physics.cells import state_shape, working_shape
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.variation import Variation
from aimc_bridge.spec import Preset


def of_tile(state: dict[str, Tensor], row: int, column: int) -> dict[str, Tensor]:
    """Return the tensors of a tile by their own names.

    Args:
        state: The tensors of all tiles, under names "row.column.tensor".
        row: The row of the tile.
        column: Its column.
    """
    prefix = f"{row}.{column}."
    return {k.removeprefix(prefix): value for k, value in state.items() if k.startswith(prefix)}


def tile_state(tile: ChipTile, preset: Preset) -> dict[str, Tensor] | None:
    """Return the tensors of a tile's chip by their names, or None if it holds no chip.

    Args:
        tile: The tile.
        preset: The preset of the layer.
    """
    if tile.programmed_weights is None:
        return None
    state = {
        "programmed": tile.programmed_weights,
        "held": tile.shared_weights.detach(),
        "alpha": tile.alpha,
    }
    if tile.drift_baseline is not None:
        state["baseline"] = tile.drift_baseline
    for index, values in enumerate(tile.drift_noise_parameters or []):
        state[f"drift{index}"] = values
    for t_s, alpha in tile.alphas.items():
        state[f"alpha@{t_s!r}"] = alpha
    return state | read_tile(tile, preset.crossbar).tensors()


def check_tile_state(
    tensors: dict[str, Tensor], tile: ChipTile, preset: Preset, t_s: float | None, where: str
) -> None:
    """Check the tensors of a tile; aihwkit's own models decide how many they have.

    Args:
        tensors: The tensors, by their names.
        tile: The tile that they are for.
        preset: The preset of the layer.
        t_s: Seconds after programming at which the chip was read; None before it was read.
        where: The tile, as errors name it.

    Raises:
        CheckpointError: If a tensor is missing, unknown, not finite, or of another shape or type.
    """
    own, drawn = law_of(preset.pcm).by_tile, variation.drawn_names(preset.crossbar)
    needed = ["programmed", "held", "alpha", "drift0", *drawn]
    if preset.compensation.drift_compensation != "none":
        needed.append("baseline")
    if t_s is not None:
        needed.append(f"alpha@{t_s!r}")
    if missing := [key for key in needed if key not in tensors]:
        raise CheckpointError(f"{where}: no {', '.join(missing)}")
    count = sum(key.startswith("drift") for key in tensors)
    known = {*needed, *(f"drift{index}" for index in range(count))}
    if isinstance(tile.rpu_config.noise_model, LawNoiseModel):
        _check_cells(tensors, tile, preset, where)
    for key, value in tensors.items():
        if key not in known and not _is_factor(key):
            raise CheckpointError(f"{where}: unknown tensor {key!r}")
        shape, whole = tuple(value.shape), tuple(tile.shared_weights.shape)
        if key in ("programmed", "held") and shape != whole:
            raise CheckpointError(f"{where}: {key} {shape}; needs {whole}")
        if key in drawn and shape != variation.shape_of(key, _grid_of(tile)):
            raise CheckpointError(f"{where}: {key} {shape}, not one value per output")
        if key.startswith("alpha") and value.numel() != 1:
            raise CheckpointError(f"{where}: {key} {shape}; needs one number")
        if key.startswith("drift") and own:  # it may keep what it likes
            continue
        known_types = [tile.shared_weights.dtype]
        if key.startswith("drift"):
            known_types.append(torch.bool)  # which devices are broken
        if value.dtype not in known_types or not bool(value.isfinite().all()):
            raise CheckpointError(f"{where}: {key} holds NaN, or is {value.dtype}")


def _check_cells(tensors: dict[str, Tensor], tile: ChipTile, preset: Preset, where: str) -> None:
    """Check the cells that our noise model keeps of a tile.

    Raises:
        CheckpointError: If one is missing, too many, or of another shape.
    """
    pcm, grid = preset.pcm, _grid_of(tile)
    devices = state_shape(grid, pcm)
    shapes = [devices, devices, (1, 1)]
    if pcm.faults:
        shapes += [working_shape(grid, pcm), (grid.out_features, grid.in_features)]
    count = sum(key.startswith("drift") for key in tensors)
    if count != len(shapes):
        raise CheckpointError(f"{where}: {count} tensors of its cells; needs {len(shapes)}")
    for index, needed in enumerate(shapes):
        shape = tuple(tensors[f"drift{index}"].shape)
        given = shape[-len(devices) :] if index == 1 else shape  # a law may have several nu
        if given != needed:
            raise CheckpointError(
                f"{where}: drift{index} {shape}; needs {needed}, "
                f"{pcm.pairs or 'no'} pairs of devices per weight"
            )


def write_tile_state(tensors: dict[str, Tensor], tile: ChipTile, preset: Preset) -> None:
    """Write the tensors of a chip to a tile.

    Args:
        tensors: The tensors, by their names; they were checked.
        tile: The tile.
        preset: The preset of the layer.
    """
    tile.reference_combined_weights = tile.trained().clone()
    tile.programmed_weights = tensors["programmed"].clone()
    tile.hold(tensors["held"])
    drawn = variation.drawn_names(preset.crossbar)
    write_tile(tile, preset.crossbar, Variation(**{key: tensors[key] for key in drawn}))
    tile.alpha = tensors["alpha"].clone()
    tile.drift_baseline = tensors.get("baseline")
    count = sum(key.startswith("drift") for key in tensors)
    tile.drift_noise_parameters = [tensors[f"drift{index}"].clone() for index in range(count)]
    tile.alphas = {
        float(key.removeprefix("alpha@")): value.clone()
        for key, value in tensors.items()
        if key.startswith("alpha@")
    }


def _grid_of(tile: ChipTile) -> TileGrid:
    """Return the grid of a matrix that lies on this tile alone."""
    return TileGrid((tile.in_size,), (tile.out_size,))


def _is_factor(key: str) -> bool:
    """Return whether a tensor is the factor of drift compensation at a time."""
    try:
        return key.startswith("alpha@") and float(key.removeprefix("alpha@")) >= 0
    except ValueError:
        return False
