"""A chip's files: saved, loaded, refused; copies of a chip."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from torch import nn

from aimc_bridge import (
    calibrate,
    convert,
    drift,
    load_chip,
    program,
    restore,
    save_chip,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CheckpointError, StateError
from tests.models import DEVICES, QUIET, linear, mlp, random
from tests.test_chip import chip, effective, same


def prepared(engine: str, seed: int = 0) -> nn.Module:
    model = nn.Sequential(linear(12, 16, seed), nn.ReLU(), linear(16, 5, seed=2))
    return convert(model, QUIET if engine == "native" else DEVICES, engine=engine).eval()


@pytest.mark.parametrize("drifted", [False, True])
def test_saved_chip_loads_bit_for_bit(engine: str, drifted: bool, tmp_path: Path) -> None:
    """A chip loads into a fresh, uncalibrated conversion: it brings its ranges."""
    a, b, x = prepared(engine), prepared(engine), random(6, 12)
    calibrate(a, [x])
    program(a, 3)
    if drifted:
        drift(a, "1d")
    file = tmp_path / "chip.safetensors"
    save_chip(a, file)
    assert [path.name for path in tmp_path.iterdir()] == ["chip.safetensors"]
    load_chip(b, file)
    with torch.no_grad():
        assert torch.equal(b(x), a(x))
    assert same(chip(b), chip(a))
    for model in (a, b):
        drift(model, "1y")
    assert same(chip(b), chip(a))
    with torch.no_grad():
        assert torch.equal(b(x), a(x))


def test_chip_of_another_model_is_refused(engine: str, tmp_path: Path) -> None:
    a = prepared(engine)
    program(a, 3)
    file = tmp_path / "chip.safetensors"
    save_chip(a, file)
    others = {
        "weights": prepared(engine, seed=9),
        "layers": convert(linear(12, 16), DEVICES, engine=engine),
        "preset": convert(mlp(), DEVICES.change(g_max_us=20.0, why="test"), engine=engine),
    }
    if engine == "native":
        biased, scaled = prepared(engine), prepared(engine)
        with torch.no_grad():
            biased[0].bias.add_(1.0)  # type: ignore[union-attr, operator]
            matrices_of(scaled)["0"].column_scale().mul_(2.0)
        others |= {"bias": biased, "scales": scaled}
    for what, other in others.items():
        before = effective(other)
        with pytest.raises(CheckpointError, match="a chip of another model, engine or preset"):
            load_chip(other, file)
        assert same(effective(other), before), what
        with pytest.raises(StateError):
            drift(other, 1.0)


def test_a_chip_knows_presets_by_layer_and_digital_layers(engine: str, tmp_path: Path) -> None:
    """Presets swapped between layers make another model.

    So does another normalisation.
    """
    loud = DEVICES.change(why="louder, in tests", prog_noise_scale=3.0)
    digital = nn.Sequential(nn.BatchNorm1d(12), linear(12, 16), nn.ReLU(), linear(16, 5, seed=2))

    def made(layer: str) -> nn.Module:
        return convert(digital, DEVICES, engine=engine, overrides={layer: loud}).eval()

    a, file = made("1"), tmp_path / "chip.safetensors"
    program(a, 3)
    save_chip(a, file)
    load_chip(made("1"), file)
    with pytest.raises(CheckpointError, match="a chip of another model"):
        load_chip(made("3"), file)
    other = made("1")
    other.get_submodule("0").running_var.mul_(2.0)
    with pytest.raises(CheckpointError, match="a chip of another model"):
        load_chip(other, file)


def test_a_chip_that_cannot_be_written_is_told(engine: str, tmp_path: Path) -> None:
    a = prepared(engine)
    program(a, 3)
    with pytest.raises(CheckpointError, match="none/chip.safetensors: cannot be written"):
        save_chip(a, tmp_path / "none" / "chip.safetensors")


def test_no_state_dict_is_loaded_under_a_chip(engine: str) -> None:
    """The crossbars would hold a chip of weights that the model no longer has."""
    a, b = prepared(engine), prepared(engine, seed=9)
    expected = effective(b)
    state, part = b.state_dict(), b[0].state_dict()
    program(a, 3)
    for model in (a, copy.deepcopy(a)):
        held = effective(model)
        with pytest.raises(StateError, match="load_state_dict: .* restore.model. first"):
            model.load_state_dict(state)
        assert same(effective(model), held)
        with pytest.raises(StateError, match="load_state_dict: layer '0' holds"):
            model[0].load_state_dict(part)
        restore(model)
        model.load_state_dict(state)
        assert same(effective(model), expected)


def test_damaged_chip_files_are_refused(engine: str, tmp_path: Path) -> None:
    a = prepared(engine)
    program(a, 3)
    held = effective(a)
    file = tmp_path / "chip.safetensors"
    save_chip(a, file)
    data = file.read_bytes()
    for size in (0, 5, 100, len(data) // 2, len(data) - 1):
        file.write_bytes(data[:size])
        with pytest.raises(CheckpointError, match="not a chip file, or damaged"):
            load_chip(a, file)
    file.write_bytes(b"\x00" * 1000)
    with pytest.raises(CheckpointError, match="not a chip file, or damaged"):
        load_chip(a, file)
    from safetensors.torch import save_file

    save_file({"w": torch.ones(2)}, file)
    with pytest.raises(CheckpointError, match="not a chip file, or damaged"):
        load_chip(a, file)
    with pytest.raises(CheckpointError, match="no such file"):
        load_chip(a, tmp_path / "other.safetensors")
    assert same(effective(a), held)


def test_chip_file_that_lacks_a_tensor_leaves_no_half_chip(engine: str, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    a = prepared(engine)
    program(a, 3)
    file = tmp_path / "chip.safetensors"
    save_chip(a, file)
    with safe_open(str(file), framework="pt") as opened:
        about = opened.metadata()
    tensors = load_file(file)
    last = [key for key in tensors if key.startswith("2/")]
    for key in last:
        del tensors[key]
    save_file(tensors, file, metadata=about)
    b = prepared(engine)
    clean = effective(b)
    with pytest.raises(CheckpointError, match="2"):
        load_chip(b, file)
    assert same(effective(b), clean)


def test_state_dict_loads_with_weights_only(engine: str) -> None:
    """A state dict loads into a fresh conversion of other weights.

    It includes the ranges; a chip is not part of it.
    """
    a, b, x = prepared(engine), prepared(engine, seed=9), random(6, 12)
    calibrate(a, [x])
    with torch.no_grad():
        expected = a(x)
        program(a, 1)
        file = io.BytesIO()
        torch.save(a.state_dict(), file)
        file.seek(0)
        b.load_state_dict(torch.load(file, weights_only=True))
        assert torch.equal(b(x), expected)
    program(b, 1)
    assert same(effective(b), effective(a))


def test_copies_of_a_chip_are_independent(engine: str) -> None:
    a = prepared(engine)
    calibrate(a, [random(6, 12)])
    program(a, 3)
    b = copy.deepcopy(a)
    assert same(chip(a), chip(b))
    before = chip(a)
    drift(b, "1y")
    assert same(chip(a), before) and not same(chip(b), before)
    drift(a, "1y")
    assert same(chip(a), chip(b))
    restore(b)
    program(a, 4)
