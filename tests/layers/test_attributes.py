"""Attributes that models read from a layer: as of the digital one, or an error that says more."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import convert, program, restore
from aimc_bridge.errors import ShapeError, StateError, UsageError
from presets import ideal
from tests.models import DEVICES, assert_close, linear, random

CONV = (
    "in_channels out_channels kernel_size stride padding dilation groups padding_mode transposed "
    "output_padding"
)
RNN = (
    "mode input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size "
    "weight_ih_l0 weight_hh_l0 weight_ih_l1 weight_hh_l1 bias_ih_l0 bias_hh_l1"
)
LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: linear(6, 4), "in_features out_features weight bias"),
    "linear, no bias": (lambda: linear(6, 4, bias=False), "weight bias"),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, dilation=2), f"{CONV} weight bias"),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=2, padding=1), f"{CONV} weight bias"),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"), f"{CONV} weight bias"),
    "transposed": (
        lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2, output_padding=1),
        f"{CONV} weight bias",
    ),
    "lstm": (
        lambda: nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3),
        f"{RNN} weight_hr_l0 weight_ih_l1_reverse",
    ),
    "gru": (lambda: nn.GRU(5, 4, 2), RNN),
    "lstm cell": (
        lambda: nn.LSTMCell(5, 4),
        "input_size hidden_size bias weight_ih weight_hh bias_ih bias_hh",
    ),
    "attention": (
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
        "embed_dim num_heads head_dim kdim vdim batch_first dropout in_proj_weight in_proj_bias "
        "bias_k",
    ),
    "attention, own widths": (
        lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
        "_qkv_same_embed_dim in_proj_weight in_proj_bias q_proj_weight k_proj_weight v_proj_weight",
    ),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_attributes_are_those_of_the_digital_layer(kind: str, engine: str) -> None:
    torch.manual_seed(0)
    make, names = LAYERS[kind]
    digital = make()
    analog = convert(digital, DEVICES, engine=engine).eval()
    for _ in range(2):  # with the trained weights, and while a chip is programmed
        for name in names.split():
            expected, value = getattr(digital, name), getattr(analog, name)
            if isinstance(expected, Tensor):
                assert_close(value, expected, name, 1e-6)
                assert value.device == expected.device
            else:
                assert value == expected, name
        program(analog, 1)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_all_weights_of_recurrent_layers(kind: str, engine: str) -> None:
    torch.manual_seed(0)
    digital = LAYERS[kind][0]()
    analog = convert(digital, ideal, engine=engine)
    analog.flatten_parameters()
    for mine, theirs in zip(analog.all_weights, digital.all_weights, strict=True):
        for value, expected in zip(mine, theirs, strict=True):
            assert_close(value, expected, "weight", 1e-6)


def test_the_output_projection(engine: str) -> None:
    digital = nn.MultiheadAttention(8, 2)
    analog = convert(digital, ideal, engine=engine)
    assert analog.out_proj is analog.out
    assert_close(analog.out_proj.weight, digital.out_proj.weight, "weight", 1e-6)
    assert not analog._qkv_same_embed_dim  # no fused kernel may take the weights
    assert_close(analog.q_proj_weight, digital.in_proj_weight[:8], "weight", 1e-6)


def test_weights_of_another_layout(engine: str) -> None:
    """Hugging Face's Conv1D stores [in, out], and calls its sizes nx and nf."""
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    digital = Conv1D(5, 7)
    analog = convert(digital, ideal, engine=engine)
    assert_close(analog.weight, digital.weight, "weight", 1e-6)
    assert (analog.nx, analog.nf) == (digital.nx, digital.nf)
    with torch.no_grad():
        analog.weight = nn.Parameter(2.0 * digital.weight.detach())
    x = random(2, 7)
    assert_close(analog(x) - digital.bias, 2.0 * (digital(x) - digital.bias), "doubled")


MISSING = {
    "lstm": (
        "weight_ih_l7",
        "AnalogLSTM has no attribute 'weight_ih_l7'; .* has: .*hh_l0, .*ih_l0",
    ),
    "gru": ("weight_hr_l0", "AnalogGRU has no attribute 'weight_hr_l0'; .* has: .*all_weights"),
    "lstm cell": ("weights", "AnalogLSTMCell has no attribute 'weights'; .* has: .*hh, .*ih"),
    "attention": ("qkv", "AnalogMultiheadAttention has no attribute 'qkv'; .* has: .*out_proj"),
    "transposed": ("kernel", "AnalogConvTranspose has no attribute 'kernel'; .* kernel_size"),
}


@pytest.mark.parametrize("kind", MISSING)
def test_a_missing_attribute_lists_what_is_there(kind: str, engine: str) -> None:
    name, message = MISSING[kind]
    analog = convert(LAYERS[kind][0](), ideal, engine=engine)
    with pytest.raises(AttributeError, match=message):
        getattr(analog, name)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(analog)))
    assert not hasattr(copied, name) and type(copied) is type(analog)


# --- writing --------------------------------------------------------------------------------------


def test_weights_are_written_by_assignment(engine: str) -> None:
    for make, x in (
        (lambda: linear(6, 4), random(3, 6)),
        (lambda: nn.Conv2d(3, 4, 3), random(2, 3, 5, 5)),
    ):
        digital = make()
        analog = convert(digital, ideal, engine=engine)
        new = random(*digital.weight.shape, seed=5)
        for value in (new, nn.Parameter(3.0 * new)):
            digital.weight = nn.Parameter(value.detach())
            analog.weight = nn.Parameter(value.detach())
            assert_close(analog(x), digital(x), "product")
            assert_close(analog.weight, value, "weight", 1e-6)
        digital.bias.data.fill_(2.0)
        analog.bias = nn.Parameter(torch.full_like(digital.bias, 2.0))
        assert_close(analog(x), digital(x), "bias")
        assert len([p for p in analog.parameters() if p is analog.bias]) == 1


def test_weights_of_recurrent_layers_are_written_by_name(engine: str) -> None:
    torch.manual_seed(0)
    digital, x = nn.GRU(5, 4), random(3, 2, 5)
    analog, new = convert(digital, ideal, engine=engine), random(12, 4)
    digital.weight_hh_l0 = nn.Parameter(new)
    analog.weight_hh_l0 = nn.Parameter(new.clone())
    analog.bias_hh_l0.data.fill_(0.5)
    digital.bias_hh_l0.data.fill_(0.5)
    assert_close(analog(x)[0], digital(x)[0], "outputs")
    assert "weight_hh_l0" not in analog._parameters


def test_initialisation_on_the_native_engine() -> None:
    """There the weight is a parameter; column scales follow at the next remapping."""
    analog, x = convert(linear(6, 4), ideal), random(3, 6)
    nn.init.xavier_uniform_(analog.weight)
    assert_close(analog(x), functional.linear(x, analog.weight, analog.bias), "product")


WRITES: dict[str, Callable[[Tensor], object]] = {
    "xavier": nn.init.xavier_uniform_,
    "orthogonal": nn.init.orthogonal_,
    "normal": lambda w: nn.init.normal_(w),
    "keyword": lambda w: nn.init.uniform_(tensor=w),
    "copy": lambda w: w.copy_(torch.zeros(())),
    "data": lambda w: w.data.mul_(2.0),
    "set data": lambda w: setattr(w, "data", torch.zeros_like(w)),
    "detach": lambda w: w.detach().zero_(),
    "view": lambda w: w[0].zero_(),
    "item": lambda w: w.__setitem__(0, 0.0),
    "in place": lambda w: w.__imul__(2.0),
    "out": lambda w: torch.zeros(w.shape, out=w),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_copy_cannot_be_written(name: str, engine: str) -> None:
    attention = convert(nn.MultiheadAttention(8, 2), ideal, engine=engine)
    weights = [(attention.in_proj_weight, "set those of the layers q, k and v")]
    if engine == "aihwkit":
        analog = convert(linear(6, 4), ideal, engine=engine)
        weights.append((analog.weight, "assign new ones, .*: layer.weight = values"))
    for weight, message in weights:
        before = weight.clone()
        with (
            torch.no_grad(),
            pytest.raises(UsageError, match=f"these weights are a copy.*{message}"),
        ):
            WRITES[name](weight)
        assert torch.equal(weight, before)


def test_a_copy_is_read_like_any_tensor() -> None:
    digital, x = linear(6, 4), random(3, 6)
    weight = convert(digital, ideal, engine="aihwkit").weight
    assert_close(functional.linear(x, weight), functional.linear(x, digital.weight), "product")
    assert_close(x.clone().addmm_(x, weight.T @ weight), x + x @ (weight.T @ weight), "operand")
    changed = weight * 2.0
    changed.add_(1.0)  # a result is a tensor of its own
    assert type(changed) is Tensor and type(weight.clone()) is Tensor
    assert torch.equal(copy.deepcopy(weight), weight.clone())
    assert torch.equal(torch.stack([weight, weight])[1], weight.clone())
    assert weight.shape == (4, 6) and weight.dtype == torch.float32 and weight.device.type == "cpu"
    assert float(weight.norm()) == pytest.approx(float(digital.weight.detach().norm()))


def test_weights_that_cannot_be_written() -> None:
    analog = convert(linear(6, 4), DEVICES, engine="aihwkit").eval()
    with pytest.raises(ShapeError, match=r"weight \(6, 4\); allowed: \(4, 6\)"):
        analog.weight = random(6, 4)
    with pytest.raises(ShapeError, match=r"bias \(3,\); allowed: \(4,\)"):
        analog.bias = random(3)
    program(analog, 1)
    with pytest.raises(StateError, match=r"this layer holds a programmed chip; call restore"):
        analog.weight = random(4, 6)
    restore(analog)
    analog.weight = random(4, 6)


def test_state_dicts_with_the_former_name_of_a_convolutions_groups() -> None:
    digital, x = nn.Conv2d(4, 6, 3, groups=2), random(2, 4, 5, 5)
    model = convert(nn.Sequential(digital), ideal, engine="aihwkit")
    state = {name.replace(".parts.", ".groups."): v for name, v in model.state_dict().items()}
    assert any(".groups." in name for name in state)
    other = convert(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2)), ideal, engine="aihwkit")
    other.load_state_dict(state)
    assert torch.equal(other(x), model(x))
