"""Chips of the aihwkit engine: seeds, drift, restore, save, copies."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import (
    convert,
    drift,
    load_chip,
    program,
    restore,
    save_chip,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CalibrationError, CheckpointError, StateError
from presets import rasch2023
from tests.engines.aihwkit.test_engine import QUIET, Net, converted, matrix, tiles
from tests.models import random


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images() -> Tensor:
    return random(8, 3, 4, 4)


def chip_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: m.effective_weight() for name, m in matrices_of(model).items()}


def test_seeds_make_chips(net: Net, images: Tensor) -> None:
    """Seeds differ in programming noise and in exponents; a seed repeats both."""
    analog = converted(net, images)
    seen = []
    for seed in (1, 2, 1):
        program(analog, seed)
        seen.append(
            [(t.programmed_weights.clone(), t.drift_noise_parameters[0]) for t in tiles(analog)]
        )
    for first, second, again in zip(*seen, strict=True):
        assert not torch.equal(first[0], second[0]) and not torch.equal(first[1], second[1])
        assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


def test_a_layers_chip_does_not_depend_on_the_others(net: Net, images: Tensor) -> None:
    whole = converted(net, images)
    part = convert(net, rasch2023, engine="aihwkit", exclude=["conv", "grouped"]).eval()
    for model in (whole, part):
        program(model, 5)
        drift_seconds(model, 60.0)
    assert torch.equal(
        matrix(whole, "fc").effective_weight(), matrix(part, "fc").effective_weight()
    )


def drift_seconds(model: nn.Module, t_s: float) -> None:
    """Drift the weights only: the compensation's readout needs no input range."""
    drift(model, t_s)


def test_drift_repeats_in_any_order_and_keeps_alpha(net: Net, images: Tensor) -> None:
    analog = converted(net, images)
    program(analog, 3)
    drift(analog, "1h")
    weights, alpha = chip_weights(analog), matrix(analog, "fc").alpha()
    drift(analog, "1y")
    assert float(matrix(analog, "fc").alpha().mean()) > float(alpha.mean())
    drift(analog, 3600.0)
    assert all(torch.equal(w, chip_weights(analog)[name]) for name, w in weights.items())
    assert torch.equal(matrix(analog, "fc").alpha(), alpha)


def test_programming_leaves_torchs_generator_alone(net: Net, images: Tensor) -> None:
    analog = converted(net, images)
    before = torch.random.get_rng_state()
    program(analog, 3)
    drift(analog, "1h")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_restore_gives_the_trained_weights(net: Net, images: Tensor) -> None:
    analog = converted(net, images)
    before = chip_weights(analog)
    program(analog, 3)
    drift(analog, "1y")
    restore(analog)
    assert all(torch.equal(w, chip_weights(analog)[name]) for name, w in before.items())
    program(analog, 3)  # It starts from the trained weights again, not from the drifted ones.
    program(analog, 3)
    assert torch.allclose(matrix(analog, "fc").clean_weight(), net.fc.weight, atol=1e-6)


def test_training_a_chip_is_an_error(net: Net, images: Tensor) -> None:
    analog = converted(net, images)
    program(analog, 3)
    with pytest.raises(StateError, match="restore"):
        analog.train()(images)


def test_a_range_that_was_never_set_is_an_error(net: Net, images: Tensor) -> None:
    analog = convert(net, rasch2023, engine="aihwkit").eval()
    with pytest.raises(CalibrationError, match="layer 'conv'.*calibrate"):
        analog(images)


def test_saved_chip_and_state_dict_come_back(net: Net, images: Tensor, tmp_path: Any) -> None:
    """The state dict holds the trained weights while a chip is programmed.

    It has no pickle.
    """
    analog = converted(net, images)
    program(analog, 3)
    drift(analog, "1d")
    save_chip(analog, tmp_path / "chip.safetensors")
    file = io.BytesIO()
    torch.save(analog.state_dict(), file)
    file.seek(0)
    fresh = convert(net, rasch2023, engine="aihwkit").eval()
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.allclose(matrix(fresh, "fc").effective_weight(), net.fc.weight, atol=1e-6)
    load_chip(fresh, tmp_path / "chip.safetensors")
    alpha = matrix(analog, "fc").alpha()
    assert torch.equal(matrix(fresh, "fc").alpha(), alpha)
    expected = chip_weights(analog)
    assert all(torch.equal(w, expected[name]) for name, w in chip_weights(fresh).items())
    drift(analog, "1h")
    drift(fresh, "1h")
    expected = chip_weights(analog)
    assert all(torch.equal(w, expected[name]) for name, w in chip_weights(fresh).items())
    drift(fresh, "1d")
    assert torch.equal(matrix(fresh, "fc").alpha(), alpha)


@pytest.mark.parametrize("how", ("deepcopy", "pickle"))
def test_copies_are_whole_and_apart(net: Net, images: Tensor, how: str) -> None:
    analog = converted(net, images, QUIET)
    program(analog, 3)
    drift(analog, "1d")
    expected = chip_weights(analog)
    twin = copy.deepcopy(analog) if how == "deepcopy" else pickle.loads(pickle.dumps(analog))
    with torch.no_grad():
        assert torch.equal(twin(images), analog(images))
    assert all(torch.equal(w, expected[name]) for name, w in chip_weights(twin).items())
    drift(twin, "1y")
    program(twin, 4)
    assert all(torch.equal(w, expected[name]) for name, w in chip_weights(analog).items())
    restore(twin)
    assert torch.allclose(matrix(twin, "fc").effective_weight(), net.fc.weight, atol=1e-6)


def test_products_follow_no_seed(net: Net, images: Tensor) -> None:
    """This is a documented limit.

    When aihwkit's tile takes seeds, the documentation must change.
    """
    analog = converted(net, images)
    outputs = []
    for _ in range(2):
        torch.manual_seed(0)
        with torch.no_grad():
            outputs.append(analog(images))
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize("kind", ["global", "global_exact_reference", "per_column", "oracle"])
def test_a_chip_without_the_reference_of_its_compensation_is_refused(kind: str) -> None:
    """The reference was measured when the chip was programmed: it cannot be measured again."""
    preset = rasch2023.change(drift_compensation=kind, why="test")
    analog = convert(nn.Sequential(nn.Linear(6, 4)), preset, engine="aihwkit").eval()
    program(analog, 7)
    for each in matrices_of(analog).values():
        state = each.chip_state()
        each.check_chip_state(state, None)
        rest = {name: value for name, value in state.items() if "baseline" not in name}
        assert len(rest) == len(state) - 1
        with pytest.raises(CheckpointError, match="no baseline"):
            each.check_chip_state(rest, None)
