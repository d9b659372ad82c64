"""The conductances of a chip as a table, to program them into a real array or to look at them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from aimc_bridge.arguments import texts
from aimc_bridge.chip import chip_of
from aimc_bridge.converted import matches, matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import UsageError
from aimc_bridge.physics import faults
from aimc_bridge.physics.device_values import DeviceValues, device_values

_DEVICES = ("plus", "minus", "cell", "single", "reference")


@torch.no_grad()
def chip_conductances(model: nn.Module, layers: str | Iterable[str] | None = None) -> pd.DataFrame:
    """Return the conductance of every device of the programmed chip, in microsiemens.

    There is one row per device: two per weight for a pair of devices, one if a weight is one device
    or one cell. A row takes some 25 bytes, so that a layer of 1,000 x 1,000 weights on pairs takes
    50 MB. Ask for a few layers at a time if a model is large. `table.to_parquet(path)` writes the
    table to a file if pyarrow is installed.

    Args:
        model: A converted model that holds a chip, of either engine. The time that has passed for
            the chip has no influence: the table shows it right after programming.
        layers: Names or shell patterns of the layers; "encoder" takes all layers of the encoder.
            None takes all layers.

    Returns:
        A DataFrame with the columns

        - layer: name of the layer,
        - tile: row and column of the tile, as "0.1",
        - row, column: place of the device on its tile, from 0 on. Rows are inputs and columns are
          outputs; a column of references lies behind the last output,
        - pair: number of the pair, from 0 on, in the order of `significance`,
        - device: "plus" or "minus" of a pair; "single" for one device per weight, "reference" for
          the one that it is read against; "cell" if the law is that of whole weights, whose
          conductances have a sign,
        - target: what was to be written, in microsiemens, with the largest weight of a tile at
          g_max,
        - programmed: what the device holds right after programming, on the same scale. A broken
          device holds what it is stuck at. If the preset nets pairs (`netting`), the simulation
          keeps the difference of two devices only: it stands on one of them, and 0 on the other,
        - nu: the drift exponent. NaN if the device has none: its law has no exponents, it is
          broken, or it is the smaller one of two that are netted.

        Layers come in the order of the model, and in a layer tile by tile and row by row.

    Raises:
        StateError: If no chip is programmed.
        UsageError: If a name or pattern matches no layer.
        CapabilityError: If the model is not a converted one, or if its device is an object that
            programs whole tiles of weights, of which no conductances are known.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, chip_conductances, convert, program
        >>> from presets import rasch2023
        >>> analog = convert(nn.Linear(12, 7), rasch2023).eval()
        >>> calibrate(analog, [torch.randn(8, 12)])
        >>> program(analog, seed=7)
        >>> len(chip_conductances(analog))  # 12 x 7 weights, two devices each
        168
    """
    seed = chip_of(model, "chip_conductances").seed
    matrices = _chosen(matrices_of(model), layers)
    parts = [
        {**part, "layer": np.full(len(part["row"]), number, np.int32)}
        for number, matrix in enumerate(matrices.values())
        for part in _tiles(matrix, seed)
    ]
    columns: dict[str, Any] = {
        name: np.concatenate([part[name] for part in parts]) if parts else np.empty(0, np.int32)
        for name in ("layer", "tile", *_VALUES)
    }
    tiles, columns["tile"] = np.unique(columns["tile"], return_inverse=True)
    named = {
        "layer": list(matrices),
        "tile": [f"{tile // _WIDE}.{tile % _WIDE}" for tile in tiles.tolist()],
        "device": list(_DEVICES),
    }
    for name, names in named.items():
        columns[name] = pd.Categorical.from_codes(columns[name], categories=pd.Index(names))
    return pd.DataFrame(columns)


_VALUES = ("row", "column", "pair", "device", "target", "programmed", "nu")
_WIDE = 65536  # more column tiles than a matrix has


def _chosen(matrices: dict[str, Matrix], layers: str | Iterable[str] | None) -> dict[str, Matrix]:
    """Return the matrices whose names match; raise UsageError if a pattern matches none."""
    if layers is None:
        return matrices
    patterns = texts("layers", layers)
    for pattern in patterns:
        if not any(matches(name, pattern) for name in matrices):
            raise UsageError(
                f"layers: no analog layer matches {pattern!r}; there are: {', '.join(matrices)}"
            )
    return {n: m for n, m in matrices.items() if any(matches(n, pattern) for pattern in patterns)}


def _tiles(matrix: Matrix, seed: int) -> list[dict[str, Any]]:
    """Return the columns of the table for each tile of a matrix."""
    grid, pcm, weight = matrix.grid, matrix.preset.pcm, matrix.normalised_weight()
    cells, broken = matrix.cells(), None
    if pcm.faults:
        broken = faults.draw(grid, pcm, faults.generators(seed, matrix.name)).to(weight)
    values = device_values(weight, cells, grid, pcm, broken)
    return [
        _tile(values, row, column, inputs, outputs)
        for row, inputs in enumerate(grid.row_slices())
        for column, outputs in enumerate(grid.column_slices())
    ]


def _tile(
    values: list[DeviceValues], row: int, column: int, inputs: slice, outputs: slice
) -> dict[str, Any]:
    """Return the columns of the table for one tile, in the order of rows, columns and devices."""
    rows, size = inputs.stop - inputs.start, outputs.stop - outputs.start
    weights = [each for each in values if each.device != "reference"]
    places = [(each, range(size), outputs) for each in weights]
    places += [
        (each, range(size, size + 1), slice(column, column + 1))
        for each in values
        if each.device == "reference"
    ]
    columns: dict[str, list[Any]] = {name: [] for name in _VALUES}
    for each, on_tile, outs in places:
        shape = (rows, len(on_tile))
        columns["row"].append(np.broadcast_to(np.arange(rows, dtype=np.int32)[:, None], shape))
        columns["column"].append(np.broadcast_to(np.array(on_tile, np.int32), shape))
        columns["pair"].append(np.full(shape, each.pair, np.int16))
        columns["device"].append(np.full(shape, _DEVICES.index(each.device), np.int8))
        for name, tensor in zip(_VALUES[4:], each[2:], strict=True):
            columns[name].append(tensor[outs, inputs].T.cpu().numpy())

    def joined(name: str) -> Any:
        devices = np.stack(columns[name][: len(weights)], axis=-1).reshape(rows, -1)
        return np.concatenate([devices, *columns[name][len(weights) :]], axis=1).reshape(-1)

    tile: dict[str, Any] = {name: joined(name) for name in _VALUES}
    tile["tile"] = np.full(len(tile["row"]), row * _WIDE + column, np.int64)
    return tile
