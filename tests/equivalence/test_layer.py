"""Layer level of the cross-check: capture of real inputs, statistics of chips, periphery."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import convert, crosscheck
from aimc_bridge.engines.native import compiled_passes, onednn, side_precision
from aimc_bridge.equivalence import Report, capture, closed, periphery
from aimc_bridge.equivalence.comparison import layer_findings
from aimc_bridge.equivalence.layer import FLOAT, MEASURED
from aimc_bridge.equivalence.measuring import (
    COMPILED,
    NATIVE,
    EngineLayer,
    Sampling,
    measure,
    product_statistics,
)
from aimc_bridge.equivalence.prediction import chips_needed, layer_cost
from aimc_bridge.equivalence.report import Findings
from aimc_bridge.equivalence.two_engines import TwoEngines
from aimc_bridge.physics import compensation
from aimc_bridge.spec import Preset
from tests.engines.native.test_fused import needs_compiler
from tests.equivalence.test_device import decided
from tests.models import linear, random
from tests.stats import FALSE_ALARM, assert_mean, assert_sd

YEAR = 31536000.0
SMALL = presets.rasch2023.change(max_rows=32, max_columns=24, why="several tiles, in tests")


class Net(nn.Module):
    """A model with every kind of layer.

    There are a convolution over three row tiles, attention, gates and linear layers.
    """

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv = nn.Conv2d(8, 12, 3, padding=1)
            self.attention = nn.MultiheadAttention(12, 2, batch_first=True)
            self.lstm = nn.LSTM(12, 10, batch_first=True)
        self.small, self.out = linear(10, 7), linear(7, 30)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.relu(self.conv(x)).flatten(2).transpose(1, 2)
        mixed, _ = self.attention(steps, steps, steps, need_weights=False)
        hidden, _ = self.lstm(mixed)
        result: Tensor = self.out(torch.relu(self.small(hidden)))
        return result


def images() -> Tensor:
    return random(6, 8, 4, 4, seed=1)


def layers(preset: Preset = SMALL) -> tuple[Net, list[capture.Layer]]:
    model = Net().eval()
    native = convert(model, preset)
    capture.calibrated(native, [images()])
    return model, capture.layers_of(native, model, [images()])


def test_layers_are_what_the_digital_model_computes_with() -> None:
    """Each layer has the model's inputs and weights.

    Their product is what a hook on the digital layer sees.
    """
    model, captured = layers()
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str) -> object:
        def hook(module: nn.Module, args: tuple[Tensor], out: Tensor) -> None:
            bias = module.get_parameter("bias")
            shape = (-1, 1, 1) if name == "conv" else (-1,)
            seen[name] = (args[0], out - bias.view(shape))

        return hook

    for name in ("conv", "small", "out"):
        model.get_submodule(name).register_forward_hook(keep(name))  # type: ignore[arg-type]
    with torch.no_grad():
        model(images())
    by_name = {layer.name: layer for layer in captured}
    kinds = {name: layer.kind for name, layer in by_name.items()}
    assert kinds == {
        "conv": "convolution",
        **{f"attention.{part}": "attention" for part in ("q", "k", "v", "out")},
        **{f"lstm.{part}_l0": "gates" for part in ("ih", "hh")},
        **{"small": "linear", "out": "linear"},
    }
    for name, (x, y) in seen.items():
        layer = by_name[name]
        x = x if name == "conv" else x.reshape(-1, x.shape[-1])
        y = y if name == "conv" else y.reshape(-1, y.shape[-1])
        live = x.flatten(1).abs().amax(1) > 0
        assert torch.allclose(layer.inputs, x[live])
        assert torch.allclose(layer.module(layer.inputs), y[live], atol=1e-5)
    # Of 16 steps, the first one of the recurrent product sees zeros.
    assert len(by_name["lstm.hh_l0"].inputs) == 6 * 15
    assert by_name["conv"].grid.rows == (24, 24, 24)


def test_the_layers_chosen_are_of_each_kind() -> None:
    _, captured = layers()
    names = [layer.name for layer in capture.chosen(captured, None)]
    assert names == ["conv", "attention.q", "lstm.ih_l0", "lstm.hh_l0", "out", "small"]
    assert [x.name for x in capture.chosen(captured, ["lstm.*", "out"])] == [
        *("lstm.ih_l0", "lstm.hh_l0", "out")
    ]


def test_what_chips_say() -> None:
    """Gain, error, spread of reads and correlation of their noise come out as constructed."""
    exact = random(40, 25, seed=2)
    rms = float(exact.square().mean().sqrt())
    some = torch.arange(50)
    error = 0.1 * rms * random(4000, 40, 25, seed=3)
    statistics = product_statistics(0.9 * exact + error, exact, some)
    assert statistics["gain"] == pytest.approx(0.9, abs=1e-3)
    assert statistics["read"] == pytest.approx(0.1, rel=1e-3)
    assert statistics["error"] == pytest.approx(math.hypot(0.1, 0.1), rel=1e-3)
    assert abs(statistics["shared"]) < 1e-3
    assert statistics["read_variance"].shape == (50,)
    shared = 0.1 * rms * random(4000, 1, 25, seed=4).expand(-1, 40, -1)
    assert product_statistics(exact + shared, exact, some)["shared"] == pytest.approx(1.0, abs=1e-6)
    half = (error + shared) / math.sqrt(2)
    assert product_statistics(exact + half, exact, some)["shared"] == pytest.approx(0.5, abs=0.02)
    (of_one_chip,) = [product_statistics(exact[None], exact, some)]
    assert (of_one_chip["read"], of_one_chip["shared"], of_one_chip["error"]) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("name", ["conv", "lstm.hh_l0", "attention.q", "out"])
def test_the_engines_agree_on_each_kind_of_layer(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is different, and what is decided is equivalent.

    Parts without chance are among what is decided.
    """
    monkeypatch.setattr(periphery, "EXACT_CHIPS", 24)
    monkeypatch.setattr(periphery, "CLIP_CHIPS", 16)
    _, captured = layers()
    (layer,) = [layer for layer in captured if layer.name == name]
    table = Report.of(
        [layer_findings(TwoEngines(SMALL), layer, Sampling((YEAR,), 16, 0, vectors=16))]
    ).table
    assert table["p_different"].min() > FALSE_ALARM
    assert set(decided(table)["verdict"]) == {"equivalent"}
    verdicts = table.set_index("quantity")["verdict"]
    for sure in ("outputs, ADC off", "outputs off by more", "IR-drop loss", "alpha none mean"):
        assert verdicts[sure] == "equivalent"
    assert {f"alpha {kind} sd" for kind in MEASURED} <= set(table["quantity"])
    tiles = len(layer.grid.rows) * len(layer.grid.columns)
    assert (table["quantity"] == "alpha global mean").sum() == tiles
    oracle = table[table["quantity"] == "alpha oracle mean"]
    assert set(oracle["reference"]) == {"closed form"}
    assert (oracle["difference"].abs() < 1e-5 * oracle["second"]).all()


@needs_compiler
def test_the_compiled_engine_agrees_and_a_fault_in_it_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same layer, compiled, agrees.

    With 20 % more output noise it does not.
    """
    monkeypatch.setattr(compiled_passes, "FEWEST", 0)  # also for layers as small as these
    monkeypatch.setattr(periphery, "EXACT_CHIPS", 24)
    monkeypatch.setattr(periphery, "CLIP_CHIPS", 16)
    _, captured = layers()
    (layer,) = [layer for layer in captured if layer.name == "attention.q"]
    setting = Sampling((YEAR,), 16, 0, vectors=16, native_engine=COMPILED)
    table = Report.of([layer_findings(TwoEngines(SMALL), layer, setting)]).table
    assert table["p_different"].min() > FALSE_ALARM
    verdicts = table.set_index("quantity")["verdict"]
    for sure in ("outputs, ADC off", "outputs off by more", "IR-drop loss"):
        assert verdicts[sure] == "equivalent"
    real = compiled_passes.finish

    def louder(*args: Any, sigma: float, **more: Any) -> Tensor:
        return real(*args, sigma=1.2 * sigma, **more)

    monkeypatch.setattr(compiled_passes, "finish", louder)
    table = Report.of([layer_findings(TwoEngines(SMALL), layer, setting)]).table
    assert table.set_index("quantity")["verdict"]["read sd"] == "different"


@pytest.mark.parametrize("integers", [True, False], ids=["integers", "floats"])
@pytest.mark.parametrize(
    "engine", [NATIVE, pytest.param(COMPILED, marks=needs_compiler)], ids=["eager", "compiled"]
)
def test_reduced_side_products_agree(
    engine: str, integers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IR drop and read noise in bfloat16, or as one digit of 8 bits, are those of aihwkit."""
    if integers and not onednn.multiplies_integers():
        pytest.skip("this processor has no instructions for 8-bit products")
    if not integers:
        monkeypatch.setattr(onednn, "multiplies_integers", lambda: False)
    monkeypatch.setattr(compiled_passes, "FEWEST", 0)  # also for layers as small as these
    monkeypatch.setattr(periphery, "EXACT_CHIPS", 24)
    monkeypatch.setattr(periphery, "CLIP_CHIPS", 16)
    converted = EngineLayer._converted

    def reduced(self: EngineLayer) -> nn.Module:
        model = converted(self)
        if self.engine == engine:
            side_precision(model, torch.bfloat16)
        return model

    monkeypatch.setattr(EngineLayer, "_converted", reduced)
    _, captured = layers()
    (layer,) = [layer for layer in captured if layer.name == "attention.q"]
    setting = Sampling((YEAR,), 16, 0, vectors=16, native_engine=engine)
    table = Report.of([layer_findings(TwoEngines(SMALL), layer, setting)]).table
    assert table["p_different"].min() > FALSE_ALARM
    verdicts = table.set_index("quantity")["verdict"]
    for sure in ("outputs, ADC off", "outputs off by more", "IR-drop loss"):
        assert verdicts[sure] == "equivalent"


def test_a_preset_without_noise_of_products_or_adc() -> None:
    """Rows that do not apply are left out; the rest agrees."""
    _, captured = layers(presets.scalar_drift)
    (layer,) = [layer for layer in captured if layer.name == "out"]
    part = layer_findings(TwoEngines(presets.scalar_drift), layer, Sampling((1.0, YEAR), 12, 0))
    table = Report.of([part]).table
    assert table["p_different"].min() > FALSE_ALARM
    assert not set(table["quantity"]) & {"read sd", "ADC clipping", "IR-drop loss"}
    assert {"gain mean", "alpha global mean", "alpha oracle mean"} <= set(table["quantity"])


def test_the_ideal_preset_is_equivalent() -> None:
    """Products without error differ only by float32's rounding.

    The rounding differs between the engines.
    """
    model, _ = layers()
    report = crosscheck(
        model, presets.ideal, images(), levels="layer", times=("1s",), chips=4, layers="small"
    )
    assert set(report.table["verdict"]) == {"equivalent"} and report.passed
    (error,) = report.table[report.table["quantity"] == "MVM error"].to_dict("records")
    assert 0.0 < error["first"] < FLOAT and 0.0 < error["second"] < FLOAT


def test_measured_chips_follow_the_laws() -> None:
    """The native noise of reads is the preset's output noise in the layer's units."""
    quiet = {"w_noise": 0.0, "ir_drop": 0.0, "adc_bits": None, "max_rows": None}
    preset = presets.ideal.change(
        **quiet, out_noise=0.04, input_range="learned", dac_bits=12, why="output noise alone"
    )
    model = nn.Sequential(linear(20, 16, bias=False)).eval()
    native = convert(model, preset)
    capture.calibrated(native, [random(32, 20, seed=8)])
    (layer,) = capture.layers_of(native, model, [random(32, 20, seed=8)])
    side = EngineLayer(layer, preset, "native")
    unit = periphery._unit(side)
    exact = layer.module(layer.inputs)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        noise = torch.stack([side.output(layer.inputs) / unit for _ in range(800)])
    assert_sd((noise - noise.mean(0)) * (800 / 799) ** 0.5, 0.04)
    measured = measure(side, Sampling((1.0,), 40, 0, vectors=32, reads=8))
    expected = 0.04 * float(unit.square().mean().sqrt()) / float(exact.square().mean().sqrt())
    # The root of a variance from 8 reads of 512 outputs is low by 1 / 4 / (7 * 512).
    assert_mean(torch.tensor(measured.column("read", 0)), expected, "spread of reads")


def test_the_oracle_is_the_formula_on_every_law() -> None:
    """Ours, in single precision, equals the independent formula.

    Both are computed for a layer's weights.
    """
    for preset in (presets.rasch2023, presets.hermes, presets.scalar_drift):
        model = nn.Sequential(linear(30, 20, bias=False))
        (layer,) = _captured(model, preset, random(16, 30))
        matrix = EngineLayer(layer, preset, "native").matrix()
        weight = matrix.normalised_weight()
        ours = compensation.oracle(weight, matrix.grid, preset.pcm, YEAR)[0, 0]
        theirs = closed.oracle([weight.double().numpy()], preset.pcm, YEAR)[0]
        assert float(ours) == pytest.approx(theirs, rel=1e-5)
        assert float(ours) != pytest.approx(1.001 * theirs, rel=1e-5)


def _captured(model: nn.Module, preset: Preset, x: Tensor) -> list[capture.Layer]:
    native = convert(model.eval(), preset)
    capture.calibrated(native, [x])
    return capture.layers_of(native, model, [x])


def test_a_narrow_adc_clips_the_share_it_should() -> None:
    """The bound that clips 5 % of noiseless outputs clips about 5 % of noisy ones."""
    _, captured = layers()
    (layer,) = [layer for layer in captured if layer.name == "small"]
    part = Findings()
    periphery.clipping(part, layer, SMALL, Sampling((1.0,), 4, 0))
    rows = Report.of([part]).table.set_index("quantity")
    for side in ("first", "second"):
        assert rows.loc["ADC clipping, narrow", side] == pytest.approx(0.05, abs=0.02)
        assert rows.loc["ADC clipping", side] == 0.0


def test_dac_ties_are_moved_off() -> None:
    """No input lies half way between two steps of any range.

    None moves by more than a few hundredths of a step.
    """
    ranges = torch.tensor([[1.0], [0.7]])
    x = torch.tensor([[0.5 / 127, 1.5 / 127 * 0.7, 0.3, -63.5 / 127, 0.0]])
    moved = periphery.off_ties(x, ranges, 8)
    for bound in (1.0, 0.7):
        part = moved.double() / bound * 127
        assert (part - part.floor() - 0.5).abs().min() > 5e-4
    assert (moved - x).abs().max() < 0.05 / 127
    assert moved[0, 2] == x[0, 2] and moved[0, 4] == 0.0
    assert torch.equal(periphery.off_ties(x, None, 8), x)


def test_more_chips_where_they_spread_more() -> None:
    """A tile of few devices needs more chips than a tile of many."""
    setting = Sampling((YEAR,), 1, 0)
    wide = _captured(nn.Sequential(linear(200, 100)), presets.rasch2023, random(32, 200))[0]
    thin = _captured(nn.Sequential(linear(20, 10)), presets.rasch2023, random(32, 20))[0]
    assert chips_needed(wide, presets.rasch2023, setting) < chips_needed(
        thin, presets.rasch2023, setting
    )


def test_the_cost_of_a_large_layer_is_predicted_from_a_piece() -> None:
    """Its first columns are timed, not all of it."""
    layer = _captured(nn.Sequential(linear(600, 400)), presets.rasch2023, random(8, 600))[0]
    timed: list[int] = []

    real = EngineLayer.__init__

    def init(self: EngineLayer, of: capture.Layer, *rest: object) -> None:
        timed.append(of.grid.out_features)
        real(self, of, *rest)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EngineLayer, "__init__", init)
        cost = layer_cost(layer, presets.rasch2023, Sampling((1.0,), 1, 0))
    assert set(timed) == {64} and cost.a_chip > 0
    assert np.isfinite(cost.fixed)
