"""Layers of aihwkit-lightning, trained with it, become analog layers with what they learned."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import presets
from aimc_bridge import calibrate, convert, coverage, drift, program, transfer
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import CalibrationError, ConversionError, UsageError
from aimc_bridge.spec import Preset

lightning = pytest.importorskip("aihwkit_lightning.nn", exc_type=ImportError)
from aihwkit_lightning.nn.conversion import convert_to_analog  # noqa: E402
from aihwkit_lightning.optim import AnalogOptimizer  # noqa: E402
from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig  # noqa: E402
from aihwkit_lightning.simulator.parameters import enums  # noqa: E402

ROWS = 16
NO_RANGES = presets.ideal.change(max_rows=ROWS, why="several tiles, in tests")
CONVERTERS = presets.ideal.change(
    max_rows=ROWS,
    dac_bits=8,
    adc_bits=8,
    out_bound=10.0,
    input_range="learned",
    weight_scaling="tile",
    why="the converters of aihwkit-lightning, in tests",
)
SMALL = presets.rasch2023.change(max_rows=ROWS, why="several tiles, in tests")


def config(ranges: bool = True) -> Any:
    """Return a configuration with slices of 16 rows, weight noise and ranges from 5 batches."""
    chosen = TorchInferenceRPUConfig()
    chosen.mapping.max_input_size = ROWS
    chosen.pre_post.input_range.enable = ranges
    chosen.pre_post.input_range.init_from_data = 5
    chosen.modifier.noise_type = enums.WeightNoiseInjectionType.ADD_NORMAL_PER_CHANNEL
    chosen.modifier.std_dev = 0.03
    return chosen


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 24), nn.Tanh(), nn.Linear(24, 3))


class Convolutions(nn.Module):
    """A convolution of each dimension, one behind the other."""

    def __init__(self) -> None:
        super().__init__()
        self.three = nn.Conv3d(2, 3, 2, stride=2)
        self.two = nn.Conv2d(3, 4, 3, padding=1, dilation=(1, 2))
        self.one = nn.Conv1d(4, 5, 3, stride=2, padding=1, bias=False)
        self.out = nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.three(x.view(-1, 2, 2, 4, 7))).squeeze(2)
        x = torch.tanh(self.two(x)).flatten(2)
        x = torch.tanh(self.one(nn.functional.pad(x, (0, 1))))
        result: Tensor = self.out(x.flatten(1))
        return result


class Recurrent(nn.Module):
    """A recurrent layer and what reads its last output."""

    def __init__(self, kind: Callable[..., nn.Module], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(4, 6, **options)
        self.out = nn.Linear(6 * (2 if options.get("bidirectional") else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.rnn(x.view(len(x), 5, 4).transpose(0, 1))
        result: Tensor = self.out(steps[-1])
        return result


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "mlp": (mlp, 20),
    "convolutions": (Convolutions, 112),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), 20),
    "gru": (lambda: Recurrent(nn.GRU, bias=False), 20),
    "rnn": (lambda: Recurrent(nn.RNN), 20),
}


def trained(name: str, chosen: Any, steps: int = 12) -> tuple[nn.Module, Tensor]:
    """Train a model with aihwkit-lightning; return it in evaluation mode, and inputs."""
    make, features = MODELS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = convert_to_analog(make(), chosen).train()
        optimizer = AnalogOptimizer(
            torch.optim.SGD, model.analog_layers, model.parameters(), lr=0.05
        )
        x = torch.randn(16, features)
        for _ in range(steps):
            loss = nn.functional.cross_entropy(model(x), torch.arange(16) % 3)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return model.eval(), x


def outputs(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        y: Tensor = model(x)
    return y


@pytest.mark.parametrize("name", MODELS)
def test_a_model_without_converters_gives_the_same_outputs(engine: str, name: str) -> None:
    model, x = trained(name, config(ranges=False))
    before = {key: value.clone() for key, value in model.named_parameters()}
    analog = convert(model, NO_RANGES, engine=engine)
    # aihwkit's C++ tile has converters of 24 bits under `ideal`
    torch.testing.assert_close(
        outputs(analog, x), outputs(model, x), rtol=0, atol=1e-6 if engine == "native" else 1e-4
    )
    table = coverage(analog)
    assert set(table["where"]) == {"analog"}
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert all(torch.equal(before[key], value) for key, value in model.named_parameters())


@pytest.mark.parametrize("name", MODELS)
def test_trained_input_ranges_come_along_behind_the_same_converters(engine: str, name: str) -> None:
    chosen = config()
    chosen.forward.inp_res = chosen.forward.out_res = 254
    chosen.forward.out_bound = 10.0
    model, x = trained(name, chosen)
    analog = convert(model, CONVERTERS, engine=engine)
    layers = dict(model.named_modules())
    for path, matrix in matrices_of(analog).items():
        ranges = matrix.input_ranges()
        assert ranges is not None
        expected = layers[path].input_range.detach()
        torch.testing.assert_close(ranges, expected.unsqueeze(1).expand_as(ranges))
        assert not torch.allclose(expected, torch.tensor(3.0))
    # a value between two steps of a converter may be rounded either way: so much of 3 is a step
    off = (outputs(analog, x) - outputs(model, x)).abs()
    assert float((off > 1e-5).double().mean()) < 0.15 and float(off.max()) < 0.1
    assert float(off.median()) < 1e-6


def test_chips_drift_and_the_other_engine_take_such_a_model(engine: str) -> None:
    model, x = trained("mlp", config())
    analog = convert(model, SMALL, engine=engine)
    clean = outputs(analog, x)
    other = transfer(analog, "aihwkit" if engine == "native" else "native")
    for a, b in zip(matrices_of(analog).values(), matrices_of(other).values(), strict=True):
        torch.testing.assert_close(a.clean_weight(), b.clean_weight())
        torch.testing.assert_close(a.input_ranges(), b.input_ranges())
    program(analog, seed=3)
    drift(analog, "1y")
    assert not torch.allclose(outputs(analog, x), clean)


def test_the_copy_is_pickled_and_its_state_dict_loads(engine: str) -> None:
    """aihwkit-lightning's wrapper cannot be pickled, and its hooks know its own entries only."""
    model, x = trained("lstm", config(ranges=False))
    analog = convert(model, NO_RANGES, engine=engine)
    assert not any("AnalogWrapper" in base.__name__ for base in type(analog).__mro__[:-4])
    again = pickle.loads(pickle.dumps(analog))
    state = analog.state_dict()
    again.load_state_dict(state)
    torch.testing.assert_close(outputs(again, x), outputs(analog, x))


@pytest.mark.parametrize("preset", [SMALL, presets.rasch2023], ids=["same tiles", "other tiles"])
def test_a_tile_that_meets_several_slices_takes_their_largest_range(preset: Preset) -> None:
    model, _ = trained("mlp", config())
    learned = model[2].input_range.detach()
    assert len(learned) == 2 and learned[0] != learned[1]
    ranges = matrices_of(convert(model, preset))["2"].input_ranges()
    assert ranges is not None
    expected = learned if preset is SMALL else learned.max().view(1)
    torch.testing.assert_close(ranges[:, 0], expected)


def test_learned_limits_of_weights_are_folded_in_and_scale_the_columns() -> None:
    chosen = config(ranges=False)
    chosen.clip.type = enums.WeightClipType.LEARNABLE_PER_CHANNEL
    model, x = trained("mlp", chosen)
    with torch.no_grad():
        for layer in model.analog_layers():
            layer.learnable_weight_clip *= 0.7  # now they limit
    analog = convert(model, NO_RANGES)
    torch.testing.assert_close(outputs(analog, x), outputs(model, x), rtol=0, atol=1e-6)
    limits = model[0].learnable_weight_clip.detach()
    torch.testing.assert_close(matrices_of(analog)["0"].column_scale(), limits)
    assert (model[0].weight.abs().amax() > limits.max()).item()
    assert "learned limits of the weights folded in" in coverage(analog).reason[0]


def test_a_weight_that_is_rounded_in_every_pass_is_rounded_once() -> None:
    chosen = config(ranges=False)
    chosen.modifier.quantization_type = enums.WeightQuantizationType.DISCRETIZE_PER_CHANNEL
    chosen.modifier.res = 2**4 - 2
    model, x = trained("mlp", chosen)
    analog = convert(model, NO_RANGES)
    torch.testing.assert_close(outputs(analog, x), outputs(model, x), rtol=0, atol=1e-6)
    assert model[0].rpu_config.modifier.quantization_type.value == "DiscretizePerChannel"
    assert len(analog[0].weight[0].detach().unique()) <= 2**4
    assert "rounded weight folded in" in coverage(analog).reason[0]


def test_ranges_that_were_never_set_must_be_calibrated() -> None:
    model, x = trained("mlp", config(), steps=0)
    analog = convert(model, SMALL)
    assert coverage(analog).reason[0] == (
        "input ranges of aihwkit-lightning were never set: calibrate"
    )
    with pytest.raises(CalibrationError, match="input ranges of layer '0' were never set"):
        analog(x)
    calibrate(analog, [x])
    assert outputs(analog, x).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ranges_that_were_never_set_stay_so_through_half_precision(dtype: torch.dtype) -> None:
    chosen = config()
    chosen.pre_post.input_range.init_value = 1.9  # no number of either precision
    model, _ = trained("mlp", chosen, steps=0)
    model.to(dtype).float()
    assert model[0].input_range[0].item() != pytest.approx(1.9, rel=1e-6)
    assert "were never set" in coverage(convert(model, SMALL)).reason[0]


def test_a_range_of_zero_is_refused_by_the_name_of_its_layer(engine: str) -> None:
    model, _ = trained("mlp", config())
    with torch.no_grad():
        model[2].input_range[0] = 0.0
    with pytest.raises(ConversionError, match=r"2 \(an input range of aihwkit-lightning is 0;"):
        convert(model, SMALL, engine=engine)
    assert list(coverage(convert(model, SMALL, engine=engine, exclude="2"))["where"]) == [
        "analog",
        "digital",
    ]


def test_padding_by_a_word_is_refused_by_the_layer_name() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3))
    analog = convert_to_analog(model, config(ranges=False))
    analog[0].padding = ("same", "same")  # as aihwkit-lightning makes of "same"
    with pytest.raises(ConversionError, match=r"0 \(padding 'same', which aihwkit-lightning"):
        convert(analog, NO_RANGES)


def test_limits_that_are_switched_off_are_not_applied() -> None:
    chosen = config(ranges=False)
    chosen.clip.type = enums.WeightClipType.LEARNABLE_PER_CHANNEL
    model, x = trained("mlp", chosen)
    with torch.no_grad():
        for layer in model.analog_layers():
            layer.learnable_weight_clip *= 0.7
            layer.rpu_config.clip.type = enums.WeightClipType.NONE
    analog = convert(model, NO_RANGES)
    torch.testing.assert_close(matrices_of(analog)["0"].clean_weight(), model[0].weight)
    assert "limits" not in coverage(analog).reason[0]


def test_fixed_ranges_come_along_and_ranges_per_vector_cannot() -> None:
    fixed = config()
    fixed.pre_post.input_range.init_from_data, fixed.pre_post.input_range.init_value = 0, 2.5
    model, _ = trained("mlp", fixed, steps=0)
    matrix = matrices_of(convert(model, SMALL))["0"]
    torch.testing.assert_close(matrix.input_ranges(), torch.full((2, 1), 2.5))
    dynamic = config()
    dynamic.pre_post.input_range.dynamic = True
    model, _ = trained("mlp", dynamic, steps=0)
    table = coverage(convert(model, SMALL))
    assert table.reason[0] == (
        "a range per input vector in aihwkit-lightning: calibrate fixed ones"
    )


def test_exclude_and_subclasses_are_treated_as_everywhere() -> None:
    model, x = trained("mlp", config(ranges=False))
    analog = convert(model, NO_RANGES, exclude="2")
    assert list(coverage(analog)["where"]) == ["analog", "digital"]
    torch.testing.assert_close(outputs(analog, x), outputs(model, x), rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="'9' matches no module"):
        convert(model, NO_RANGES, exclude="9")

    class Doubled(lightning.AnalogLinear):  # type: ignore[misc,name-defined]
        def forward(self, inp: Tensor) -> Tensor:
            result: Tensor = 2.0 * super().forward(inp)
            return result

    own = Doubled(4, 2, rpu_config=config(ranges=False))
    with pytest.raises(ConversionError, match="Doubled changes the forward pass of AnalogLinear"):
        convert(nn.Sequential(own), NO_RANGES)


def test_random_numbers_are_not_used_up() -> None:
    model, _ = trained("convolutions", config())
    torch.manual_seed(0)
    before = torch.get_rng_state()
    convert(model, SMALL)
    assert torch.equal(torch.get_rng_state(), before)
