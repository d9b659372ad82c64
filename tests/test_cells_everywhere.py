"""Cells of other kinds wherever a preset goes: chips, files, faults, training, sweeps, own laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn

from aimc_bridge import (
    HWATraining,
    calibrate,
    convert,
    devices,
    drift,
    load_chip,
    program,
    save_chip,
    sweep,
    train,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CheckpointError, SpecError
from aimc_bridge.physics import faults
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.spec import Preset
from presets import rasch2023
from tests.models import DEVICES, linear, mlp, random
from tests.physics.test_laws import relaxing
from tests.test_chip import chip, same

KINDS: dict[str, dict[str, Any]] = {
    "two": {"pairs": 2, "significance": (1.0, 4.0)},
    "three apart": {"pairs": 3, "netting": False},
    "digital": {"reference": "digital", "g_min_us": 1.0},
    "column": {"reference": "column"},
}
FAULTS = devices.Faults(stuck_at_gmax=0.02, stuck_at_zero=0.02, dead_rows=0.02)
TABLE = {
    "target_us": [0.0, 12.5, 25.0] * 2,
    "t_s": [20.0] * 3 + [1e6] * 3,
    "mean_us": [0.1, 12.5, 25.0, 0.09, 11.0, 22.0],
    "prog_sd_us": [0.1, 0.8, 1.0, 0.1, 0.8, 1.0],
    "read_sd_us": [0.01, 0.1, 0.2, 0.01, 0.1, 0.2],
}


def laws() -> dict[str, Preset]:
    """Return presets of several laws of single devices, one of them from outside the package."""
    table = devices.TableDevice.from_arrays(**TABLE, g_max_us=25.0, source="test", extrapolate=True)
    return {
        "pcm": DEVICES,
        "hermes": DEVICES.with_device("hermes", name="hermes2", why="test"),
        "table": DEVICES.with_device(table, name="table", why="test"),
        "own law": relaxing(),
    }


LAWS = laws()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_on_every_cell(engine: str, law: str, kind: str, tmp_path: Path) -> None:
    """Programmed, drifted, saved and loaded; the same seed gives the same chip."""
    values = dict(KINDS[kind])
    if law == "table":
        values["netting"] = False
    preset = LAWS[law].change(
        **values, drift_compensation="global", max_rows=7, faults=FAULTS, why="test"
    )
    a, b = (convert(mlp(), preset, engine=engine).eval() for _ in range(2))
    program(a, 3)
    drift(a, 1000.0)
    program(b, 3)
    drift(b, 1e5)
    drift(b, 1000.0)
    x = random(6, 12)
    with torch.no_grad():
        assert torch.equal(a(x), b(x)) or engine == "aihwkit"
    error = [
        (m.effective_weight() - m.clean_weight()).std() / m.clean_weight().std()
        for m in matrices_of(a).values()
    ]
    assert all(0.01 < float(e) < 0.9 for e in error)
    save_chip(a, tmp_path / "chip.safetensors")
    other = convert(mlp(), preset, engine=engine).eval()
    load_chip(other, tmp_path / "chip.safetensors")
    assert same(chip(other), chip(a))
    for model in (a, other):
        drift(model, 1e6)
    assert same(chip(other), chip(a))


def test_a_file_says_what_its_weights_lie_on(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "chip.safetensors"
    two = DEVICES.change(**KINDS["two"], why="test")
    a = convert(mlp(), two, engine=engine).eval()
    program(a, 3)
    save_chip(a, file)
    with safe_open(str(file), framework="pt") as opened:
        about = json.loads(opened.metadata()["aimc_bridge_chip"])
    cells = {"pairs": 2, "significance": [1.0, 4.0], "reference": "none", "g_min_us": 0.0}
    assert about["cells"] == {"0": cells, "2": cells}
    others = {
        "one pair of devices, or one cell": DEVICES,
        r"3 pairs of devices with significance \(1.0, 1.0, 1.0\)": DEVICES.change(
            pairs=3, why="test"
        ),
        r"2 pairs of devices with significance \(1.0, 2.0\)": DEVICES.change(
            pairs=2, significance=(1.0, 2.0), why="test"
        ),
        "one device with reference='digital' and g_min_us=1": DEVICES.change(
            **KINDS["digital"], why="test"
        ),
    }
    this = r"'0' of this chip has 2 pairs of devices with significance \(1.0, 4.0\)"
    for words, preset in others.items():
        model = convert(mlp(), preset, engine=engine).eval()
        with pytest.raises(
            CheckpointError,
            match=f"{this}.*{words}",
        ):
            load_chip(model, file)
        program(model, 3)
        save_chip(model, tmp_path / "other.safetensors")
        with pytest.raises(CheckpointError, match=f"of this chip has {words}"):
            load_chip(a, tmp_path / "other.safetensors")


def test_one_pair_writes_the_file_that_it_always_wrote(engine: str, tmp_path: Path) -> None:
    a = convert(mlp(), DEVICES, engine=engine).eval()
    program(a, 3)
    save_chip(a, tmp_path / "chip.safetensors")
    with safe_open(str(tmp_path / "chip.safetensors"), framework="pt") as opened:
        assert "cells" not in json.loads(opened.metadata()["aimc_bridge_chip"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_broken_device_changes_its_weight_alone(kind: str) -> None:
    """On the native engine the working devices are those of the chip without faults."""
    values = {"netting": False, **KINDS[kind]}
    clean = DEVICES.change(**{**values, "netting": False}, why="test")
    worn = clean.change(faults=FAULTS, why="test")
    weights = []
    for preset in (clean, worn):
        analog = convert(linear(60, 40), preset).eval()
        program(analog, 3)
        (matrix,) = matrices_of(analog).values()
        weights.append(matrix.effective_weight() / matrix.column_scale().T)
    (name,) = matrices_of(analog)
    grid, pcm = matrix.grid, worn.pcm
    broken, stuck_at = faults.draw(grid, pcm, faults.generators(3, name))
    touched = broken.flatten(0, -3).any(0) if broken.ndim > 2 else broken
    assert torch.equal(weights[0][~touched], weights[1][~touched])
    high = stuck_at > 0  # one that is stuck at 0 may have been at 0 anyway
    if broken.ndim > 2:  # and two that are stuck at g_max cancel
        high = (stuck_at[:, 0] != stuck_at[:, 1]).any(0)
    assert bool(high.any()) and not bool((weights[0] == weights[1])[high].any())
    if broken.ndim == 2:  # one device at its largest holds the largest weight, at 0 the reverse
        middle, half = (25.0 + pcm.g_min_us) / 2, (25.0 - pcm.g_min_us) / 2
        held = weights[1] * half / middle * (middle / half)
        torch.testing.assert_close(held[high], torch.ones(int(high.sum())))
        low = broken & (stuck_at < 0)
        torch.testing.assert_close(held[low], torch.full((int(low.sum()),), -middle / half))


def test_rates_hold_for_every_device_of_a_weight() -> None:
    preset = rasch2023.change(pairs=3, stuck_at_gmax=0.05, why="test")
    broken, stuck_at = faults.draw(
        TileGrid((300,), (200,)), preset.pcm, faults.generators(1, "rates")
    )
    assert broken.shape == (3, 2, 200, 300)
    for devices_of in broken.flatten(0, 1):
        n, rate = devices_of.numel(), 0.05
        assert abs(float(devices_of.double().mean()) - rate) < 5 * (rate * (1 - rate) / n) ** 0.5
    assert torch.equal(stuck_at, broken.float())


def test_training_sees_the_faults_of_every_pair() -> None:
    weight = torch.tensor([[1.0, 0.5, -0.5]])
    broken = torch.zeros(2, 2, 1, 3, dtype=torch.bool)
    stuck_at = torch.zeros(2, 2, 1, 3)
    broken[1, 0, 0, 0] = True  # the second pair of 1.0 holds 20 of 25: stuck at zero
    broken[0, 1, 0, 1] = True  # the minus device of the first pair at g_max
    stuck_at[0, 1, 0, 1] = 1.0
    got = faults.on_weights(
        weight, faults.FaultMap(broken, stuck_at), torch.tensor(0.2), (1.0, 4.0)
    )
    torch.testing.assert_close(got, torch.tensor([[0.2, 0.3, -0.5]]))


@pytest.mark.parametrize("kind", KINDS)
def test_training_and_sweep(engine: str, kind: str) -> None:
    preset = rasch2023.change(**KINDS[kind], faults=FAULTS, ir_drop=0.0, why="test")
    recipe = HWATraining.for_(preset).override(epochs=1, faults="fresh")
    x = random(16, 12)

    def loss(model: nn.Module, batch: Tensor) -> Tensor:
        return (model(batch) - 1).square().mean()

    analog = convert(mlp().train(), preset, engine=engine)
    calibrate(analog, [x])
    before = [m.clean_weight().clone() for m in matrices_of(analog).values()]
    train(analog, [x, x], loss, recipe=recipe, progress=False)
    after = [m.clean_weight() for m in matrices_of(analog).values()]
    assert all(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    assert all(bool(weight.isfinite().all()) for weight in after)
    table = sweep(
        analog.eval(),
        lambda model: float(model(x).detach().abs().mean()),
        times=("1s", "1d"),
        chips=2,
        progress=False,
    )
    assert len(table) == 4 and table["value"].notna().all()


class Plain:
    """A device that programs whole tiles."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Tensor:
        return weights

    def read(self, state: Tensor, t_inference: float, generator: torch.Generator) -> Tensor:
        return state


def test_an_object_of_ones_own_holds_whole_weights() -> None:
    own = rasch2023.with_device(Plain(), name="plain", why="test")
    with pytest.raises(SpecError, match=r"OwnDevice.pairs = 2.*law 'own' is that of whole weights"):
        own.change(pairs=2, why="test")
