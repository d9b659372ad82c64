"""The table of a chip's conductances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import chip_conductances, convert, load_chip, program, save_chip
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import CapabilityError, StateError, UsageError
from aimc_bridge.physics import faults
from aimc_bridge.spec import Preset
from presets import rasch2023
from tests.models import DEVICES, linear, mlp

SMALL = DEVICES.change(max_rows=5, max_columns=4, why="several tiles")
CELLS: dict[str, dict[str, Any]] = {
    "netted": {},
    "apart": {"netting": False},
    "two": {"pairs": 2, "significance": (1.0, 4.0)},
    "three apart": {"pairs": 3, "netting": False},
    "digital": {"reference": "digital", "g_min_us": 1.0},
    "column": {"reference": "column", "g_min_us": 1.0},
}
COLUMNS = ["layer", "tile", "row", "column", "pair", "device", "target", "programmed", "nu"]
FAULTS = {"stuck_at_gmax": 0.1, "stuck_at_zero": 0.1, "dead_rows": 0.1}


def converted(engine: str, preset: Preset) -> nn.Module:
    return convert(
        nn.Sequential(linear(12, 9), nn.ReLU(), linear(9, 5, seed=2)), preset, engine=engine
    ).eval()


def only_matrix(model: nn.Module, name: str = "0") -> Matrix:
    return matrices_of(model)[name]


def joined(table: pd.DataFrame, matrix: Matrix, column: str) -> Tensor:
    """Return the normalised weights that the devices of a layer hold together."""
    grid, pcm = matrix.grid, matrix.preset.pcm
    sign = {"plus": 1.0, "single": 1.0, "cell": 1.0, "minus": -1.0, "reference": 0.0}
    weights = torch.zeros(grid.out_features, grid.in_features, dtype=torch.float64)
    for (tile, row, out), rows in table.groupby(["tile", "row", "column"], observed=True):
        r, c = map(int, str(tile).split("."))
        if rows["device"].iloc[0] == "reference":
            continue
        factors = np.array([pcm.factors[pair] for pair in rows["pair"]])
        total = float((rows["device"].map(sign).astype(float) * factors * rows[column]).sum())
        if pcm.reference == "digital":
            total -= (pcm.g_max_us + pcm.g_min_us) / 2
        if pcm.reference == "column":
            there = (table["tile"] == tile) & (table["device"] == "reference")
            total -= float(table[there & (table["row"] == row)][column].iloc[0])
        i = sum(grid.columns[:c]) + int(out)
        weights[i, sum(grid.rows[:r]) + int(row)] = total
    largest = grid.tile_amax(matrix.normalised_weight())
    unit = pcm.full_scale_us / largest
    return weights / grid.expand_columns(grid.expand_tiles(unit))


@pytest.mark.parametrize(("cell", "columns"), [*((cell, 4) for cell in CELLS), ("column", 1)])
def test_devices_hold_the_weights(engine: str, cell: str, columns: int) -> None:
    """Targets give the trained weights, programmed conductances those that the chip holds."""
    analog = converted(engine, SMALL.change(**CELLS[cell], max_columns=columns, why="test"))
    program(analog, 3)
    table = chip_conductances(analog)
    assert list(table.columns) == COLUMNS
    for name, matrix in matrices_of(analog).items():
        part = table[table["layer"] == name]
        clean = matrix.normalised_weight().double()
        torch.testing.assert_close(joined(part, matrix, "target"), clean, rtol=0, atol=1e-5)
        held = matrix.effective_weight() / matrix.grid.expand_columns(matrix.column_scale())
        torch.testing.assert_close(
            joined(part, matrix, "programmed"), held.detach().double(), rtol=0, atol=1e-5
        )
    assert table["target"].between(0.0, 25.0001).all() and (table["programmed"] >= 0).all()


@pytest.mark.parametrize("cell", CELLS)
def test_rows_and_memory(cell: str) -> None:
    analog = converted("native", SMALL.change(**CELLS[cell], why="test"))
    program(analog, 3)
    table = chip_conductances(analog, layers="0")
    devices = {"netted": 2, "apart": 2, "two": 4, "three apart": 6, "digital": 1, "column": 1}
    grid = only_matrix(analog).grid
    extra = len(grid.columns) * 12 if cell == "column" else 0  # a reference per row and tile
    assert len(table) == 9 * 12 * devices[cell] + extra
    assert set(table["tile"]) == {f"{r}.{c}" for r in range(3) for c in range(3)}
    assert table.memory_usage(index=False, deep=False).sum() < 40 * len(table)
    one = table[(table["tile"] == "1.2") & (table["device"] != "reference")]
    assert set(one["row"]) == set(range(grid.rows[1]))
    assert set(one["column"]) == set(range(grid.columns[2]))
    if cell == "column":
        there = table[(table["tile"] == "1.2") & (table["device"] == "reference")]
        assert list(there["column"]) == [grid.columns[2]] * grid.rows[1]
        assert (there["target"] == 13.0).all() and there["programmed"].nunique() == len(there)


def test_exponents() -> None:
    """Both devices have exponents; netted, only the one that is read has."""
    for netting in (True, False):
        analog = converted("native", SMALL.change(netting=netting, why="test"))
        program(analog, 3)
        table = chip_conductances(analog, "0")
        pairs = table["nu"].to_numpy().reshape(-1, 2)
        assert ((~np.isnan(pairs)).sum(1) == (1 if netting else 2)).all()
        known = table["nu"].dropna()
        assert known.between(0.0, 0.35).all() and known.nunique() > 90
        if netting:
            assert (table["programmed"][table["nu"].isna()] == 0).all()


def test_both_engines_say_the_same_of_targets(engine: str) -> None:
    preset = SMALL.change(pairs=2, significance=(1.0, 4.0), why="test")
    tables = []
    for each in ("native", engine):
        analog = converted(each, preset)
        program(analog, 3)
        tables.append(chip_conductances(analog))
    same = ["layer", "tile", "row", "column", "pair", "device"]
    assert tables[0][same].equals(tables[1][same])
    np.testing.assert_allclose(tables[0]["target"], tables[1]["target"], atol=1e-4)


@pytest.mark.parametrize("cell", CELLS)
def test_stuck_devices_show_where_they_are_stuck(engine: str, cell: str) -> None:
    preset = SMALL.change(**CELLS[cell], **FAULTS, why="test")
    analog = converted(engine, preset)
    program(analog, 3)
    table = chip_conductances(analog, "0")
    matrix, pcm = only_matrix(analog), preset.pcm
    broken, stuck_at = faults.draw(matrix.grid, pcm, faults.generators(3, "0"))
    devices = table[table["device"] != "reference"]
    stuck = devices[devices["programmed"].isin([0.0, 25.0]) & devices["nu"].isna()]
    if "netted" not in cell and cell != "two":  # there, working devices have 0 and no exponent too
        dead = (broken & (stuck_at == 0)).sum() if pcm.referenced else torch.tensor(0)
        assert len(stuck) == int(broken.sum() - dead) > 8
    at_gmax = broken & (stuck_at * 25.0 + pcm.reference_us * pcm.referenced > 24.99)
    assert int((devices["programmed"] == 25.0).sum()) == int(at_gmax.sum()) > 3
    working = devices[devices["nu"].notna()]
    assert int(working["nu"].count()) <= int((~broken).sum())
    held = matrix.effective_weight() / matrix.grid.expand_columns(matrix.column_scale())
    if not pcm.referenced and not pcm.netting:
        torch.testing.assert_close(
            joined(table, matrix, "programmed"), held.detach().double(), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize(
    ("name", "device", "exponents"),
    [
        ("scalar_drift", "cell", True),
        ("ideal", "cell", True),
        ("pcm_afm", "cell", True),
        ("reram_cmo", "single", False),
        ("reram_wan2022", "plus", False),
        ("hermes", "plus", True),
    ],
)
def test_every_law(name: str, device: str, exponents: bool) -> None:
    analog = converted("native", presets.get(name))
    program(analog, 1)
    table = chip_conductances(analog, "2")
    assert table["device"].iloc[0] == device
    assert bool(table["nu"].notna().any()) is exponents
    pcm = presets.get(name).pcm
    assert table["target"].abs().max() == pytest.approx(pcm.g_max_us, rel=1e-5)
    if name == "reram_cmo":
        assert table["target"].between(9.0, 88.2).all()


def test_a_drifted_or_loaded_chip_shows_what_was_programmed(engine: str, tmp_path: Path) -> None:
    from aimc_bridge import drift

    analog, other = converted(engine, SMALL), converted(engine, SMALL)
    program(analog, 3)
    before = chip_conductances(analog)
    drift(analog, "1y")
    pd.testing.assert_frame_equal(chip_conductances(analog), before)
    save_chip(analog, tmp_path / "chip.safetensors")
    load_chip(other, tmp_path / "chip.safetensors")
    pd.testing.assert_frame_equal(chip_conductances(other), before)


def test_parquet_keeps_the_table(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    analog = converted("native", SMALL)
    program(analog, 3)
    table = chip_conductances(analog)
    table.to_parquet(tmp_path / "chip.parquet")
    again = pd.read_parquet(tmp_path / "chip.parquet")
    assert list(again.columns) == COLUMNS
    np.testing.assert_array_equal(again["programmed"], table["programmed"])
    assert list(again["tile"].astype(str)) == list(table["tile"].astype(str))


def test_bad_input() -> None:
    analog = converted("native", SMALL)
    with pytest.raises(StateError, match=r"chip_conductances: no chip.*program\(model, seed\)"):
        chip_conductances(analog)
    with pytest.raises(CapabilityError):
        chip_conductances(mlp())
    program(analog, 1)
    with pytest.raises(UsageError, match="no analog layer matches 'fc'; there are: 0, 2"):
        chip_conductances(analog, layers=["0", "fc"])
    assert set(chip_conductances(analog, layers=["[2]"])["layer"]) == {"2"}


class Plain:
    """A device that programs whole tiles."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        return weights + 0.01 * torch.randn(weights.shape, generator=generator)

    def read(self, state: Tensor, t_inference: float, generator: torch.Generator) -> Tensor:
        return state


def test_objects_of_ones_own_have_no_conductances(engine: str) -> None:
    analog = converted(engine, rasch2023.with_device(Plain(), name="plain", why="test"))
    program(analog, 1)
    with pytest.raises(CapabilityError, match="no conductances are known.*Plain"):
        chip_conductances(analog)
