"""A user's own layer types: handlers that serve both engines."""

from __future__ import annotations

import copy
import doctest
import functools
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import (
    calibrate,
    convert,
    coverage,
    drift,
    handles,
    load_chip,
    program,
    restore,
    save_chip,
    train,
)
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines import match
from aimc_bridge.errors import (
    AimcError,
    ConversionError,
    ShapeError,
    UsageError,
)
from aimc_bridge.training import HWATraining
from presets import ideal, rasch2023
from tests.models import DEVICES, QUIET, assert_close, linear, random

MakeLinear = Callable[..., nn.Module]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> dict[Any, match.CustomHandler]:
    """Return a table of handlers that exists during the test only."""
    table: dict[Any, match.CustomHandler] = {}
    monkeypatch.setattr(match, "_REGISTERED", table)
    return table


class LowRank(nn.Module):
    """`x -> x A^T B^T + b`, with two weight matrices and no layer inside."""

    def __init__(self, inputs: int, outputs: int, rank: int = 3) -> None:
        super().__init__()
        self.down = nn.Parameter(random(rank, inputs, seed=1))
        self.up = nn.Parameter(random(outputs, rank, seed=2))
        self.bias = nn.Parameter(random(outputs, seed=3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.down.T @ self.up.T + self.bias


class AnalogLowRank(nn.Module):
    def __init__(self, module: LowRank, make_linear: MakeLinear) -> None:
        super().__init__()
        self.down = make_linear(module.down, None)
        self.up = make_linear(module.up, module.bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.up(self.down(x))
        return y


def convert_low_rank(module: LowRank, make_linear: MakeLinear) -> nn.Module:
    return AnalogLowRank(module, make_linear)


class Gated(nn.Module):
    """Two linear layers, a normalisation and a gate: a weight matrix in no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = linear(12, 6), linear(6, 12, seed=4)
        self.norm = nn.LayerNorm(12)
        self.gate = nn.Parameter(random(12, 12, seed=5))
        self.calls = [self.first]  # This is a second way to a layer.

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.second(functional.relu(self.calls[0](x))))
        return y * torch.sigmoid(x @ self.gate.T)


def convert_gated(module: Gated, make_linear: MakeLinear) -> nn.Module:
    """Change the module in place and return it."""
    module.first = make_linear(module.first)
    module.second = make_linear(module.second)
    return module


class AnalogGate(nn.Module):
    def __init__(self, module: Gated, make_linear: MakeLinear) -> None:
        super().__init__()
        self.first, self.second = make_linear(module.first), make_linear(module.second)
        self.norm = module.norm
        self.gate = make_linear(module.gate, None)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(self.second(functional.relu(self.first(x))))
        return y * torch.sigmoid(self.gate(x))


def model() -> nn.Sequential:
    return nn.Sequential(linear(12, 12), LowRank(12, 12), Gated(), linear(12, 5, seed=6)).eval()


BOTH: dict[type[nn.Module], Any] = {LowRank: convert_low_rank, Gated: AnalogGate}
X = random(4, 12, seed=9)


# --- the example, and what registration does ------------------------------------------------------


@pytest.mark.aihwkit
def test_the_example_in_the_docstring_runs() -> None:
    result = doctest.testmod(match)
    assert result.attempted > 8 and result.failed == 0


def test_one_registration_serves_both_engines() -> None:
    with pytest.raises(ConversionError, match=r"1\.down, 1\.up \(LowRank\).*@aimc_bridge\.handles"):
        convert(model(), ideal)
    assert handles(LowRank)(convert_low_rank) is convert_low_rank
    handles(Gated)(AnalogGate)
    digital = model()
    before = copy.deepcopy(digital.state_dict())
    for engine in ("native", "aihwkit"):
        analog = convert(digital, ideal, engine=engine)
        assert_close(analog(X), digital(X), engine)
        assert isinstance(analog[1], AnalogLowRank) and isinstance(analog[2], AnalogGate)
        kind = type(analog[0])
        assert {type(m) for m in (analog[1].up, analog[2].first, analog[2].gate)} == {kind}
    assert all(torch.equal(digital.state_dict()[name], value) for name, value in before.items())


def test_handlers_for_one_conversion_only(engine: str) -> None:
    digital = model()
    analog = convert(digital, ideal, engine=engine, handlers=BOTH)
    assert_close(analog(X), digital(X), "output")
    with pytest.raises(ConversionError, match="LowRank"):
        convert(digital, ideal, engine=engine)

    def other(module: LowRank, make_linear: MakeLinear) -> nn.Module:
        return nn.Sequential(make_linear(module.up @ module.down, module.bias))

    handles(LowRank)(convert_low_rank)
    analog = convert(digital, ideal, engine=engine, handlers={**BOTH, LowRank: other})
    assert_close(analog(X), digital(X), "output")
    assert coverage(analog).set_index("module").loc["1"].reason.startswith("handler other; ")
    analog = convert(LowRank(12, 3), ideal, engine=engine)
    assert coverage(analog).reason[0] == "handler convert_low_rank"
    assert_close(analog(X), LowRank(12, 3)(X), "a whole model")


def test_the_last_registration_counts() -> None:
    handles(LowRank)(lambda module, make_linear: None)  # type: ignore[arg-type, return-value]
    handles(LowRank, Gated)(convert_low_rank)
    assert type(convert(LowRank(12, 3), ideal)) is AnalogLowRank


# --- which handler serves which layer -------------------------------------------------------------


class Plain(LowRank):
    """A subclass that keeps the forward pass."""


class Scaled(nn.Linear):
    """A subclass that changes the forward pass of a layer that the library converts."""

    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


class Doubled(LowRank):
    def forward(self, x: Tensor) -> Tensor:
        return 2.0 * super().forward(x)


def convert_scaled(module: Scaled, make_linear: MakeLinear) -> nn.Module:
    bias = None if module.bias is None else 2.0 * module.bias
    return make_linear(2.0 * module.weight, bias)


def test_subclasses(engine: str) -> None:
    handles(LowRank)(convert_low_rank)
    assert_close(convert(Plain(12, 3), ideal, engine=engine)(X), Plain(12, 3)(X), "subclass")
    with pytest.raises(
        ConversionError,
        match=r"Doubled changes the forward pass of LowRank; .*@aimc_bridge\.handles\(Doubled\)",
    ):
        convert(Doubled(12, 3), ideal, engine=engine)
    torch.manual_seed(0)
    scaled = Scaled(12, 3)
    with pytest.raises(ConversionError, match=r"forward pass of Linear; .*handles\(Scaled\)"):
        convert(scaled, ideal, engine=engine)
    analog = convert(scaled, ideal, engine=engine, handlers={Scaled: convert_scaled})
    assert_close(analog(X), scaled(X), "a user's handler for exactly this type")
    analog = convert(
        nn.Sequential(linear(12, 3), scaled.requires_grad_(False)),
        ideal,
        engine=engine,
        exclude="1",
    )
    assert list(coverage(analog)["where"]) == ["analog", "digital"]


def test_a_handler_for_a_type_of_the_librarys(engine: str) -> None:
    def halves(module: nn.Linear, make_linear: MakeLinear) -> nn.Module:
        half = module.in_features // 2
        return Halves(
            make_linear(module.weight[:, :half], None),
            make_linear(module.weight[:, half:], module.bias),
        )

    class Halves(nn.Module):
        def __init__(self, left: nn.Module, right: nn.Module) -> None:
            super().__init__()
            self.left, self.right = left, right

        def forward(self, x: Tensor) -> Tensor:
            left, right = x.chunk(2, dim=-1)
            return self.left(left) + self.right(right)  # type: ignore[no-any-return]

    digital = nn.Sequential(linear(12, 6), nn.ReLU(), linear(6, 4))
    analog = convert(digital, ideal, engine=engine, handlers={nn.Linear: halves})
    assert_close(analog(X), digital(X), "output")
    assert list(coverage(analog).tiles) == [2, 2]
    assert list(coverage(analog).reason) == ["handler halves"] * 2
    assert all(p.requires_grad for name, p in analog.named_parameters() if "weight" in name)


def test_what_a_handler_would_not_run_is_refused(engine: str) -> None:
    hooked, wrapped = LowRank(12, 3), LowRank(12, 3)
    hooked.register_forward_hook(lambda *_: None)
    wrapped.forward = lambda x: x  # type: ignore[method-assign]
    own = LowRank(12, 3)
    nn.utils.parametrize.register_parametrization(own, "up", nn.Tanh())
    for layer, message in (
        (hooked, "forward hooks"),
        (wrapped, "changes the forward pass"),
        (own, "remove_parametrizations"),
    ):
        with pytest.raises(ConversionError, match=message):
            convert(layer, ideal, engine=engine, handlers=BOTH)
    gated = Gated()
    gated.first.register_forward_hook(lambda *_: None)
    with pytest.raises(
        ConversionError, match="handler convert_gated of the model: Linear has forward hooks"
    ):
        convert(gated, ideal, engine=engine, handlers={Gated: convert_gated}, strict=False)


# --- coverage, strict, exclude, overrides ---------------------------------------------------------


def test_coverage_says_who_converted_what(engine: str) -> None:
    table = coverage(convert(model(), ideal, engine=engine, handlers=BOTH)).set_index("module")
    assert list(table.index) == ["0", "1", "2", "2.norm", "3"]
    assert table.loc["1"].to_dict() == {
        "type": "LowRank",
        "parameters": 36 + 36 + 12,
        "where": "analog",
        "tiles": 2,
        "reason": "handler convert_low_rank",
    }
    assert (table.loc["2"].tiles, table.loc["2"].reason) == (3, "handler AnalogGate")
    assert (table.loc["2.norm"]["where"], table.loc["2.norm"].reason) == (
        "digital",
        "normalisation",
    )
    assert table.parameters.sum() == sum(p.numel() for p in model().parameters())


def test_a_weight_matrix_that_a_handler_leaves_digital(engine: str) -> None:
    handlers = {LowRank: convert_low_rank, Gated: convert_gated}
    digital = model()
    with pytest.raises(
        ConversionError,
        match=r"2\.gate \(Gated, left digital by handler convert_gated\);.*\[\"2\.gate\"\]$",
    ) as error:
        convert(digital, ideal, engine=engine, handlers=handlers)
    assert "convert them there with make_linear" in str(error.value)
    assert "write a handler" not in str(error.value)
    analog = convert(digital, ideal, engine=engine, handlers=handlers, strict=False)
    with pytest.warns(UserWarning, match=r'exclude=\["2.gate"\]$'):
        assert_close(analog(X), digital(X), "output")
    row = coverage(analog).set_index("module").loc["2"]
    assert row.reason == "handler convert_gated; 2.gate digital"
    analog = convert(digital, ideal, engine=engine, handlers=handlers, exclude="2.gate")
    row = coverage(analog).set_index("module").loc["2"]
    assert (row["where"], row.tiles, row.reason) == ("analog", 2, "handler convert_gated")
    assert "2.gate" in dict(analog.named_parameters())

    def halfway(module: Gated, make_linear: MakeLinear) -> nn.Module:
        module.first = make_linear(module.first)
        return module

    with pytest.raises(
        ConversionError, match=r"2\.second\.weight \(Linear, left digital by .*half"
    ):
        convert(digital, ideal, engine=engine, handlers={**handlers, Gated: halfway})


def test_a_digital_matrix_under_another_name_is_known_by_its_old_one() -> None:
    class Kept(nn.Module):
        def __init__(self, module: Gated, make_linear: MakeLinear) -> None:
            super().__init__()
            self.first = make_linear(module.first)
            self.part = nn.Bilinear(2, 2, 2)
            self.part.weight = module.gate

    with pytest.raises(ConversionError, match=r"gate, part\.bias|gate \(Bilinear, left digital"):
        convert(Gated(), ideal, handlers={Gated: Kept})
    table = coverage(convert(Gated(), ideal, handlers={Gated: Kept}, exclude="gate"))
    assert table.set_index("module").loc["part"].reason == "excluded by name"


def test_exclude_and_overrides_reach_parts(engine: str) -> None:
    digital, other = model(), ideal.change(max_rows=3, why="test")
    handlers = {LowRank: convert_low_rank, Gated: AnalogGate}
    analog = convert(digital, ideal, engine=engine, handlers=handlers, exclude="2.first")
    assert type(analog[2].first) is nn.Linear
    table = coverage(analog).set_index("module")
    assert table.loc["2.first"].reason == "excluded by '2.first'"
    assert table.loc["2"].tiles == 2
    assert_close(analog(X), digital(X), "output")
    whole = convert(digital, ideal, engine=engine, handlers=handlers, exclude=["1", "2"])
    assert isinstance(whole[1], LowRank) and isinstance(whole[2], Gated)
    analog = convert(
        digital, ideal, engine=engine, handlers=handlers, overrides={"1": other, "2.second": other}
    )
    table = coverage(analog).set_index("module")
    assert table.loc["1"].reason == f"preset {other}; handler convert_low_rank"
    assert table.loc["2"].reason == f"second: preset {other}; handler AnalogGate"
    presets = {name: matrix.preset for name, matrix in matrices_of(analog).items()}
    assert {name for name, preset in presets.items() if preset == other} == {
        "1.down",
        "1.up",
        "2.second",
    }


def test_all_of_a_layer_excluded_by_its_parts() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = linear(12, 12)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            return y

    def convert_pair(module: Pair, make_linear: MakeLinear) -> nn.Module:
        module.fc = make_linear(module.fc)  # type: ignore[assignment]
        return module

    analog = convert(
        nn.Sequential(Pair(), linear(12, 3)), ideal, handlers={Pair: convert_pair}, exclude="0.fc"
    )
    assert list(coverage(analog).module) == ["0.fc", "1"]
    assert list(coverage(analog)["where"]) == ["digital", "analog"]


def test_a_dropped_bias_is_seen_in_coverage(engine: str) -> None:
    def forgetful(module: LowRank, make_linear: MakeLinear) -> nn.Module:
        return nn.Sequential(make_linear(module.down), make_linear(module.up))

    analog = convert(LowRank(12, 5), ideal, engine=engine, handlers={LowRank: forgetful})
    assert coverage(analog).reason[0] == "handler forgetful; 51 parameters of 56"
    assert coverage(analog).parameters[0] == 51


def test_other_ways_to_a_part_lead_to_the_analog_one(engine: str) -> None:
    digital = nn.Sequential(Gated(), linear(12, 3)).eval()
    digital.also = [digital[0].second]  # type: ignore[assignment]
    handlers = {Gated: convert_gated}
    analog = convert(digital, ideal, engine=engine, handlers=handlers, strict=False)
    assert analog[0].calls[0] is analog[0].first and analog.also[0] is analog[0].second
    with pytest.warns(UserWarning, match="mm with '0.gate'"):
        assert_close(analog(X), digital(X), "output")


# --- a handler's arguments, and what it must not do -----------------------------------------------

WRONG: dict[str, tuple[Any, type[AimcError], str]] = {
    "nothing": (lambda m, make: None, ConversionError, "returned a NoneType; allowed: a torch.nn"),
    "the layer as it is": (lambda m, make: m, ConversionError, "without an analog layer; make its"),
    "out of the tree": (
        lambda m, make: [make(m.down), nn.Sequential(make(m.up))][1],
        ConversionError,
        "made 2 analog layers, of which 1 are not in the module tree of the Sequential",
    ),
    "three dimensions": (
        lambda m, make: make(m.down[None]),
        ShapeError,
        r"weight \(1, 3, 12\); allowed: a weight \[out, in\]",
    ),
    "a bias of another size": (
        lambda m, make: make(m.down, m.bias),
        ShapeError,
        r"weight \(3, 12\) with bias \(5,\); allowed: as many biases",
    ),
    "a matrix as bias": (lambda m, make: make(m.down, m.up), ShapeError, r"bias \(5, 3\); allowed"),
    "no tensor": (lambda m, make: make("down"), UsageError, "weight is a str; allowed: a weight"),
    "a convolution": (
        lambda m, make: make(nn.Conv2d(3, 3, 3)),
        UsageError,
        "weight is a Conv2d; allowed: .*or a whole nn.Linear",
    ),
    "two biases": (
        lambda m, make: make(nn.Linear(3, 5), m.bias),
        UsageError,
        "the layer has its bias itself",
    ),
    "integers": (
        lambda m, make: make(m.down.detach().to(torch.int8)),
        ConversionError,
        "numbers of torch.int8; allowed: floating point, so dequantise first",
    ),
    "two dtypes": (
        lambda m, make: make(m.up, m.bias.double()),
        ConversionError,
        "weight of torch.float32 on cpu with bias of torch.float64 on cpu; allowed: one dtype",
    ),
    "not finite": (lambda m, make: make(m.down / 0.0), ConversionError, "NaN, infinite"),
    "another forward": (
        lambda m, make: make(Scaled(12, 3)),
        ConversionError,
        "Scaled changes the forward pass of Linear",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_handler_is_told_what_is_wrong(engine: str, case: str) -> None:
    function, error, message = WRONG[case]
    digital = nn.Sequential(linear(12, 12), LowRank(12, 5))
    with pytest.raises(error, match=message) as caught:
        convert(digital, ideal, engine=engine, handlers={LowRank: function})
    assert str(caught.value).startswith("handler <lambda> of '1'")


def test_an_error_of_the_handlers_own_is_its_own() -> None:
    def fails(module: LowRank, make_linear: MakeLinear) -> nn.Module:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        convert(LowRank(12, 5), ideal, handlers={LowRank: fails})


def test_only_layer_types_and_functions_of_two_arguments() -> None:
    for wrong in (LowRank(12, 3), convert_low_rank, "LowRank", int, nn.Module):
        with pytest.raises(UsageError, match=r"handles: .* is not a layer type; allowed: a class"):
            handles(wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match=r"handlers: .* is not a layer type; .*handlers=\{My"):
            convert(model(), ideal, handlers={wrong: convert_low_rank})  # type: ignore[dict-item]
    with pytest.raises(UsageError, match=r"names no layer type; allowed: @handles\(MyLinear\)"):
        handles()
    for function in (3, None, lambda module: module, lambda a, b, c: a):
        with pytest.raises(UsageError, match=r"handles: .* cannot handle a layer; allowed: a fun"):
            handles(LowRank)(function)  # type: ignore[type-var]
        with pytest.raises(UsageError, match="handlers: .* cannot handle a layer"):
            convert(model(), ideal, handlers={LowRank: function})  # type: ignore[dict-item]
    assert match.registered() == {}
    with pytest.raises(UsageError, match="handlers is a list; allowed: a dict"):
        convert(model(), ideal, handlers=[LowRank])  # type: ignore[arg-type]
    handles(LowRank)(functools.partial(lambda rank, m, make: convert_low_rank(m, make), 3))
    assert "handler functools.partial" in coverage(convert(LowRank(12, 3), ideal)).reason[0]


def test_modes_and_gradient_flags_are_kept(engine: str) -> None:
    digital = nn.Sequential(LowRank(12, 12), Gated(), linear(12, 3)).train()
    digital[1].eval()
    digital[1].norm.train()
    digital[0].down.requires_grad_(False)
    digital[1].first.weight.requires_grad_(False)

    def by_data(module: LowRank, make_linear: MakeLinear) -> nn.Module:
        down, up = module.down.data, module.up.data  # This is a common way to write it.
        return nn.ModuleDict({"down": make_linear(down), "up": make_linear(up, module.bias.data)})

    for handler in (convert_low_rank, by_data):
        handlers = {LowRank: handler, Gated: AnalogGate}
        with torch.no_grad():
            analog = convert(digital, ideal, engine=engine, handlers=handlers)
        assert all(module.training for module in analog[0].modules())
        modes = {name: module.training for name, module in analog[1].named_modules()}
        assert modes.pop("norm") is True and not any(modes.values())
        trainable = {name: m.trainable() for name, m in matrices_of(analog).items()}
        assert [name for name, learns in trainable.items() if not learns] == ["0.down", "1.first"]
        bias = matrices_of(analog)["0.up"].bias()
        assert bias is not None and bias.requires_grad


def test_inference_mode_leaves_no_trace(engine: str) -> None:
    digital = nn.Sequential(LowRank(12, 5)).eval()
    with torch.inference_mode():
        analog = convert(digital, ideal, engine=engine, handlers=BOTH)
    assert not any(p.is_inference() for p in analog.parameters())
    assert_close(analog(X), digital(X), "output")


# --- life after conversion ------------------------------------------------------------------------


@pytest.fixture
def analog(engine: str) -> Iterator[nn.Module]:
    preset = QUIET if engine == "native" else DEVICES
    converted = convert(model(), preset, engine=engine, handlers=BOTH).eval()
    if engine == "native":
        calibrate(converted, [X])
    yield converted


def test_chips_are_saved_and_loaded(analog: nn.Module, tmp_path: Path) -> None:
    clean = analog(X)
    program(analog, seed=7)
    drift(analog, "1h")
    held = analog(X)
    assert not torch.equal(held, clean)
    save_chip(analog, tmp_path / "chip.safetensors")
    restore(analog)
    assert torch.equal(analog(X), clean)
    load_chip(analog, tmp_path / "chip.safetensors")
    assert torch.equal(analog(X), held)
    names = set(matrices_of(analog))
    assert names == {"0", "1.down", "1.up", "2.first", "2.second", "2.gate", "3"}


def test_copies_and_pickles(analog: nn.Module) -> None:
    program(analog, seed=3)
    drift(analog, 60.0)
    held = analog(X)
    assert torch.equal(copy.deepcopy(analog)(X), held)
    back = pickle.loads(pickle.dumps(analog))
    assert torch.equal(back(X), held)
    restore(back)
    assert not torch.equal(back(X), held)
    file = io.BytesIO()
    restore(analog)
    torch.save(analog.state_dict(), file)
    file.seek(0)
    before = back(X)
    back.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(back(X), before)


def test_training_reaches_the_layers_of_a_handler(engine: str) -> None:
    preset = rasch2023 if engine == "native" else DEVICES
    converted = convert(model(), preset, engine=engine, handlers=BOTH)
    before = {name: matrix.clean_weight() for name, matrix in matrices_of(converted).items()}
    recipe = HWATraining.for_(rasch2023, "lstm").override(
        epochs=1, ramp_batches=0, batch_size=4, learning_rate=0.1, lr_drop_epochs=()
    )
    loss: Callable[[nn.Module, Tensor], Tensor] = lambda m, x: m(x).square().mean()  # noqa: E731
    train(converted, [X, X], loss, recipe=recipe, progress=False)
    for name, matrix in matrices_of(converted).items():
        assert not torch.equal(matrix.clean_weight(), before[name]), name
