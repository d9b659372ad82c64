"""The digital products of a pass, measured below Python, whoever holds the layer."""

from __future__ import annotations

import collections
import dataclasses
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import calibrate, convert, coverage, drift, program
from aimc_bridge.errors import UsageError
from aimc_bridge.products import Measurement
from aimc_bridge.watching import watched
from presets import ideal, rasch2023
from tests.models import linear, random


def measured(model: nn.Module, *inputs: Any, engine: str = "native") -> Measurement:
    analog = convert(model, rasch2023, engine=engine, strict=False)
    with watched(analog) as measurement:
        analog(*inputs)
    return measurement


class Holding(nn.Module):
    """A converted layer, and another layer that is called through `way`."""

    def __init__(self, way: Callable[[nn.Module, nn.Linear], Any]) -> None:
        super().__init__()
        self.seen = linear(8, 8)
        self.way = way(self, linear(8, 8, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.way(self.seen(x))
        return result


@dataclasses.dataclass
class Box:
    layer: Any

    def __call__(self, x: Tensor) -> Any:
        return self.layer(x)


def through_a_function(model: nn.Module, layer: nn.Linear) -> Any:
    def call(x: Tensor) -> Any:
        return layer(x)

    return call


def through_a_deque(model: nn.Module, layer: nn.Linear) -> Any:
    held = collections.deque([layer])
    return lambda x: held[0](x)


def through_an_object(model: nn.Module, layer: nn.Linear) -> Any:
    held = types.SimpleNamespace(layer=layer)
    return lambda x: held.layer(x)


def through_a_hook(model: nn.Module, layer: nn.Linear) -> Any:
    inner = nn.Identity()
    inner.register_forward_hook(lambda module, args, output: layer(output))
    return inner


WAYS = {
    "lambda": lambda model, layer: lambda x: layer(x),
    "nested function": through_a_function,
    "hook": through_a_hook,
    "dataclass": lambda model, layer: Box(layer),
    "plain object": through_an_object,
    "deque": through_a_deque,
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_layer_reached_without_the_module_tree_is_seen(way: Any, engine: str) -> None:
    (product,) = measured(Holding(way), random(5, 8), engine=engine).digital
    assert (product.operation, product.shape) == ("addmm", (8, 8))
    assert product.kind == "Linear" and product.place.startswith("test_products.py:")
    assert (product.calls, product.macs) == (1, 5 * 8 * 8)


def test_a_layer_reached_both_ways(engine: str) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = layer = linear(8, 8)
            self.again = lambda x: layer(x)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.again(self.layer(x))
            return result

    measurement = measured(Both(), random(5, 8), engine=engine)
    assert measurement.analog["layer"].calls == 1 and not measurement.unreached
    assert len(measurement.digital) == 1


class Uses(nn.Module):
    """A converted layer, then anything."""

    def __init__(self, rest: Callable[[Any, Tensor], Any], **parts: Any) -> None:
        super().__init__()
        self.layer = linear(8, 8)
        for name, part in parts.items():
            if isinstance(part, nn.Module):
                self.add_module(name, part)
            elif isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.register_buffer(name, part)
        self.rest = rest

    def forward(self, x: Tensor) -> Any:
        return self.rest(self, self.layer(x))


WEIGHTS = {
    "weight of a layer": (
        lambda m, x: functional.linear(x, m.other.weight),
        {"other": linear(8, 6)},
        ("mm", "other.weight"),
    ),
    "weight of an embedding": (
        lambda m, x: functional.linear(x, m.other.weight),
        {"other": nn.Embedding(6, 8)},
        ("mm", "other.weight"),
    ),
    "buffer": (lambda m, x: x @ m.other, {"other": random(8, 6)}, ("mm", "other")),
    "view of a buffer": (
        lambda m, x: x @ m.other.view(6, 8).t(),
        {"other": random(48)},
        ("mm", "other"),
    ),
    "made from a parameter": (
        lambda m, x: functional.linear(x, m.other / m.other.std()),
        {"other": nn.Parameter(random(6, 8))},
        ("mm", "other"),
    ),
    "constant": (lambda m, x: x @ torch.ones(8, 6), {}, ("mm", "")),
    "einsum": (
        lambda m, x: torch.einsum("bi,oi->bo", x, m.other),
        {"other": nn.Parameter(random(6, 8))},
        ("bmm", "other"),
    ),
    "keys of a memory": (
        lambda m, x: functional.scaled_dot_product_attention(x[:, None], m.other, m.other),
        {"other": nn.Parameter(random(5, 3, 8))},
        None,
    ),
    "convolution": (
        lambda m, x: functional.conv1d(x[:, None], m.other),
        {"other": random(2, 1, 3)},
        ("convolution", "other"),
    ),
    "bilinear": (
        lambda m, x: functional.bilinear(x, x, m.other),
        {"other": nn.Parameter(random(3, 8, 8))},
        ("_trilinear", "other"),
    ),
    "cache": (
        lambda m, x: m.cache.copy_(x) @ m.other,
        {"cache": torch.zeros(5, 8), "other": random(8, 6)},
        ("mm", "other"),
    ),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_product_with_something_that_inputs_do_not_reach(name: str) -> None:
    rest, parts, expected = WEIGHTS[name]
    found = measured(Uses(rest, **parts), random(5, 8)).digital
    if expected is None:  # how attention is computed differs between machines
        assert found and all(product.place.startswith("test_products.py") for product in found)
        return
    assert [(product.operation, product.holder) for product in found] == [expected]


CONSTANT = random(8, 8)
PRODUCTS = {  # seen whole in inference mode
    "einsum": lambda x, w: torch.einsum("bi,ij->bj", x, w),
    "tensordot": lambda x, w: torch.tensordot(x, w, 1),
    "inner": torch.inner,
    "chain": lambda x, w: torch.linalg.multi_dot([x, w, w]),
    "weighted bag": lambda x, w: functional.embedding_bag(
        torch.arange(8).repeat(5, 1), w, per_sample_weights=x, mode="sum"
    ),
    "LSTM cell": lambda x, w: torch.lstm_cell(
        x, (torch.zeros(5, 8), torch.zeros(5, 8)), w.repeat(4, 1), w.repeat(4, 1)
    ),
    "GRU cell": lambda x, w: torch.gru_cell(x, torch.zeros(5, 8), w.repeat(3, 1), w.repeat(3, 1)),
    "RNN cell": lambda x, w: torch.rnn_tanh_cell(x, torch.zeros(5, 8), w, w),
    "convolution": lambda x, w: functional.conv1d(x[:, None], w[:1, None, :3], padding="same"),
    "addmm_": lambda x, w: torch.zeros(5, 8).addmm_(x, w),
    "baddbmm_": lambda x, w: torch.zeros(1, 5, 8).baddbmm_(x[None], w[None]),
    "addmv_": lambda x, w: torch.zeros(8).addmv_(w, x[0]),
    "sparse": lambda x, w: torch.sparse.mm(w.to_sparse_csr(), x.t().contiguous(), "sum"),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.filterwarnings("ignore:Sparse")
def test_every_way_to_write_a_product_is_seen(name: str, inference: bool) -> None:
    model = Uses(lambda m, x: PRODUCTS[name](x, CONSTANT))
    with torch.inference_mode(inference):
        assert measured(model, random(5, 8)).digital


def test_noise_that_a_model_draws_counts_as_an_input() -> None:
    def rest(model: Any, x: Tensor) -> Tensor:
        noise = torch.empty(5, 8).normal_() + torch.randn(5, 8)
        return torch.tanh(noise) @ model.layer(noise).T @ x + noise @ model.other

    (product,) = measured(Uses(rest, other=random(8, 8)), random(5, 8)).digital
    assert product.holder == "other"


def test_noise_of_weights_is_no_input() -> None:
    def rest(model: Any, x: Tensor) -> Tensor:
        return x @ (model.mean + 0.1 * torch.randn_like(model.mean))

    (product,) = measured(Uses(rest, mean=nn.Parameter(random(8, 8))), random(5, 8)).digital
    assert product.holder == "mean"


@pytest.mark.parametrize("engine", ["native", "aihwkit"])
@pytest.mark.parametrize(
    ("rest", "layers"),
    [
        (lambda m, x: functional.linear(x, torch.cat([m.a.weight, m.b.weight])), ["a", "b"]),
        (lambda m, x: x[:, :1] @ m.one.weight.T, ["one"]),
        (lambda m, x: (x[:, None] * m.b.weight).sum(-1), ["b"]),
        (lambda m, x: x * m.a.bias + m.b(x), []),
    ],
)
def test_weights_of_analog_layers_are_seen_in_any_product(
    rest: Any, layers: list[str], engine: str
) -> None:
    model = Uses(rest, a=linear(8, 8), b=linear(8, 8), one=linear(1, 8))
    found = measured(model, random(5, 8), engine=engine).digital
    assert [product.holder.partition(".")[0] for product in found] == layers


@dataclasses.dataclass(slots=True)
class Slots:
    x: Tensor


@pytest.mark.parametrize("batch", [Slots(random(5, 8)), collections.deque([random(5, 8)])])
def test_inputs_in_slots_and_deques(batch: Any) -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = linear(8, 8)

        def forward(self, batch: Any) -> Tensor:
            x = batch.x if isinstance(batch, Slots) else batch[0]
            result: Tensor = self.layer(x @ CONSTANT)
            return result

    assert measured(Reads(), batch).digital


RIGHT = {
    "attention": lambda m, x: (x @ x.T).softmax(-1) @ x,
    "attention with a projected table": lambda m, x: x @ m.layer(m.table).T,
    "scaling": lambda m, x: x * m.scale + m.scale,
    "outer product": lambda m, x: x[:, :, None] @ m.scale[:1, None],
    "rotary table": lambda m, x: x + (torch.arange(5.0)[:, None] @ torch.ones(1, 8)).cos(),
    "product of constants": lambda m, x: x + (m.table @ m.table.T)[:5],
    "lookup": lambda m, x: x + m.embedding((x[:, 0] > 0).long()),
    "written over": lambda m, x: m.cache.copy_(x) @ m.cache.clone().T,
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_digital_by_right_is_no_row(name: str) -> None:
    model = Uses(
        RIGHT[name],
        table=nn.Parameter(random(8, 8)),
        scale=nn.Parameter(random(8)),
        embedding=nn.Embedding(6, 8),
        cache=torch.zeros(5, 8),
    )
    assert measured(model, random(5, 8)).digital == []


def test_a_constant_in_memory_that_inputs_had_before_is_a_constant() -> None:
    """Marks belong to storages that live, not to addresses."""

    def rest(model: nn.Module, x: Tensor) -> Any:
        for _ in range(50):
            x = x * 1.0  # the memory of the last product is free again
            constant = torch.ones(5, 8)
            _ = constant @ constant.T  # of constants alone: no row
        return x @ torch.ones(8, 8)

    assert len(measured(Uses(rest), random(5, 8)).digital) == 1


def test_quantised_weights_are_seen() -> None:
    with pytest.warns((DeprecationWarning, UserWarning)):  # from torch 2.14 on the latter
        quantised = torch.ao.quantization.quantize_dynamic(
            nn.Sequential(linear(8, 6)), {nn.Linear}, dtype=torch.qint8
        )
    (product,) = measured(Uses(lambda m, x: m.other(x), other=quantised), random(5, 8)).digital
    assert product.operation == "linear_dynamic" and product.modules[-1] == "other.0"


def test_work_on_tiles_is_counted(engine: str) -> None:
    """Counts against their definition: vectors x tiles, weights, outputs per row of tiles."""
    preset = rasch2023.change(max_rows=100, max_columns=7, why="several tiles")
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), linear(8 * 36, 16)
    )
    analog = convert(model, preset, engine=engine)
    with watched(analog) as measurement:
        analog(random(4, 3, 6, 6))
    conv, last = measurement.analog["0"], measurement.analog["3"]
    pixels = 4 * 36
    assert (conv.calls, conv.mvms) == (1, pixels * 2)  # 27 rows; 8 columns on two tiles
    assert (conv.macs, conv.adc_conversions) == (pixels * 27 * 8, pixels * 8)
    assert (last.calls, last.mvms) == (1, 4 * 3 * 3)  # 288 rows, 16 columns: 3 x 3 tiles
    assert (last.macs, last.adc_conversions) == (4 * 288 * 16, 4 * 3 * 16)


def test_grouped_convolutions_and_recurrent_layers_are_counted(engine: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(4, 8, 3, groups=2)
            self.lstm = nn.LSTM(8, 5, batch_first=True)

        def forward(self, x: Tensor) -> Any:
            return self.lstm(self.conv(x).transpose(1, 2))[0]

    analog = measured(Net(), random(2, 4, 9), engine=engine).analog
    assert (analog["conv"].mvms, analog["conv"].macs) == (2 * 7 * 2, 2 * 7 * 8 * 6)
    ih, hh = (analog[f"lstm.{kind}_l0"] for kind in ("ih", "hh"))
    assert ih.macs == 2 * 7 * 20 * 8 and hh.macs == 2 * 7 * 20 * 5


def test_no_adc_converts_nothing() -> None:
    analog = convert(nn.Sequential(linear(8, 6)), ideal)
    with watched(analog) as measurement:
        analog(random(5, 8))
    assert measurement.analog["0"].macs == 5 * 48 and measurement.analog["0"].adc_conversions == 0


def test_a_layer_that_is_not_reached_is_named(engine: str) -> None:
    model = Uses(lambda m, x: x, other=linear(8, 6))
    assert measured(model, random(5, 8), engine=engine).unreached == ["other"]


def test_watching_changes_nothing(engine: str) -> None:
    model = nn.Sequential(linear(8, 8), nn.Dropout(0.5), linear(8, 4))
    analog = convert(
        model, rasch2023.change(out_noise=0.0, w_noise=0.0, why="quiet"), engine=engine
    )
    x = random(5, 8)
    calibrate(analog, [x])
    program(analog, 3)
    drift(analog, 3600.0)
    analog.eval()
    before, state = analog(x), torch.get_rng_state()
    analog[1].train()
    with watched(analog):
        analog(x)
    assert analog[1].training and not analog[0].training
    assert torch.equal(torch.get_rng_state(), state)
    analog.eval()
    assert torch.equal(analog(x), before)


def test_a_pass_that_fails_leaves_no_hooks_and_no_observer() -> None:
    def fail(model: nn.Module, x: Tensor) -> Any:
        raise ValueError("mine")

    analog = convert(Uses(fail), rasch2023, strict=False)
    with pytest.raises(ValueError, match="mine"), watched(analog):
        analog(random(5, 8))
    from torch.nn.modules import module

    assert not module._global_forward_hooks and not module._global_forward_pre_hooks
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None


# --- the public table -----------------------------------------------------------------------------


def test_coverage_of_inputs_has_the_work_and_the_digital_products(engine: str) -> None:
    model = Uses(
        lambda m, x: m.head(functional.linear(x, m.other.weight)),
        other=nn.Embedding(6, 8),
        head=linear(6, 3),
    )
    analog = convert(model, rasch2023, engine=engine, exclude=["head"])
    declared = coverage(analog)
    table = coverage(analog, random(5, 8))
    assert list(table.columns) == [
        *declared.columns,
        *("calls", "mvms", "macs", "adc_conversions"),
    ]
    assert table.iloc[: len(declared)][declared.columns].equals(declared)
    layer = table[table.module == "layer"].iloc[0]
    assert (layer.calls, layer.mvms, layer.macs, layer.adc_conversions) == (1, 5, 5 * 64, 5 * 8)
    lookup, head = table.iloc[len(declared) :].to_dict("records")
    assert "'other.weight'" in lookup["reason"] and "test_products.py:" in lookup["reason"]
    assert lookup["where"] == head["where"] == "digital" and lookup["parameters"] == 48
    assert head["module"] == "head" and head["reason"].endswith("excluded by 'head'")
    assert (head["calls"], head["macs"]) == (1, 5 * 18)


def test_coverage_refuses_inputs_that_the_model_does_not_take() -> None:
    analog = convert(nn.Sequential(linear(8, 6)), rasch2023)
    with pytest.raises(UsageError, match="forward does not take"):
        coverage(analog, {"y": random(5, 8)})
