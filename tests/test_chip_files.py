"""A chip's files: saved, loaded, refused; copies of a chip."""

from __future__ import annotations

import copy
import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aimc_bridge import (
    calibrate,
    convert,
    drift,
    load_chip,
    program,
    restore,
    save_chip,
)
from aimc_bridge.converted import ProgrammedChip, matrices_of, record_of
from aimc_bridge.devices import Faults
from aimc_bridge.errors import CheckpointError, StateError
from tests.models import DEVICES, QUIET, linear, mlp, random
from tests.test_chip import chip, effective, same
from tests.test_sealed_files import CHANGES, changed, flips, header


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
    save_file({"w": torch.ones(2)}, file)
    with (
        pytest.warns(UserWarning, match="no checksum"),
        pytest.raises(CheckpointError, match="not a chip file, or damaged"),
    ):
        load_chip(a, file)
    with pytest.raises(CheckpointError, match="no such file"):
        load_chip(a, tmp_path / "other.safetensors")
    assert same(effective(a), held)


def everything(model: nn.Module) -> dict[str, Any]:
    """Return all that a refused file must leave as it is: state, chip, ranges, what it knows."""
    state = {f"state {k}": v.clone() for k, v in model.state_dict().items()}
    for name, matrix in matrices_of(model).items():
        if record_of(model).chip is not None:
            state |= {f"chip {name} {k}": v.clone() for k, v in matrix.chip_state().items()}
        ranges = matrix.input_ranges()
        if ranges is not None:
            state[f"ranges {name}"] = ranges.clone()
        state[f"weight {name}"] = matrix.effective_weight().clone()
        state[f"alpha {name}"] = matrix.alpha().clone()
    return {**state, "chip": copy.copy(record_of(model).chip)}


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    now = everything(model)
    assert now.keys() == before.keys()
    for name, value in before.items():
        same_value = torch.equal(now[name], value) if torch.is_tensor(value) else now[name] == value
        assert same_value, name


def held_and_file(engine: str, folder: Path) -> tuple[nn.Module, Path]:
    """Return a model that holds chip 8 a day old, and a file of chip 3, a year old."""
    model, x = prepared(engine), random(6, 12)
    calibrate(model, [x])
    program(model, 3)
    drift(model, "1y")
    file = folder / "chip.safetensors"
    save_chip(model, file)
    calibrate(model, [3 * x])
    program(model, 8)
    drift(model, "1d")
    return model, file


CHIP_3 = ProgrammedChip(3, "cpu", 365 * 86400.0)


def without_seal(
    file: Path, tensors: dict[str, Tensor], about: dict[str, Any] | None = None
) -> None:
    """Write a chip file as older versions did, with changed tensors or facts."""
    texts = header(file)
    facts = {**json.loads(texts["aimc_bridge_chip"]), **(about or {})}
    save_file(tensors, file, metadata={"aimc_bridge_chip": json.dumps(facts)})


def test_no_flipped_bit_of_a_chip_file_loads(engine: str, tmp_path: Path) -> None:
    model, file = held_and_file(engine, tmp_path)
    before, data = everything(model), file.read_bytes()
    for damaged in flips(data, 300):
        file.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_chip(model, file)
    assert_untouched(model, before)
    file.write_bytes(data)
    load_chip(model, file)
    assert record_of(model).chip == CHIP_3


@pytest.mark.parametrize("sealed", [True, False])
@pytest.mark.parametrize("change", CHANGES)
def test_chip_files_with_changed_tensors(
    engine: str, change: str, sealed: bool, tmp_path: Path
) -> None:
    """They are refused by the checksum, and by the tensors themselves if there is none."""
    model, file = held_and_file(engine, tmp_path)
    before, tensors = everything(model), changed(file, change)
    if sealed:
        save_file(tensors, file, metadata=header(file))
    else:
        without_seal(file, tensors)
    with warnings.catch_warnings(), pytest.raises(CheckpointError, match="damaged"):
        warnings.simplefilter("ignore")
        load_chip(model, file)
    assert_untouched(model, before)


@pytest.mark.filterwarnings("ignore:.*no checksum")
def test_every_tensor_of_a_chip_is_needed(engine: str, tmp_path: Path) -> None:
    """So a chip without its compensation does not load, even without a checksum.

    Input ranges may be missing: not every chip has them.
    """
    model, file = held_and_file(engine, tmp_path)
    tensors, before = load_file(file), everything(model)
    for name in tensors:
        # how many numbers it draws is the business of aihwkit's device
        if "input ranges" in name or name.endswith("drift1"):
            continue
        without_seal(file, {k: v for k, v in tensors.items() if k != name})
        with pytest.raises(CheckpointError):
            load_chip(model, file)
        assert_untouched(model, before)
    without_seal(file, tensors)
    load_chip(model, file)
    assert record_of(model).chip == CHIP_3


@pytest.mark.aihwkit
@pytest.mark.filterwarnings("ignore:.*no checksum")
def test_cells_of_another_shape_are_refused_on_aihwkits_tiles(tmp_path: Path) -> None:
    """Without a checksum too; only the exponents may have a dimension more, one for each regime."""
    file = tmp_path / "chip.safetensors"
    faulty = DEVICES.change(pairs=2, faults=Faults(stuck_at_zero=0.1), why="test")
    model = convert(mlp(), faulty, engine="aihwkit").eval()
    program(model, 3)
    save_chip(model, file)
    tensors = load_file(file)
    cells = [name for name in tensors if name.rpartition(".")[2].startswith("drift")]
    assert {name[-1] for name in cells} == set("01234")
    for name in cells:
        value = tensors[name]
        smaller, larger = value[..., :-1].contiguous(), value.unsqueeze(0)
        for wrong in [smaller] if name.endswith("drift1") else [smaller, larger]:
            without_seal(file, {**tensors, name: wrong})
            with pytest.raises(CheckpointError, match=name[-6:]):
                load_chip(model, file)
    without_seal(file, tensors)
    load_chip(model, file)


@pytest.mark.filterwarnings("ignore:.*no checksum")
def test_chip_files_with_wrong_facts_or_ranges(engine: str, tmp_path: Path) -> None:
    model, file = held_and_file(engine, tmp_path)
    tensors, before, whole = load_file(file), everything(model), file.read_bytes()
    facts: list[dict[str, Any]] = [
        *({"seed": seed} for seed in (None, 1.5, "1", True, [1])),
        *({"draw_on": where} for where in (None, 3, "nowhere", ["cpu"], {})),
        *({"t_inference": t_s} for t_s in (-1.0, "1h", True, [1.0], float("nan"), 10**400)),
        *({"format": number} for number in (1, "2", None)),
        *({"model": mark} for mark in (None, "x", 3)),
    ]
    for about in facts:
        file.write_bytes(whole)
        without_seal(file, tensors, about)
        with pytest.raises(CheckpointError):
            load_chip(model, file)
        assert_untouched(model, before)
    file.write_bytes(whole)
    for ranges in (
        -torch.ones(1, 1),
        torch.zeros(1, 1),
        torch.tensor([[torch.nan]]),
        torch.ones(7),
    ):
        without_seal(file, {**tensors, "2/input ranges": ranges})
        with pytest.raises(CheckpointError, match="input ranges"):
            load_chip(model, file)
        assert_untouched(model, before)


def test_an_old_chip_file_loads_with_one_warning(engine: str, tmp_path: Path) -> None:
    model, file = held_and_file(engine, tmp_path)
    without_seal(file, load_file(file))
    with pytest.warns(UserWarning, match="chip.safetensors: no checksum") as caught:
        load_chip(model, file)
    assert len(caught) == 1
    assert record_of(model).chip == CHIP_3


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
