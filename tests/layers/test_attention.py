"""Attention and torch's transformers: equal to digital on an ideal chip, and really analog."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, drift, program
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.layers import AnalogMultiheadAttention
from presets import ideal, rasch2023
from tests.equality import assert_close, calls_of, check_equal

STEPS, BATCH = 6, 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# --- attention ---

WIDTH, HEADS = 12, 3
ATTENTION: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "self": ({}, {}),
    "batch first": ({"batch_first": True}, {}),
    "no bias": ({"bias": False}, {}),
    "cross": ({}, {"cross": True}),
    "kdim vdim": ({"kdim": 5, "vdim": 4, "batch_first": True}, {"cross": True}),
    "kdim vdim no bias": ({"kdim": 5, "vdim": 4, "bias": False}, {"cross": True}),
    "bool mask": ({}, {"attn_mask": "bool"}),
    "float mask": ({"batch_first": True}, {"attn_mask": "float"}),
    "bool mask a head": ({}, {"attn_mask": "bool3", "cross": True}),
    "float mask a head": ({}, {"attn_mask": "float3"}),
    "padding": ({"batch_first": True}, {"padding": "bool", "cross": True}),
    "float padding": ({}, {"padding": "float"}),
    "both masks": ({}, {"padding": "bool", "attn_mask": "bool"}),
    "both masks, a head": ({}, {"padding": "float", "attn_mask": "float3", "cross": True}),
    "causal": ({}, {"attn_mask": "causal", "is_causal": True}),
    "causal padding": ({}, {"attn_mask": "causal", "is_causal": True, "padding": "float"}),
    "zero": ({"add_zero_attn": True}, {"padding": "bool", "attn_mask": "bool"}),
    "bias_k": ({"add_bias_kv": True}, {"attn_mask": "float"}),
    "bias_k zero": (
        {"add_bias_kv": True, "add_zero_attn": True, "kdim": 5},
        {"cross": True, "padding": "bool", "attn_mask": "bool3"},
    ),
    "dropout in eval": ({"dropout": 0.5}, {"eval": True}),
}


def mask_of(kind: str, batch: int, targets: int, sources: int) -> Tensor:
    """Return a mask that leaves every target at least its first source."""
    if kind == "causal":
        return nn.Transformer.generate_square_subsequent_mask(targets)
    front = (batch * HEADS,) if kind.endswith("3") else ()
    if kind.startswith("float"):
        return torch.randn(*front, targets, sources)
    mask = torch.rand(*front, targets, sources) < 0.4
    mask[..., 0] = False
    return mask


@pytest.mark.parametrize("average", [True, False, None])
@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("case", ATTENTION)
def test_attention_equals_digital(
    engine: str, case: str, batched: bool, average: bool | None
) -> None:
    options, use = ATTENTION[case]
    layer = nn.MultiheadAttention(WIDTH, HEADS, **options).train("eval" not in use)
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            # Torch starts biases at 0, for which a wrong split would show nothing.
            if "bias" in name:
                parameter.normal_()
    batch = BATCH if batched else 1
    targets, sources = STEPS, STEPS - 2 if "cross" in use else STEPS

    def random(steps: int, width: int) -> Tensor:
        front = (batch, steps) if layer.batch_first else (steps, batch)
        return torch.randn(*(front if batched else (steps,)), width)

    inputs = [random(targets, WIDTH)]
    if "cross" in use:
        inputs += [random(sources, layer.kdim), random(sources, layer.vdim)]
    masks: dict[str, Any] = {}
    if "attn_mask" in use:
        masks["attn_mask"] = mask_of(use["attn_mask"], batch, targets, sources)
    if "padding" in use:
        padding = torch.arange(sources) >= torch.arange(sources)[-batch:, None].clamp_min(2)
        if use["padding"] == "float":
            padding = torch.zeros(padding.shape).masked_fill(padding, -torch.inf)
        masks["key_padding_mask"] = padding if batched else padding[0]

    def call(module: nn.Module, leaves: list[Tensor]) -> Any:
        three = leaves if len(leaves) == 3 else leaves * 3
        return module(
            *three,
            need_weights=average is not None,
            average_attn_weights=bool(average),
            is_causal=use.get("is_causal", False),
            **masks,
        )

    analog = check_equal(layer, engine, call, *inputs)
    assert [name for name, _ in analog.named_children()] == ["q", "k", "v", "out"]


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_dropout_acts_in_training(engine: str, need_weights: bool) -> None:
    analog = convert(nn.MultiheadAttention(WIDTH, HEADS, dropout=0.5), ideal, engine=engine)
    x = torch.randn(STEPS, BATCH, WIDTH)
    a, b = (analog(x, x, x, need_weights=need_weights)[0] for _ in range(2))
    assert not torch.equal(a, b)


def test_attention_keeps_flags() -> None:
    layer = nn.MultiheadAttention(WIDTH, HEADS, add_bias_kv=True)
    layer.in_proj_weight.requires_grad_(False)
    layer.bias_v.requires_grad_(False)  # type: ignore[union-attr]
    with torch.no_grad():
        analog = convert(layer, ideal)
    named = dict(analog.named_parameters())
    for name in ("q.weight", "k.weight", "v.weight", "bias_v"):
        assert not named[name].requires_grad
    for name in ("q.bias", "k.bias", "v.bias", "out.weight", "out.bias", "bias_k"):
        assert named[name].requires_grad


# --- torch's transformers ---


def encoder_layer(**options: Any) -> nn.TransformerEncoderLayer:
    settings = {"dim_feedforward": 16, "dropout": 0.0, "batch_first": True, **options}
    return nn.TransformerEncoderLayer(8, 2, **settings)


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
def test_transformer_encoder_equals_digital(
    engine: str, batch_first: bool, norm_first: bool, training: bool, padded: bool
) -> None:
    layer = encoder_layer(batch_first=batch_first, norm_first=norm_first)
    model = nn.TransformerEncoder(layer, 2).train(training)
    x = torch.randn(BATCH, STEPS, 8)
    padding = torch.arange(STEPS) >= torch.tensor([6, 3, 4, 2])[:, None] if padded else None
    real = torch.ones(BATCH, STEPS) if padding is None else (~padding).float()

    def call(module: nn.Module, leaves: list[Tensor]) -> Tensor:
        x = leaves[0] if batch_first else leaves[0].transpose(0, 1)
        y: Tensor = module(x, src_key_padding_mask=padding)
        return (y if batch_first else y.transpose(0, 1)) * real[:, :, None]

    analog = check_equal(model, engine, call, x)
    with torch.no_grad():
        assert_close(call(analog, [x]), call(model, [x]))


@pytest.mark.parametrize("training", [True, False])
def test_transformer_decoder_layer_equals_digital(engine: str, training: bool) -> None:
    layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0).train(training)
    mask = nn.Transformer.generate_square_subsequent_mask(STEPS)

    def call(module: nn.Module, x: list[Tensor]) -> Any:
        return module(*x, tgt_mask=mask, tgt_is_causal=True)

    check_equal(layer, engine, call, torch.randn(STEPS, BATCH, 8), torch.randn(3, BATCH, 8))


@pytest.mark.parametrize("training", [True, False])
def test_transformer_equals_digital(engine: str, training: bool) -> None:
    model = nn.Transformer(8, 2, 1, 2, 16, dropout=0.0, batch_first=True).train(training)
    padding = torch.arange(STEPS) >= torch.tensor([6, 3, 4, 2])[:, None]
    mask = nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float32)

    def call(module: nn.Module, x: list[Tensor]) -> Any:
        return module(
            *x, tgt_mask=mask, src_key_padding_mask=padding, memory_key_padding_mask=padding
        )

    x = torch.randn(BATCH, STEPS, 8), torch.randn(BATCH, 3, 8)
    analog = check_equal(model, engine, call, *x)
    with torch.no_grad():
        assert_close(call(analog, list(x)), call(model, list(x)))


@pytest.mark.parametrize("exclude", [(), ("*self_attn",), ("*linear1", "*linear2")])
def test_encoder_in_eval_mode_does_not_bypass_the_chip(
    engine: str, exclude: tuple[str, ...]
) -> None:
    """The output without hooks shows the chip too.

    Hooks alone would switch off torch's fast path.
    """
    if engine != "native":
        pytest.skip("the paper's standard model needs this engine's slowest tile")
    model = nn.TransformerEncoder(encoder_layer(), 2).eval()
    x = torch.randn(BATCH, STEPS, 8)
    padding = torch.arange(STEPS) >= torch.tensor([6, 3, 4, 2])[:, None]
    analog = convert(model, rasch2023, engine=engine, exclude=exclude)
    with torch.no_grad():
        calibrate(analog, [x])
        program(analog, seed=1)
        drift(analog, 3600.0)
        names = set(matrices_of(analog))
        assert names and calls_of(analog, lambda: analog(x)) == names
        assert calls_of(analog, lambda: analog(x, src_key_padding_mask=padding)) == names
        for mask in (None, padding):
            expected = model(x, src_key_padding_mask=mask)
            got = analog(x, src_key_padding_mask=mask)
            real = slice(None) if mask is None else ~mask
            assert float((got - expected)[real].std()) > 1e-3 * float(expected[real].std())


def test_digital_encoders_keep_their_fast_path(engine: str) -> None:
    model = nn.ModuleDict(
        {"kept": nn.TransformerEncoder(encoder_layer(), 1), "fc": encoder_layer()}
    )
    analog = convert(model, ideal, engine=engine, exclude=["kept"])
    encoder, converted = analog["kept"], analog["fc"]
    assert encoder.use_nested_tensor and encoder.layers[0].activation_relu_or_gelu == 1
    assert converted.activation_relu_or_gelu == 0


def test_wrong_attention_inputs() -> None:
    layer = nn.MultiheadAttention(WIDTH, HEADS, kdim=5, vdim=4)
    analog = convert(layer, ideal)
    assert isinstance(analog, AnalogMultiheadAttention)
    q = torch.randn(STEPS, BATCH, WIDTH)
    k, v = torch.randn(3, BATCH, 5), torch.randn(3, BATCH, 4)
    with pytest.raises(ShapeError, match=r"key \(3, 4, 4\); allowed: \[steps, batch, 5\]"):
        analog(q, v, v)
    with pytest.raises(ShapeError, match="value"):
        analog(q, k, v[0])
    with pytest.raises(ShapeError, match="as many values as keys"):
        analog(q, k, v[1:])
    with pytest.raises(ShapeError, match="one batch size"):
        analog(q[:, 1:], k, v)
    with pytest.raises(ShapeError, match="attn_mask"):
        analog(q, k, v, attn_mask=torch.zeros(3, 3))
    with pytest.raises(ShapeError, match="key_padding_mask"):
        analog(q, k, v, key_padding_mask=torch.zeros(3, 4))
    with pytest.raises(UsageError, match="bool or floating"):
        analog(q, k, v, attn_mask=torch.zeros(STEPS, 3, dtype=torch.long))
    with pytest.raises(UsageError, match="is_causal"):
        analog(q, k, v, is_causal=True)
    same = convert(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True), ideal)
    nested = torch.nested.nested_tensor([torch.randn(2, WIDTH), torch.randn(3, WIDTH)])
    with pytest.raises(UsageError, match="nested"):
        same(nested, nested, nested)
