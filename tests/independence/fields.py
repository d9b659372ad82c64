"""The noise fields of these tests: a model of equal layers, one stage at a time.

All weights are 1, so that all devices have one law and differ in their noise alone. A stage is
looked at with a preset in which every other source of noise is off.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import convert, devices, drift, program, rng
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset
from presets import ideal, rasch2023

ROWS, COLUMNS = 4, 512  # of a tile; a layer has two by two tiles
LAYERS = ("a", "b", "c")
SEEDS = (0, 1)
TIMES = (3600.0, 86400.0)
_WHY = "one source of noise, in tests"

SILENT = rasch2023.change(
    **{k: v for k, v in ideal.crossbar.values().items() if k != "ir_drop_g_ratio"}, why=_WHY
).change(
    max_rows=ROWS, max_columns=COLUMNS, prog_noise_scale=0.0, read_noise_scale=0.0,
    drift_scale=0.0, drift_compensation="none", why=_WHY,
)  # fmt: skip
PRESETS: dict[str, Preset] = {
    "program": SILENT.change(prog_noise_scale=1.0, why=_WHY),
    "exponent": SILENT.change(drift_scale=1.0, why=_WHY),
    "read": SILENT.change(read_noise_scale=1.0, why=_WHY),
    "faults": SILENT.change(faults=devices.Faults(stuck_at_zero=0.5), why=_WHY),
    "compensation": SILENT.change(out_noise=0.04, drift_compensation="per_column", why=_WHY),
}


class Parallel(nn.Module):
    """Layers side by side that get the same inputs."""

    def __init__(self, rows: int = 2 * ROWS, columns: int = 2 * COLUMNS) -> None:
        super().__init__()
        for name in LAYERS:
            layer = nn.Linear(rows, columns, bias=False)
            nn.init.ones_(layer.weight)
            self.add_module(name, layer)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {name: self.get_submodule(name)(x) for name in LAYERS}


def tiles(grid: TileGrid, matrix: Tensor) -> dict[tuple[int, int], Tensor]:
    """Return the part of a matrix `[out, in]` on each tile, by row and column."""
    return {
        (row, column): matrix[outs, ins]
        for row, ins in enumerate(grid.row_slices())
        for column, outs in enumerate(grid.column_slices())
    }


def _readouts(matrix: Matrix) -> dict[str, dict[tuple[int, int], Tensor]]:
    """Return what drift compensation measured on each tile, for its reference and now."""
    state, grid = matrix.chip_state(), matrix.grid
    reference = state.get("reference")
    if reference is None:  # aihwkit keeps it tile by tile
        rows = range(len(grid.rows))
        columns = range(len(grid.columns))
        parts = [
            [state[f"{row}.{column}.baseline"].flatten() for column in columns] for row in rows
        ]
        reference = torch.stack([torch.cat(row) for row in parts])
    kinds = {"reference": reference, "now": reference / matrix.alpha()}
    return {
        kind: {
            (row, column): values[row, outs]
            for row in range(len(grid.rows))
            for column, outs in enumerate(grid.column_slices())
        }
        for kind, values in kinds.items()
    }


def chips(engine: str, stage: str) -> dict[tuple[object, ...], Tensor]:
    """Return the noise of a stage, by (stage, layer, tile, seed, time)."""
    model = convert(Parallel(), PRESETS[stage], engine=engine).eval()
    found: dict[tuple[object, ...], Tensor] = {}

    def note(seed: int, when: object) -> None:
        for layer, matrix in matrices_of(model).items():
            for tile, values in tiles(matrix.grid, matrix.effective_weight()).items():
                found[stage, layer, tile, seed, when] = values.clone()

    for seed in SEEDS:
        program(model, seed)
        if stage in ("program", "faults"):
            note(seed, "programmed")
        elif stage == "exponent":
            drift(model, TIMES[0])
            note(seed, "every time")
        elif stage == "read":
            for t_s in TIMES:
                drift(model, t_s)
                note(seed, t_s)
        else:
            for t_s in TIMES:
                drift(model, t_s)
                for layer, matrix in matrices_of(model).items():
                    for kind, by_tile in _readouts(matrix).items():
                        for tile, values in by_tile.items():
                            when = "reference" if kind == "reference" else t_s
                            found[stage, layer, tile, seed, when] = values.clone()
    return found


Derive = Callable[..., int]


def forget(
    monkeypatch: pytest.MonkeyPatch, kind: str, index: int | None, seed: bool = False
) -> None:
    """Plant a fault: a part of the names of a kind of stream no longer counts.

    Args:
        monkeypatch: Pytest's.
        kind: The first word of the names, such as "read".
        index: Which of the words after it is forgotten; None for none.
        seed: Whether the seed is forgotten.
    """
    true: Derive = rng.derive

    def derive(chip: int, *names: object) -> int:
        if names and names[0] == kind:
            rest = list(names)
            if index is not None and index < len(names):
                rest[index] = "forgotten"
            return true(0 if seed else chip, *rest)
        return true(chip, *names)

    monkeypatch.setattr(rng, "derive", derive)
