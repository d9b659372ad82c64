"""The aihwkit engine: presets on its tiles, its modules and functions, training."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from aihwkit.inference import drift_analog_weights
from aihwkit.inference.noise.hermes import HermesNoiseModel
from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
from aihwkit.nn import AnalogConv2d, AnalogLinear
from aihwkit.nn.conversion import convert_to_analog
from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
from aihwkit.simulator.parameters.enums import (
    WeightClipType,
    WeightModifierType,
    WeightNoiseType,
)
from torch import Tensor, nn

from aimc_bridge import (
    HWATraining,
    calibrate,
    convert,
    restore,
    train,
)
from aimc_bridge.conversion import copy_trained
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.aihwkit import capability
from aimc_bridge.engines.aihwkit.capability import cuda_tiles
from aimc_bridge.engines.aihwkit.noise import LawNoiseModel, OracleDriftCompensation
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import CapabilityError, ConversionError, UsageError
from aimc_bridge.spec import Preset, Table
from presets import get, hermes, ideal, names, rasch2023, scalar_drift

QUIET = rasch2023.change(out_noise=0.0, w_noise=0.0, why="no noise: outputs can be compared")
SMALL_TILES = {"max_rows": 20, "max_columns": 9, "why": "several tiles of a small layer"}


class Net(nn.Module):
    """A convolution on aihwkit's own module, one on a bridge, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2, padding=1, padding_mode="reflect")
        self.fc = nn.Linear(6 * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.grouped(torch.relu(self.conv(x))))
        y: Tensor = self.fc(x.flatten(1))
        return y


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def converted(net: nn.Module, images: Tensor, preset: Preset = rasch2023) -> nn.Module:
    analog = convert(net, preset, engine="aihwkit").eval()
    if preset.crossbar.input_range != "none":
        calibrate(analog, [images])
    return analog


def matrix(model: nn.Module, name: str) -> Matrix:
    return matrices_of(model)[name]


def tiles(model: nn.Module) -> list[Any]:
    return list(model.analog_tiles())  # type: ignore[operator]


# --- presets on aihwkit's configs ---


def test_rasch2023_is_mapped_field_by_field() -> None:
    """The fields of SI Table 1 have aihwkit's names."""
    config = rasch2023.rpu_config()
    assert type(config) is InferenceRPUConfig
    io_ = config.forward
    steps = 254
    assert (io_.inp_res, io_.out_res) == (1 / steps, 1 / steps)
    assert (io_.inp_bound, io_.out_bound) == (1.0, 10.0)
    assert (io_.out_noise, io_.w_noise) == (0.04, 0.0175)
    assert io_.w_noise_type == WeightNoiseType.PCM_READ
    assert (io_.ir_drop, io_.ir_drop_g_ratio) == (1.0, 571428.57)
    assert io_.noise_management.name == "NONE" and io_.bound_management.name == "NONE"
    assert not (io_.is_perfect or io_.inp_sto_round or io_.out_sto_round) and io_.inp_noise == 0
    mapping = config.mapping
    assert (mapping.max_input_size, mapping.max_output_size) == (512, 512)
    assert mapping.digital_bias and mapping.weight_scaling_columnwise
    assert mapping.learn_out_scaling and mapping.out_scaling_columnwise
    assert mapping.weight_scaling_omega == 1.0
    assert config.pre_post.input_range.enable
    model = config.noise_model
    assert type(model) is PCMLikeNoiseModel
    assert (model.g_converter.g_max, model.t_0, model.t_read) == (25.0, 20.0, 250e-9)
    assert type(config.drift_compensation).__name__ == "GlobalDriftCompensation"
    assert config.modifier.type == WeightModifierType.NONE  # Injection belongs to training.
    assert config.remap.type.name == "NONE"


def test_hermes_and_scalar_drift_have_their_models() -> None:
    config = hermes.rpu_config()
    assert type(config.noise_model) is HermesNoiseModel
    assert config.noise_model.g_converter.g_max == 20.7
    config = scalar_drift.rpu_config()
    assert type(config.noise_model) is LawNoiseModel
    assert type(config.drift_compensation) is OracleDriftCompensation
    assert config.mapping.max_input_size == 0 and not config.mapping.weight_scaling_columnwise
    assert config.forward.inp_res == -1.0 and config.forward.out_res == -1.0


@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", names())
def test_every_preset_has_a_config_that_aihwkit_runs(name: str) -> None:
    layer = AnalogLinear(6, 5, rpu_config=get(name).rpu_config())
    assert layer(torch.randn(3, 6)).isfinite().all()
    layer.eval()
    layer.program_analog_weights(None)
    layer.drift_analog_weights(86400.0)
    assert layer(torch.randn(3, 6)).isfinite().all()


def test_a_changed_device_is_never_dropped_in_silence() -> None:
    """aihwkit has the polynomial written in.

    Another polynomial runs through our law.
    """
    changed = rasch2023.change(prog_coeff_us=(0.5, 0.0, 0.0), why="constant sigma")
    assert type(changed.rpu_config().noise_model) is LawNoiseModel
    unnetted = rasch2023.change(netting=False, why="devices by themselves")
    assert type(unnetted.rpu_config().noise_model) is LawNoiseModel


def test_torch_tile_refuses_by_name() -> None:
    with pytest.raises(CapabilityError, match="w_noise=0.0175, ir_drop=1.0") as caught:
        rasch2023.rpu_config(tile="torch")
    assert 'tile="rpucuda"' in str(caught.value) and "drop=('w_noise', 'ir_drop')" in str(
        caught.value
    )
    config = rasch2023.rpu_config(tile="torch", drop=("w_noise", "ir_drop"))
    assert isinstance(config, TorchInferenceRPUConfig)
    assert config.forward.w_noise == 0.0 and config.forward.ir_drop == 0.0
    assert config.forward.out_noise == 0.04
    with pytest.raises(UsageError, match="drop"):
        rasch2023.rpu_config(drop=("out_noise",))
    with pytest.raises(UsageError, match="tile"):
        rasch2023.rpu_config(tile="gpu")


@pytest.mark.skipif(cuda_tiles(), reason="a CUDA build has PCM_NOISE")
def test_training_config_refuses_pcm_noise_by_name() -> None:
    with pytest.raises(CapabilityError, match="noise_type='pcm'"):
        rasch2023.rpu_config(training="wrn16")
    config = rasch2023.rpu_config(training="wrn16", drop=("noise_type",))
    assert config.clip.fixed_value == 1.0 and config.modifier.pdrop == 0.01
    assert config.pre_post.input_range.init_from_data == 100


@pytest.mark.parametrize("tile", ["rpucuda", "torch"])
def test_training_config_refuses_a_clip_by_columns(tile: str) -> None:
    """aihwkit's tiles clip by layers.

    `train` clips by columns on both engines.
    """

    def preset(clip: str) -> Preset:
        values = {"noise_type": "none", "drop_connect": 0.0, "clip_type": clip}
        spec = rasch2023.training["wrn16"].change(why="test", **values)
        return dataclasses.replace(ideal, training=Table({"mine": spec}))

    by_layers = preset("layer_gaussian").rpu_config(tile=tile, training="mine")
    assert by_layers.clip.type == WeightClipType.LAYER_GAUSSIAN
    by_columns = preset("column_gaussian")
    with pytest.raises(CapabilityError, match="clip_type='column_gaussian'"):
        by_columns.rpu_config(tile=tile, training="mine")
    dropped = by_columns.rpu_config(tile=tile, training="mine", drop=("clip_type",))
    assert dropped.clip.type == WeightClipType.NONE


def with_recipe(base: Preset, **values: Any) -> Preset:
    spec = rasch2023.training["wrn16"].change(why="test", **values)
    return dataclasses.replace(base, training=Table({"mine": spec}))


@pytest.mark.parametrize("tile", ["rpucuda", "torch"])
@pytest.mark.parametrize("noise", ["pcm", "programming"])
def test_training_config_refuses_noise_that_no_modifier_has(
    tile: str, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """aihwkit's modifiers know one polynomial of one device.

    A CUDA build changes nothing.
    """
    monkeypatch.setattr(capability, "cuda_tiles", lambda: True)
    preset = with_recipe(hermes, noise_type=noise, drop_connect=0.0)
    dropped = {} if tile == "rpucuda" else {"drop": ("w_noise", "ir_drop")}
    with pytest.raises(CapabilityError, match=f"noise_type='{noise}'"):
        preset.rpu_config(tile=tile, training="mine", **dropped)
    drop = ("noise_type", *dropped.get("drop", ()))
    config = preset.rpu_config(tile=tile, training="mine", drop=drop)
    assert config.modifier.type == WeightModifierType.NONE


def test_training_config_takes_what_is_learned() -> None:
    for ranges in (True, False):
        for scales in (True, False):
            learned = {"learn_input_ranges": ranges, "learn_out_scales": scales}
            preset = with_recipe(rasch2023, noise_type="none", **learned)
            config = preset.rpu_config(training="mine")
            assert config.pre_post.input_range.learn_input_range is ranges
            assert config.mapping.learn_out_scaling is scales
            assert config.mapping.out_scaling_columnwise is scales


# --- conversion ---


def test_aihwkits_modules_are_used_where_it_has_them(net: Net) -> None:
    analog = convert(net, ideal, engine="aihwkit")
    assert isinstance(analog.conv, AnalogConv2d) and isinstance(analog.fc, AnalogLinear)
    assert len(tiles(analog)) == 4
    assert isinstance(analog, Net)


def test_aihwkits_functions_work_on_the_result(net: Net, images: Tensor) -> None:
    """Its drift, called by hand, programs and compensates every tile."""
    analog = converted(net, images)
    drift_analog_weights(analog, 86400.0)
    assert all(float(tile.alpha) > 1.0 for tile in tiles(analog))
    assert all(tile.programmed_weights is not None for tile in tiles(analog))
    restore(analog)
    assert all(float(tile.alpha) == 1.0 for tile in tiles(analog))


def test_models_whose_classes_have_one_name_keep_their_own_forward() -> None:
    """They keep it although their names are equal.

    aihwkit's AnalogWrapper gives the second the forward of the first.
    """

    def make(factor: float) -> nn.Module:
        class Twin(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.fc = nn.Linear(4, 3)

            def forward(self, x: Tensor) -> Tensor:
                return factor * self.fc(x)

        return Twin()

    x = torch.randn(2, 4)
    for model in (make(1.0), make(5.0)):
        analog = convert(model, ideal, engine="aihwkit")
        assert torch.allclose(analog(x), model(x), atol=1e-6)


def test_conversion_leaves_torchs_generator_alone(net: Net) -> None:
    before = torch.random.get_rng_state()
    convert(net, rasch2023, engine="aihwkit")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_the_tile_cannot_run_is_refused(net: Net) -> None:
    scaled = rasch2023.change(weight_scaling="layer", why="one scale per layer, many tiles")
    with pytest.raises(CapabilityError, match="weight_scaling='layer'"):
        convert(net, scaled, engine="aihwkit")


def test_frozen_weights_stay_frozen(net: Net) -> None:
    net.fc.weight.requires_grad_(False)
    analog = convert(net, ideal, engine="aihwkit")
    frozen = {n for n, p in analog.named_parameters() if "shared" in n and not p.requires_grad}
    assert frozen == {"fc.analog_module.shared_weights"}


@pytest.mark.parametrize("adc", (True, False))
def test_both_engines_give_one_product(net: Net, images: Tensor, adc: bool) -> None:
    """Products agree with DAC, IR drop and ADC on several tiles.

    With the ADC on, rounding may differ by one step.
    """
    preset = QUIET.change(**SMALL_TILES)
    if not adc:
        preset = preset.change(adc_bits=None, why="outputs without steps")
    linear = nn.Linear(96, 10)
    x = torch.randn(400, 96, generator=torch.Generator().manual_seed(2))
    ours = convert(linear, preset).eval()
    theirs = convert(linear, preset, engine="aihwkit").eval()
    for model in (ours, theirs):
        calibrate(model, [x])
    with torch.no_grad():
        got, expected = ours(x), theirs(x)
    off = (got - expected).abs()
    largest = float(expected.abs().max())
    if not adc:
        assert float(off.max()) <= 1e-5 * largest
        return
    differ = off > 1e-5 * largest
    assert float(differ.float().mean()) <= 1e-4 * len(matrix(ours, "").grid.rows)
    scale = matrix(ours, "").column_scale() * float(matrix(ours, "").input_ranges().max())  # type: ignore[union-attr]
    assert float(off.max()) <= 1.001 * 10 / 127 * float(scale.max())


@pytest.mark.parametrize("rows", (9, 512))
@pytest.mark.parametrize(
    "options", ({}, {"padding": 1}, {"stride": 2}, {"padding": 1, "padding_mode": "reflect"})
)
def test_both_engines_give_one_convolution(options: dict[str, Any], rows: int) -> None:
    """Outputs and input gradients agree.

    There are input ranges, DAC and IR drop, on aihwkit's convolution and on the bridge.
    """
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 3, 3, **options)
    x = torch.randn(3, 2, 5, 5)
    preset = QUIET.change(adc_bits=None, max_rows=rows, why="outputs without steps")
    outputs, gradients = [], []
    for engine in ("native", "aihwkit"):
        analog = convert(conv, preset, engine=engine).eval()
        calibrate(analog, [x])
        leaf = x.clone().requires_grad_()
        y = analog(leaf)
        y.square().sum().backward()
        outputs.append(y.detach())
        gradients.append(leaf.grad)
    for got, expected in (outputs, gradients):
        assert float((got - expected).abs().max()) <= 1e-5 * float(expected.abs().max())  # type: ignore[union-attr,operator]


def test_copy_trained_gives_the_same_crossbars(net: Net, images: Tensor) -> None:
    """Learned scales and ranges arrive as they are.

    So do normalised weights below 1.
    """
    ours = convert(net, QUIET).eval()
    calibrate(ours, [images])
    with torch.no_grad():
        for m in matrices_of(ours).values():
            m.clip(torch.tensor(0.8))
            m.out_scale.mul_(1.5)  # type: ignore[attr-defined]
    theirs = convert(net, QUIET, engine="aihwkit").eval()
    copy_trained(ours, theirs)
    for name, m in matrices_of(ours).items():
        assert torch.allclose(m.normalised_weight(), matrix(theirs, name).normalised_weight())
        assert torch.allclose(m.effective_weight(), matrix(theirs, name).effective_weight())
        assert torch.equal(m.input_ranges(), matrix(theirs, name).input_ranges())  # type: ignore[arg-type]
    with torch.no_grad():
        # A rounding that falls the other way moves the input of the next layer by a step.
        assert float((ours(images) - theirs(images)).abs().mean()) < 0.01


# --- training ---


def recipe(**changes: Any) -> HWATraining:
    base = {"batch_size": 8, "epochs": 1, "ramp_batches": 0, "drop_connect": 0.0, "grad_clip": None}
    return HWATraining.for_(rasch2023, "lstm").override(**{**base, **changes})


def loss(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch).square().mean()  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ("sgd", "adamw"))
def test_noise_is_injected_from_the_first_batch_with_any_optimizer(
    net: Net, images: Tensor, kind: str
) -> None:
    """The first forward pass has noisy weights.

    After training, the weights are clean.
    """
    analog = converted(net, images)
    clean = matrix(analog, "fc").normalised_weight()
    held: list[Tensor] = []
    analog.fc.register_forward_hook(lambda *_: held.append(matrix(analog, "fc").effective_weight()))
    optimizer = None
    if kind == "adamw":
        optimizer = torch.optim.AdamW(analog.parameters(), lr=0.0)
    none = recipe(learning_rate=1e-30, noise_scale=3.0)
    train(analog, [images] * 3, loss, recipe=none, optimizer=optimizer, progress=False)
    scale = matrix(analog, "fc").column_scale().T
    for weight in held:
        noise = weight / scale - clean
        # The noise is sigma_prog of 1.05 % to 4.3 % of g_max, times 3, plus 1/f noise.
        assert 3 * 0.0105 < float(noise.std()) < 3 * 0.06
    assert len(held) == 3 and not torch.equal(held[0], held[1])
    assert torch.equal(matrix(analog, "fc").normalised_weight(), clean)


def test_gradient_goes_to_the_clean_weights(images: Tensor) -> None:
    """One SGD step without noise is the digital step."""
    torch.manual_seed(0)
    digital = nn.Linear(12, 5)
    x = torch.randn(8, 12)
    analog = convert(digital, ideal, engine="aihwkit").train()
    plain = recipe(noise_type="none", learning_rate=0.1, weight_decay=0.0, clip_type="none")
    train(analog, [x], loss, recipe=plain, progress=False)
    optimizer = torch.optim.SGD(digital.parameters(), lr=0.1)
    loss(digital, x).backward()
    optimizer.step()
    assert torch.allclose(matrix(analog, "").clean_weight(), digital.weight, atol=1e-6)
    assert torch.allclose(matrix(analog, "").bias(), digital.bias, atol=1e-6)  # type: ignore[arg-type]


def test_ranges_start_from_data_and_are_learned(net: Net, images: Tensor) -> None:
    analog = convert(net, rasch2023, engine="aihwkit").train()
    once = recipe(noise_scale=0.0, input_range_init_batches=1, learning_rate=1e-30)
    train(analog, [images], loss, recipe=once, progress=False)
    got = matrix(analog, "conv").input_ranges()
    expected = 3 * nn.functional.unfold(images, 3, padding=1).std()
    assert got is not None and float(got) == pytest.approx(float(expected), rel=1e-5)
    learned = recipe(noise_scale=0.0, learning_rate=0.05, input_range_init_batches=1)
    train(analog, [images] * 3, loss, recipe=learned, progress=False)
    assert float(matrix(analog, "conv").input_ranges()) != float(got)  # type: ignore[arg-type]
    fixed = learned.override(learn_input_ranges=False)
    before = matrix(analog, "conv").input_ranges()
    train(analog, [images] * 3, loss, recipe=fixed, progress=False)
    assert torch.equal(matrix(analog, "conv").input_ranges(), before)  # type: ignore[arg-type]


def test_clip_and_remap(net: Net) -> None:
    analog = convert(net, rasch2023.change(**SMALL_TILES), engine="aihwkit")
    m = matrix(analog, "fc")
    m.clip(torch.tensor(0.5))
    assert float(m.normalised_weight().abs().max()) == pytest.approx(0.5)
    weight = m.clean_weight()
    m.remap()
    assert torch.allclose(m.clean_weight(), weight, atol=1e-7)
    assert torch.allclose(m.grid.column_amax(m.normalised_weight()), torch.ones(()), atol=1e-6)


def test_ir_drop_off_in_training_only_is_refused(net: Net, images: Tensor) -> None:
    analog = convert(net, rasch2023, engine="aihwkit")
    with pytest.raises(CapabilityError, match="ir_drop_in_training"):
        train(analog, [images], loss, recipe=recipe(ir_drop_in_training=False), progress=False)


def test_second_order_gradients_are_an_error() -> None:
    """The part of aihwkit's layers would be left out in silence."""
    model = nn.Sequential(nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 2))
    analog, x = convert(model, ideal, engine="aihwkit"), torch.randn(4, 12, requires_grad=True)
    energy = analog(x).square().sum()
    torch.autograd.grad(energy, x, retain_graph=True)
    with pytest.raises(CapabilityError, match="second-order gradients"):
        torch.autograd.grad(energy, x, create_graph=True)


def test_a_state_dict_without_a_tensor_is_told_by_its_name(net: Net) -> None:
    """Every tensor of a tile counts: loaded in part, the others stay and are named."""
    analog = convert(net, rasch2023.change(**SMALL_TILES), engine="aihwkit")
    state = analog.state_dict()
    tiles = [key for key in state if key.endswith(("shared_weights", "mapping_scales"))]
    assert len(tiles) >= 4
    for key in tiles:
        part = {name: value for name, value in state.items() if name != key}
        assert analog.load_state_dict(part, strict=False).missing_keys == [key]
        with pytest.raises(RuntimeError, match=re.escape(key)):
            analog.load_state_dict(part)


@pytest.mark.parametrize("rows", [-1, 1])
def test_a_tensor_of_another_size_is_told_by_its_name(net: Net, rows: int) -> None:
    """One row more, or one less; no tensor of the tile is changed then."""
    analog = convert(net, rasch2023.change(**SMALL_TILES), engine="aihwkit")
    state = {name: value.clone() for name, value in analog.state_dict().items()}
    key = next(name for name in state if name.endswith("shared_weights"))
    other = torch.ones(len(state[key]) + rows, *state[key].shape[1:])
    with pytest.raises(RuntimeError, match="size mismatch for ") as caught:
        analog.load_state_dict({**state, key: other})
    told = f"{key}: {tuple(other.shape)} in the state dict, {tuple(state[key].shape)} in the model"
    assert told in str(caught.value)
    assert torch.equal(analog.state_dict()[key], state[key])


@pytest.mark.parametrize("engine", ["native", "aihwkit"])
def test_analog_layers_of_aihwkit_are_refused_by_name(engine: str) -> None:
    """Their weights are in tiles, which a conversion would not see."""
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    theirs = convert_to_analog(model, ideal.rpu_config())
    with pytest.raises(ConversionError, match=r"'0.*analog layers of aihwkit; convert the digital"):
        convert(theirs, ideal, engine=engine)
