"""Questions that generic code may ask an engine and its matrices, the same for both engines."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from aimc_bridge import calibrate, chip, convert, drift, program
from aimc_bridge.chip import check_draw_on
from aimc_bridge.converted import engine_of, is_converted, matrices_of, record_of
from aimc_bridge.engines.base import Flag, engine
from aimc_bridge.errors import CapabilityError, UnknownNameError, UsageError
from aimc_bridge.training import HWATraining, default_optimizer
from presets import ideal, rasch2023
from tests.models import DEVICES, QUIET, RANGED, assert_close, linear, mlp, only, random


def test_engines_by_name(engine: str) -> None:
    analog = convert(mlp(), ideal, engine=engine)
    assert engine_of(analog).name == engine == record_of(analog).engine
    assert is_converted(analog) and not is_converted(analog[0]) and not is_converted(mlp())
    with pytest.raises(CapabilityError, match="is not a converted model; call"):
        engine_of(analog[0])


def test_an_unknown_engine() -> None:
    with pytest.raises(UnknownNameError, match="no engine 'cuda'; there are: native, aihwkit"):
        engine("cuda")


def test_ways_to_draw_are_the_engines(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    analog = convert(mlp(), DEVICES, engine=engine).eval()
    for draw_on in engine_of(analog).draw_on:
        check_draw_on(analog, draw_on)
    assert engine_of(analog).draw_on[0] == "cpu"
    with pytest.raises(UsageError, match="draw_on='gpu'; allowed: 'cpu', 'device', 'compiled'"):
        program(analog, 0, draw_on="gpu")
    monkeypatch.setattr(type(engine_of(analog)), "draw_on", ("cpu",))
    with pytest.raises(UsageError, match="draw_on='device'; allowed: 'cpu'$"):
        program(analog, 0, draw_on="device")
    assert record_of(analog).chip is None
    program(analog, 3)
    assert record_of(analog).chip == chip.ProgrammedChip(3, "cpu", None)


def test_aihwkit_always_draws_on_the_cpu() -> None:
    """As `program` documents, its tiles have one way to draw, whatever the argument."""
    weights = []
    for draw_on in ("cpu", "device", "compiled"):
        analog = convert(mlp(), DEVICES, engine="aihwkit").eval()
        program(analog, 3, draw_on=draw_on)
        drift(analog, 60.0)
        weights.append(matrices_of(analog)["0"].effective_weight())
        chip_now = record_of(analog).chip
        assert chip_now is not None and chip_now.draw_on == draw_on
    assert torch.equal(weights[0], weights[1]) and torch.equal(weights[0], weights[2])


def test_reached_is_one_flag_of_a_matrix_and_its_tiles(engine: str) -> None:
    analog = convert(mlp(), ideal.change(max_rows=5, why="several tiles"), engine=engine).eval()
    matrices = matrices_of(analog)
    assert all(type(m.reached) is Flag and not m.reached.on for m in matrices.values())
    analog[0](random(2, 12))
    assert [m.reached.on for m in matrices.values()] == [True, False]
    matrices["0"].reached.on = False
    analog[0](random(2, 12))
    assert matrices["0"].reached.on


def test_the_periphery_is_named_by_what_it_is(engine: str) -> None:
    preset = RANGED.change(max_rows=5, max_columns=3, why="six tiles")
    analog = convert(linear(10, 9), preset, engine=engine)
    periphery = only(analog).periphery()
    assert set(periphery) == {"out_scale", "input_range"}
    for parameters in periphery.values():
        assert parameters and all(isinstance(p, nn.Parameter) for p in parameters)
    assert sum(p.numel() for p in periphery["input_range"]) == 6
    assert sum(p.numel() for p in periphery["out_scale"]) == 2 * 9
    known = {id(p) for p in analog.parameters()}
    assert {id(p) for ps in periphery.values() for p in ps} <= known
    bare = only(convert(linear(10, 9), ideal, engine=engine)).periphery()
    assert bare["input_range"] == []


def test_weight_decay_spares_the_periphery_whatever_its_names(engine: str) -> None:
    class Own(nn.Module):
        """A model whose own matrix has the name of a periphery's parameter."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = linear(12, 5)
            self.input_range = nn.Parameter(torch.ones(5, 5))

    preset = QUIET if engine == "native" else RANGED
    analog = convert(Own(), preset, engine=engine, exclude="input_range")
    recipe = HWATraining.for_(rasch2023, "lstm").override(
        weight_decay=0.1, learn_input_ranges=True, learn_out_scales=True
    )
    matrices_of(analog)["fc"].prepare_training(recipe.spec)
    groups = default_optimizer(analog, recipe.spec).param_groups
    # a context of aihwkit shows its weights' shape from 1.2.0 on, but never has a gradient
    decayed = {id(p) for p in groups[0]["params"] if type(p).__name__ != "AnalogContext"}
    assert groups[0]["weight_decay"] == 0.1 and id(analog.input_range) in decayed
    periphery = matrices_of(analog)["fc"].periphery()
    spared = {id(p) for p in groups[1]["params"]}
    assert {id(p) for ps in periphery.values() for p in ps} <= spared
    assert len(decayed) == 2
    digital = default_optimizer(Own(), recipe.spec).param_groups
    assert len(digital[0]["params"]) == 2 and len(digital[1]["params"]) == 1


def test_products_stay_out_of_compiled_graphs_where_they_can() -> None:
    x = random(4, 12)
    calls: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        calls.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    for kept_out in (True, False):
        matrix = only(convert(linear(12, 5), ideal).eval())
        matrix.keep_out_of_compile(True)
        matrix.keep_out_of_compile(kept_out)
        assert ("forward" in vars(matrix)) == kept_out
        calls.clear()
        with torch.no_grad():
            compiled = torch.compile(matrix.multiply, backend=backend)
            assert torch.equal(compiled(x), matrix.multiply(x))
        assert any("linear" in call or "matmul" in call for call in calls) != kept_out
    other = only(convert(linear(12, 5), ideal, engine="aihwkit"))
    with pytest.raises(CapabilityError, match='compile=True .*; allowed: engine="native"'):
        other.keep_out_of_compile(True)
    other.keep_out_of_compile(False)


def test_inputs_and_products_of_one_matrix() -> None:
    layers = {"fc": linear(12, 5), "conv": nn.Conv2d(2, 3, 3)}
    inputs = {"fc": random(2, 3, 12), "conv": random(4, 2, 5, 5)}
    for name, digital in layers.items():
        analog = convert(digital, rasch2023).eval()
        calibrate(analog, [inputs[name]])
        matrix = only(analog)
        seen: list[torch.Tensor] = []
        handle = matrix.watch_inputs(seen.append)
        analog(inputs[name])
        handle.remove()
        analog(inputs[name])
        assert len(seen) == 1 and not seen[0].requires_grad
        expected = inputs[name].reshape(-1, 12) if name == "fc" else inputs[name]
        assert torch.equal(seen[0], expected)
        matrix.observe(lambda *_: None)
        exact = (
            functional.conv2d(expected, digital.weight)
            if name == "conv"
            else (expected @ digital.weight.T)
        )
        assert_close(matrix.multiply(expected), exact, "exact product, without the bias")
        matrix.observe(None)
        assert not torch.allclose(matrix.multiply(expected), exact, rtol=0, atol=1e-4)


def test_what_aihwkit_cannot_says_so() -> None:
    matrix = only(convert(linear(12, 5), ideal, engine="aihwkit"))
    for ask in (lambda: matrix.watch_inputs(print), lambda: matrix.multiply(random(1, 12))):
        with pytest.raises(CapabilityError, match="whole matrices .* engine='native' only"):
            ask()
    recipe = HWATraining.for_(rasch2023, "lstm").spec
    assert matrix.draw_noisy_weight(recipe, 1.0, 0, ("train",)) is None
