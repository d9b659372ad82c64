"""Optional effects of the periphery on layers of both engines: chips, training, refusals."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import convert, drift, load_chip, program, restore, save_chip, sweep
from aimc_bridge.engines.native import compiled
from aimc_bridge.errors import CapabilityError, CheckpointError
from aimc_bridge.physics.variation import Variation
from presets import ideal, rasch2023
from tests.engines.native.test_fused import needs_compiler
from tests.models import assert_close, linear, only, random

ENGINES = ["native", "aihwkit"]
ALL: dict[str, Any] = {
    **{"out_nonlinearity": 0.5, "out_nonlinearity_std": 0.3, "slope_calibration": 0.5},
    **{"r_series": 0.05, "v_offset_std": 0.1, "w_read_asymmetry_dtod": 0.2},
    **{"inp_asymmetry": 0.1, "out_asymmetry": 0.1, "out_noise_std": 0.3},
    "input_passes": "two_digital_sum",
}
SMALL = rasch2023.change(max_rows=30, max_columns=9, out_bound=4.0, why="test")
ON = SMALL.change(**ALL, why="test")
NAMES = {"v_offset", "out_nonlinearity", "out_noise_values", "read_asymmetry"}


def analog(engine: str, preset: Any = ON, module: nn.Module | None = None) -> nn.Sequential:
    digital = nn.Sequential(linear(70, 20) if module is None else module).eval()
    model = convert(digital, preset, engine=engine)
    grid = only(model).grid
    only(model).set_input_ranges(torch.full((len(grid.rows), len(grid.columns)), 1.7))
    return model


@pytest.mark.parametrize("engine", ENGINES)
class TestChips:
    def test_a_saved_chip_comes_back(self, engine: str, tmp_path: Path) -> None:
        model = analog(engine)
        program(model, 3)
        drift(model, 3600.0)
        before = only(model).variation().tensors()
        save_chip(model, tmp_path / "chip.safetensors")
        restore(model)
        again = analog(engine)
        load_chip(again, tmp_path / "chip.safetensors")
        after = only(again).variation().tensors()
        assert set(before) == set(after) == NAMES
        assert all(torch.equal(before[name], after[name]) for name in NAMES)

    def test_a_chip_without_its_periphery_is_refused(self, engine: str) -> None:
        model = analog(engine)
        program(model, 3)
        state = only(model).chip_state()
        lost = {name: value for name, value in state.items() if not name.endswith("v_offset")}
        with pytest.raises(CheckpointError, match="v_offset"):
            only(model).load_chip_state(lost)

    def test_without_a_chip_there_is_no_spread(self, engine: str) -> None:
        """Before programming and after `restore`, outputs are those of the mean."""
        quiet = ON.change(out_noise=0.0, w_noise=0.0, why="test")
        bare = quiet.change(
            **{"out_nonlinearity_std": 0.0, "v_offset_std": 0.0, "w_read_asymmetry_dtod": 0.0},
            why="test",
        )
        model, x = analog(engine, quiet), random(8, 70, seed=5)
        expected = analog(engine, bare)(x)
        assert torch.equal(model(x), expected)
        program(model, 3)
        assert not torch.allclose(model(x), expected, rtol=1e-2)
        restore(model)
        assert torch.equal(model(x), expected)

    def test_every_chip_of_a_sweep_has_its_own(self, engine: str) -> None:
        model, seen = analog(engine), []

        def look(model: nn.Module) -> float:
            seen.append(only(model).variation().v_offset)
            return 0.0

        sweep(model, look, times=("1s", "1d"), chips=2, progress=False)
        first, later, second, _ = seen
        assert torch.equal(first, later) and not torch.equal(first, second)

    def test_a_copy_keeps_it(self, engine: str) -> None:
        model = analog(engine)
        program(model, 3)
        before, after = only(model).variation(), only(copy.deepcopy(model)).variation()
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_both_engines_have_one_chip() -> None:
    values = []
    for engine in ENGINES:
        model = analog(engine)
        program(model, 7)
        values.append(only(model).variation().tensors())
    for name in NAMES:
        torch.testing.assert_close(values[0][name], values[1][name], rtol=0.0, atol=0.0)


def test_reload_gives_equal_outputs(tmp_path: Path) -> None:
    """Bit for bit, without the noise of single products."""
    quiet = ON.change(out_noise=0.0, w_noise=0.0, why="test")
    model, x = analog("native", quiet), random(8, 70, seed=5)
    program(model, 3)
    drift(model, 3600.0)
    save_chip(model, tmp_path / "chip.safetensors")
    again = analog("native", quiet)
    load_chip(again, tmp_path / "chip.safetensors")
    assert torch.equal(model(x), again(x))


@pytest.mark.parametrize("draw_on", ["cpu", "device"])
def test_it_does_not_matter_where_a_chip_is_drawn(draw_on: str) -> None:
    model, other = analog("native"), analog("native")
    program(model, 3)
    program(other, 3, draw_on=draw_on)
    a, b = (only(each).variation() for each in (model, other))
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_devices_are_those_of_the_chip_without_effects() -> None:
    model, plain = analog("native"), analog("native", SMALL)
    for each in (model, plain):
        program(each, 3)
        drift(each, 3600.0)
    assert torch.equal(only(model).effective_weight(), only(plain).effective_weight())
    assert only(plain).variation() == Variation()
    assert not NAMES & set(only(plain).chip_state())


def test_one_effect_makes_an_ideal_tile_a_tile() -> None:
    x = random(8, 70, seed=5)
    preset = ideal.change(r_series=0.5, v_offset_w_min=0.0, why="test")
    digital = nn.Sequential(linear(70, 20, bias=False)).eval()
    model = convert(digital, preset)
    y = digital(x)
    scale = only(model).column_scale()[0]
    assert_close(model(x), y / (1 + 0.5 * (y / scale).abs()), "one tile", 1e-5)


def gradients(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_(True)
    weights = only(model).weight_parameters()
    (model(x) * random(len(x), 20, seed=9)).sum().backward()
    grads = [w.grad for w in weights]
    assert x.grad is not None and all(g is not None for g in grads)
    return x.grad, torch.cat([g.flatten() for g in grads if g is not None])


@pytest.mark.parametrize("engine", ENGINES)
def test_gradients_go_straight_through(engine: str) -> None:
    """They are those of tiles without the effects, as long as no output is at the bound."""
    wide = {"out_bound": 400.0, "out_noise": 0.0, "w_noise": 0.0}
    x = random(6, 70, seed=5) * 0.5
    got = gradients(analog(engine, ON.change(**wide, why="test")).train(), x)
    expected = gradients(analog(engine, SMALL.change(**wide, why="test")).train(), x)
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, engine, 1e-5)


def test_saturated_outputs_pass_no_gradient_on_both_engines() -> None:
    """After two ADC conversions, an output counts as saturated if the sum is beyond the bound."""
    quiet = ON.change(
        **{"out_bound": 0.5, "out_noise": 0.0, "w_noise": 0.0, "learned_out_scales": False},
        why="test",
    )
    x = random(6, 70, seed=5)
    ours, theirs = (gradients(analog(engine, quiet).train(), x)[0] for engine in ENGINES)
    assert_close(ours, theirs, "inputs", 1e-5)
    free = gradients(analog("native", quiet.change(out_bound=400.0, why="test")).train(), x)[0]
    assert not torch.allclose(ours, free, rtol=0.1)


@needs_compiler
@pytest.mark.parametrize("passes", ["one", "two_digital_sum"])
@torch.no_grad()
def test_compiled_is_eager_without_noise(passes: str) -> None:
    fields = {"out_noise": 0.0, "w_noise": 0.0, "input_passes": passes}
    if passes == "one":
        fields["w_read_asymmetry_dtod"] = 0.0
    model = analog("native", ON.change(**fields, why="test"), nn.Conv2d(7, 20, 3, padding=1))
    x = random(4, 7, 5, 5, seed=5)
    program(model, 3)
    fast = copy.deepcopy(model)
    compiled(fast)
    assert_close(fast(x), model(x), passes, 1e-5)


@pytest.mark.parametrize("name", ["inp_asymmetry", "out_asymmetry"])
def test_the_torch_tile_has_the_asymmetries(name: str) -> None:
    from aihwkit.simulator.tiles import TorchInferenceTile

    quiet = ideal.change(**{name: 0.2}, why="test")
    tile = TorchInferenceTile(20, 70, quiet.rpu_config(tile="torch"))
    digital = linear(70, 20, bias=False)
    tile.set_weights(digital.weight.detach())
    x = random(6, 70, seed=5)
    y = x if name == "out_asymmetry" else torch.where(x < 0, 0.8 * x, x)
    y = digital(y)
    y = torch.where(y < 0, 0.8 * y, y) if name == "out_asymmetry" else y
    assert_close(tile.eval()(x), y, name, 1e-5)


def test_the_torch_tile_refuses_the_rest_by_name() -> None:
    preset = ideal.change(r_series=0.1, out_nonlinearity=0.5, why="test")
    with pytest.raises(CapabilityError, match="torch tile cannot run out_nonlinearity=0.5, r_s"):
        preset.rpu_config(tile="torch")
    config = preset.rpu_config(tile="torch", drop=("out_nonlinearity", "r_series"))
    assert (config.forward.out_nonlinearity, config.forward.r_series) == (0.0, 0.0)
    assert preset.rpu_config().forward.r_series == 0.1
