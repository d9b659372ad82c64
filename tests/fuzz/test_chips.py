"""Damaged chip files and sweep tables are refused by name and change nothing, or are whole."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, drift, load_chip, program, restore, save_chip, sweep
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import AimcError
from tests.fuzz.damage import CASES, changed, damaged
from tests.models import ENGINES, QUIET, mlp, random


class Saved(NamedTuple):
    """A model that holds chip 2, what it holds, and the file of chip 1.

    Attributes:
        model: The model.
        data: The file of chip 1.
        path: Where the tests write damaged files.
        saved: What the model holds with chip 1.
        held: What it holds with chip 2.
    """

    model: nn.Module
    data: bytes
    path: Path
    saved: dict[str, Tensor]
    held: dict[str, Tensor]


def held(model: nn.Module) -> dict[str, Tensor]:
    """Return everything that a chip file holds or could change, by name."""
    tensors = {}
    for name, matrix in matrices_of(model).items():
        tensors |= {f"{name}/{key}": value.clone() for key, value in matrix.chip_state().items()}
        ranges = matrix.input_ranges()
        assert ranges is not None
        tensors[f"{name}/ranges"] = ranges.clone()
        tensors[f"{name}/trained"] = matrix.clean_weight()
    return tensors


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Return whether two chips have the same tensors, bit for bit."""
    return first.keys() == second.keys() and all(
        torch.equal(v, second[k]) for k, v in first.items()
    )


@pytest.fixture(scope="module", params=ENGINES)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Saved:
    model = convert(mlp(), QUIET.change(max_rows=10, why="tiles"), engine=request.param)
    calibrate(model, [random(8, 12)])
    path = tmp_path_factory.mktemp("fuzz") / "chip.safetensors"
    program(model, 1)
    drift(model, "1h")
    save_chip(model, path)
    first = held(model)
    program(model, 2)
    return Saved(model, path.read_bytes(), path, first, held(model))


def load(saved: Saved, data: bytes) -> None:
    """Load a damaged file into a model that holds another chip."""
    model = saved.model
    saved.path.write_bytes(data)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            load_chip(model, saved.path)
        except AimcError as error:
            assert str(saved.path) in str(error)
            assert same(held(model), saved.held)
            return
    # without its checksum, a file looks like one of an older version, and loads with a warning
    now = held(model)
    assert warned or same(now, saved.saved)
    assert all(bool(value.isfinite().all()) for value in now.values())
    saved.path.write_bytes(saved.data)
    load_chip(model, saved.path)
    assert same(held(model), saved.saved)
    program(model, 2)


@CASES
@given(data=st.data())
def test_damaged_chip_files(saved: Saved, data: st.DataObject) -> None:
    """A damaged file loads the chip that was saved, or is refused and the model keeps its chip."""
    load(saved, data.draw(damaged(saved.data)))


@CASES
@given(data=st.data())
def test_chip_files_with_another_header(saved: Saved, data: st.DataObject) -> None:
    """The same for headers that are valid JSON: names, shapes, offsets and facts are changed."""
    size = struct.unpack("<Q", saved.data[:8])[0]
    header: dict[str, Any] = json.loads(saved.data[8 : 8 + size])
    about = header["__metadata__"]
    if data.draw(st.booleans()):
        facts = data.draw(changed(json.loads(about["aimc_bridge_chip"])))
        header["__metadata__"] = {**about, "aimc_bridge_chip": json.dumps(facts)}
    else:
        header = data.draw(changed(header))
    text = json.dumps(header).encode()
    load(saved, struct.pack("<Q", len(text)) + text + saved.data[8 + size :])


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Any, bytes, Path]:
    model = convert(mlp(), QUIET)
    calibrate(model, [random(8, 12)])
    path = tmp_path_factory.mktemp("fuzz") / "sweep.csv"
    table = sweep(model, evaluate, ("1s", "1h"), 2, resume=path, progress=False)
    return model, table, path.read_bytes(), path


def evaluate(model: nn.Module) -> dict[str, float]:
    """Return two numbers of a chip."""
    y = model(random(4, 12)).detach()
    return {"mean": float(y.mean()), "largest, of all": float(y.abs().max())}


@CASES
@given(data=st.data())
def test_damaged_sweep_tables(
    swept: tuple[nn.Module, Any, bytes, Path], data: st.DataObject
) -> None:
    """A damaged file is refused as it is, or the table is the same, and the model holds no chip."""
    model, table, whole, path = swept
    damage = data.draw(damaged(whole))
    path.write_bytes(damage)
    try:
        got = sweep(model, evaluate, ("1s", "1h"), 2, resume=path, progress=False)
    except AimcError as error:
        assert str(path) in str(error)
        assert path.read_bytes() == damage
    else:
        assert got.equals(table)
    restore(model)
