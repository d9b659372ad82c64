"""Recurrent layers, cells and attention: equal to digital on an ideal chip, and really analog."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from aimc_bridge import calibrate, convert, coverage, drift, program
from aimc_bridge.composite import AnalogLSTM, AnalogMultiheadAttention
from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.registry import matrices_of
from presets import ideal, rasch2023

ENGINES = ("native", "aihwkit")
TOLERANCE = 1e-5  # of the largest value: float32 sums in another order
FEATURES, HIDDEN, STEPS, BATCH = 5, 7, 6, 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors of a nest of outputs, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, PackedSequence):
        yield value.data
        yield value.batch_sizes
        for indices in (value.sorted_indices, value.unsorted_indices):
            if indices is not None:
                yield indices
    elif value is not None:
        for part in value:
            yield from tensors(part)


def assert_close(got: Any, wanted: Any, what: str = "output", largest: float = 1e-6) -> None:
    """Equal to `TOLERANCE` of the largest value wanted, or of `largest` where that is more."""
    ours, theirs = list(tensors(got)), list(tensors(wanted))
    assert len(ours) == len(theirs), what
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype and a.device == b.device, what
        a, b = a.detach(), b.detach()
        bound = TOLERANCE * max(float(b.abs().max()), largest)
        worst = float((a - b).abs().max())
        assert worst <= bound, f"{what}: off by {worst:.2e}, allowed {bound:.2e}"


def analog_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Gradients of a digital model under the names that its native counterpart gives them."""
    found = {}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        prefix, dot, last = name.rpartition(".")
        if last in ("in_proj_weight", "in_proj_bias"):
            kind = last.removeprefix("in_proj_")
            for child, part in zip("qkv", parameter.grad.chunk(3), strict=True):
                found[f"{prefix}{dot}{child}.{kind}"] = part
            continue
        last = re.sub(r"^([qkv])_proj_weight$", r"\1.weight", last)
        last = re.sub(r"^(weight|bias)_(ih|hh|hr)(.*)$", r"\2\3.\1", last)
        found[f"{prefix}{dot}{last}".replace("out_proj.", "out.")] = parameter.grad
    return found


def check_equal(
    model: nn.Module, engine: str, call: Callable[[nn.Module, list[Tensor]], Any], *inputs: Tensor
) -> nn.Module:
    """Outputs, input gradients and (native) every weight's and bias's gradient equal digital's."""
    analog = convert(model, ideal, engine=engine)
    assert analog.training == model.training
    results = []
    for one in (model, analog):
        leaves = [x.clone().requires_grad_() for x in inputs]
        out = call(one, leaves)
        floats = [y for y in tensors(out) if y.is_floating_point()]
        generator = torch.Generator().manual_seed(1)
        loss = sum(
            (y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum() for y in floats
        )
        assert isinstance(loss, Tensor)
        loss.backward()
        results.append((out, [x.grad for x in leaves]))
    (wanted, wanted_grads), (got, got_grads) = results
    assert type(got) is type(wanted)
    assert_close(got, wanted)
    assert_close(got_grads, wanted_grads, "input gradient")
    if engine == "native":
        theirs = analog_gradients(model)
        ours = {n: p for n, p in analog.named_parameters() if p.requires_grad}
        assert set(ours) == set(theirs)
        for name, gradient in theirs.items():
            scale = 0.0
            if name.endswith("k.bias"):  # 0 but for rounding: a softmax does not see it
                scale = float(theirs[name.replace("k.bias", "k.weight")].abs().max())
            assert_close(ours[name].grad, gradient, name, scale)
    return analog


# --- recurrent layers ---

KINDS: dict[str, Callable[..., nn.RNNBase]] = {
    "lstm": nn.LSTM,
    "gru": nn.GRU,
    "tanh": nn.RNN,
    "relu": lambda *args, **options: nn.RNN(*args, nonlinearity="relu", **options),
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "two": {"num_layers": 2},
    "bidirectional": {"bidirectional": True},
    "two bidirectional": {"num_layers": 2, "bidirectional": True},
    "batch first": {"batch_first": True},
    "no bias": {"bias": False},
    "all": {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False},
}
CASES = [(kind, options) for kind in KINDS for options in OPTIONS.values()]
CASES += [("lstm", {**options, "proj_size": 3}) for options in OPTIONS.values()]
GIVEN = (
    "batched",
    "with state",
    "unbatched",
    "unbatched with state",
    "packed",
    "packed with state",
)


def initial(layer: nn.RNNBase, batch: int | None) -> list[Tensor]:
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    front = (count,) if batch is None else (count, batch)
    h = torch.randn(*front, layer.proj_size or layer.hidden_size)
    return [h, torch.randn(*front, layer.hidden_size)] if layer.mode == "LSTM" else [h]


def run_recurrent(layer: nn.Module, inputs: list[Tensor], packed: int = 0) -> Any:
    """`packed` first inputs are sequences to pack; what follows the data are initial states."""
    data: Any = inputs[0]
    states = inputs[1:]
    if packed:
        data, states = pack_sequence(inputs[:packed], enforce_sorted=False), inputs[packed:]
    if not states:
        return layer(data)
    return layer(data, tuple(states) if len(states) == 2 else states[0])


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_recurrent_equals_digital(
    engine: str, kind: str, options: dict[str, Any], given: str
) -> None:
    layer = KINDS[kind](FEATURES, HIDDEN, **options)
    if given.startswith("packed"):
        inputs = [torch.randn(length, FEATURES) for length in (2, 6, 1, 6, 3)]
        batch: int | None = len(inputs)
    elif given.startswith("unbatched"):
        inputs, batch = [torch.randn(STEPS, FEATURES)], None
    else:
        front = (BATCH, STEPS) if layer.batch_first else (STEPS, BATCH)
        inputs, batch = [torch.randn(*front, FEATURES)], BATCH
    packed = len(inputs) if given.startswith("packed") else 0
    if given.endswith("state"):
        inputs += initial(layer, batch)
    check_equal(layer, engine, lambda m, x: run_recurrent(m, x, packed), *inputs)


@pytest.mark.parametrize("kind", KINDS)
def test_one_input_product_a_layer_and_direction(engine: str, kind: str) -> None:
    layer = KINDS[kind](FEATURES, HIDDEN, num_layers=2, bidirectional=True)
    analog = convert(layer, ideal, engine=engine)
    calls: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        return lambda *_: calls.__setitem__(name, calls.get(name, 0) + 1)

    for name, child in analog.named_children():
        child.register_forward_hook(count(name))
    analog(torch.randn(STEPS, BATCH, FEATURES))
    ends = ("l0", "l0_reverse", "l1", "l1_reverse")
    assert calls == {f"ih_{e}": 1 for e in ends} | {f"hh_{e}": STEPS for e in ends}


def test_packed_sequences_spend_no_product_on_padding(engine: str) -> None:
    analog = convert(nn.GRU(FEATURES, HIDDEN, bidirectional=True), ideal, engine=engine)
    lengths = (2, 6, 1)
    rows = {name: 0 for name, _ in analog.named_children()}

    def count(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            rows[name] += inputs[0].shape[0]

        return hook

    for name, child in analog.named_children():
        child.register_forward_pre_hook(count(name))
    analog(pack_sequence([torch.randn(n, FEATURES) for n in lengths], enforce_sorted=False))
    assert set(rows.values()) == {sum(lengths)}


def test_recurrent_keeps_attributes_flags_and_dtype(engine: str) -> None:
    layer = nn.LSTM(FEATURES, HIDDEN, num_layers=2, bidirectional=True, proj_size=3, dropout=0.1)
    layer.weight_ih_l0.requires_grad_(False)
    layer.bias_hh_l1_reverse.requires_grad_(False)
    before = torch.get_rng_state()
    analog = convert(layer.eval(), ideal, engine=engine)
    if engine == "native":
        assert torch.equal(before, torch.get_rng_state())
    assert isinstance(analog, AnalogLSTM) and not analog.training
    names = (
        "mode input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size"
    )
    for name in names.split():
        assert getattr(analog, name) == getattr(layer, name)
    analog.flatten_parameters()
    kinds = [f"{k}_l{n}{s}" for n in (0, 1) for s in ("", "_reverse") for k in ("ih", "hh", "hr")]
    assert [name for name, _ in analog.named_children()] == kinds
    assert "proj_size=3" in repr(analog)
    assert list(coverage(analog)["where"]) == ["analog"]
    if engine == "native":
        frozen = {n for n, p in analog.named_parameters() if not p.requires_grad}
        trained = {n for n in frozen if n.endswith((".weight", ".bias"))}
        assert trained == {"ih_l0.weight", "hh_l1_reverse.bias"}
    assert_close(copy.deepcopy(analog)(x := torch.randn(3, 2, FEATURES)), layer(x))


def test_float64(engine: str) -> None:
    if engine != "native":
        pytest.skip("this engine is single precision")
    layer, x = nn.GRU(FEATURES, HIDDEN).double(), torch.randn(3, 2, FEATURES).double()
    torch.testing.assert_close(convert(layer, ideal)(x)[0], layer(x)[0], rtol=0, atol=1e-12)
    layer, x = nn.MultiheadAttention(8, 2).double(), torch.randn(3, 2, 8).double()
    torch.testing.assert_close(convert(layer, ideal)(x, x, x), layer(x, x, x), rtol=0, atol=1e-12)


def test_dropout_acts_between_layers_in_training_only(engine: str) -> None:
    layer = nn.LSTM(FEATURES, HIDDEN, num_layers=2, dropout=0.5)
    analog = convert(layer, ideal, engine=engine)
    x = torch.randn(STEPS, BATCH, FEATURES)
    states = [analog(x)[1][0] for _ in range(2)]
    assert torch.equal(states[0][0], states[1][0])
    assert not torch.equal(states[0][1], states[1][1])
    assert_close(analog.eval()(x), layer.eval()(x))


CELLS: dict[str, Callable[..., nn.RNNCellBase]] = {
    "lstm": nn.LSTMCell,
    "gru": nn.GRUCell,
    "tanh": nn.RNNCell,
    "relu": lambda *args, **options: nn.RNNCell(*args, nonlinearity="relu", **options),
}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("front", [(), (BATCH,)])
@pytest.mark.parametrize("with_state", [True, False])
@pytest.mark.parametrize("kind", CELLS)
def test_cell_equals_digital(
    engine: str, kind: str, with_state: bool, front: tuple[int, ...], bias: bool
) -> None:
    cell = CELLS[kind](FEATURES, HIDDEN, bias=bias)
    inputs = [torch.randn(*front, FEATURES)]
    if with_state:
        inputs += [torch.randn(*front, HIDDEN) for _ in range(2 if kind == "lstm" else 1)]
    analog = check_equal(cell, engine, run_recurrent, *inputs)
    assert [name for name, _ in analog.named_children()] == ["ih", "hh"]


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
    """A mask that leaves every target at least its first source."""
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
            if "bias" in name:  # torch starts them at 0, where a wrong split shows nothing
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

    def call(module: nn.Module, given: list[Tensor]) -> Any:
        three = given if len(given) == 3 else given * 3
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

    def call(module: nn.Module, given: list[Tensor]) -> Tensor:
        x = given[0] if batch_first else given[0].transpose(0, 1)
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


def calls_of(model: nn.Module, run: Callable[[], Any]) -> set[str]:
    """The layers with a matrix whose forward runs."""
    called: set[str] = set()
    handles = [
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: called.add(name))
        for name in matrices_of(model)
    ]
    run()
    for handle in handles:
        handle.remove()
    return called


@pytest.mark.parametrize("exclude", [(), ("*self_attn",), ("*linear1", "*linear2")])
def test_encoder_in_eval_mode_does_not_bypass_the_chip(
    engine: str, exclude: tuple[str, ...]
) -> None:
    """Hooks alone would switch torch's fast path off, so the output without them must show the
    chip too."""
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
            wanted = model(x, src_key_padding_mask=mask)
            got = analog(x, src_key_padding_mask=mask)
            real = slice(None) if mask is None else ~mask
            assert float((got - wanted)[real].std()) > 1e-3 * float(wanted[real].std())


def test_digital_encoders_keep_their_fast_path(engine: str) -> None:
    model = nn.ModuleDict(
        {"kept": nn.TransformerEncoder(encoder_layer(), 1), "fc": encoder_layer()}
    )
    analog = convert(model, ideal, engine=engine, exclude=["kept"])
    kept, converted = analog["kept"], analog["fc"]
    assert kept.use_nested_tensor and kept.layers[0].activation_relu_or_gelu == 1
    assert converted.activation_relu_or_gelu == 0


def test_no_chip_noise_is_lost_in_recurrence(engine: str) -> None:
    """On one chip every matrix of a bidirectional LSTM is called, and a seed makes one chip."""
    if engine != "native":
        pytest.skip("the paper's standard model needs this engine's slowest tile")
    layer = nn.LSTM(FEATURES, HIDDEN, bidirectional=True, proj_size=3).eval()
    analog = convert(layer, rasch2023, engine=engine)
    x = torch.randn(STEPS, BATCH, FEATURES)
    with torch.no_grad():
        calibrate(analog, [x])
        program(analog, seed=1)
        assert calls_of(analog, lambda: analog(x)) == {
            f"{kind}_l0{suffix}" for kind in ("ih", "hh", "hr") for suffix in ("", "_reverse")
        }
        out = analog(x)[0]
    assert out.shape == (STEPS, BATCH, 6) and not torch.allclose(out, layer(x)[0])


# --- errors ---


def test_wrong_recurrent_shapes() -> None:
    lstm = convert(nn.LSTM(FEATURES, HIDDEN, proj_size=3), ideal)
    x = torch.randn(STEPS, BATCH, FEATURES)
    h, c = torch.zeros(1, BATCH, 3), torch.zeros(1, BATCH, HIDDEN)
    with pytest.raises(ShapeError, match=r"\(6, 4, 4\); allowed: \[steps, batch, 5\]"):
        lstm(x[..., 1:])
    with pytest.raises(ShapeError, match="allowed"):
        lstm(x[0, 0])
    with pytest.raises(ShapeError, match="no time step"):
        lstm(x[:0])
    with pytest.raises(ShapeError, match=r"packed \[steps, 5\]"):
        lstm(pack_sequence([x[:, 0, 1:]]))
    with pytest.raises(ShapeError, match=r"initial h \(1, 4, 7\); allowed: \(1, 4, 3\)"):
        lstm(x, (c, c))
    with pytest.raises(ShapeError, match=r"initial c \(1, 3, 7\)"):
        lstm(x, (h, c[:, 1:]))
    with pytest.raises(ShapeError, match=r"allowed: \(1, 3\)"):
        lstm(x[:, 0], (h, c))
    with pytest.raises(UsageError, match="pair"):
        lstm(x, h)
    gru = convert(nn.GRU(FEATURES, HIDDEN, batch_first=True), ideal)
    with pytest.raises(ShapeError, match=r"allowed: \[batch, steps, 5\]"):
        gru(x[..., 1:])
    with pytest.raises(ShapeError, match="initial h"):
        gru(x, c)


def test_wrong_cell_shapes() -> None:
    cell = convert(nn.LSTMCell(FEATURES, HIDDEN), ideal)
    x, state = torch.randn(BATCH, FEATURES), torch.zeros(BATCH, HIDDEN)
    with pytest.raises(ShapeError, match=r"allowed: \[batch, 5\]"):
        cell(x[:, 1:])
    with pytest.raises(ShapeError, match="allowed"):
        cell(x[None])
    with pytest.raises(ShapeError, match="initial c"):
        cell(x, (state, state[1:]))
    with pytest.raises(UsageError, match="pair"):
        cell(x, state)


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
