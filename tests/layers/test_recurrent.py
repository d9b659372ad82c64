"""Recurrent layers and cells: equal to digital on an ideal chip, and really analog."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from aimc_bridge import calibrate, convert, coverage, program
from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.layers import AnalogLSTM
from presets import ideal, rasch2023
from tests.equality import assert_close, calls_of, check_equal

FEATURES, HIDDEN, STEPS, BATCH = 5, 7, 6, 4


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


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
    """Run the layer on inputs, the first `packed` of which are sequences to pack.

    The inputs after the data are initial states.
    """
    data: Any = inputs[0]
    states = inputs[1:]
    if packed:
        data, states = pack_sequence(inputs[:packed], enforce_sorted=False), inputs[packed:]
    if not states:
        return layer(data)
    return layer(data, tuple(states) if len(states) == 2 else states[0])


@pytest.mark.parametrize("shape", GIVEN)
@pytest.mark.parametrize(("kind", "options"), CASES)
def test_recurrent_equals_digital(
    engine: str, kind: str, options: dict[str, Any], shape: str
) -> None:
    layer = KINDS[kind](FEATURES, HIDDEN, **options)
    if shape.startswith("packed"):
        inputs = [torch.randn(length, FEATURES) for length in (2, 6, 1, 6, 3)]
        batch: int | None = len(inputs)
    elif shape.startswith("unbatched"):
        inputs, batch = [torch.randn(STEPS, FEATURES)], None
    else:
        front = (BATCH, STEPS) if layer.batch_first else (STEPS, BATCH)
        inputs, batch = [torch.randn(*front, FEATURES)], BATCH
    packed = len(inputs) if shape.startswith("packed") else 0
    if shape.endswith("state"):
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


def test_no_chip_noise_is_lost_in_recurrence(engine: str) -> None:
    """On one chip every matrix of a bidirectional LSTM is called.

    A seed makes one chip.
    """
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
