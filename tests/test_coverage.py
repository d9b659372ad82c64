"""Messages of conversion: coverage, excluded layers, overrides, refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import convert, coverage
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines import base as engines
from aimc_bridge.errors import CapabilityError, ConversionError, UnknownNameError, UsageError
from aimc_bridge.spec import Preset
from presets import ideal
from tests.models import (
    assert_close,
    linear,
    mlp,
    random,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class ScaledLinear(nn.Linear):
    def forward(self, input: Tensor) -> Tensor:
        return 2.0 * super().forward(input)


# --- messages ---


def test_coverage_tells_the_truth(engine: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position = nn.Parameter(torch.zeros(7, 8))
            self.embedding = nn.Embedding(30, 8)
            self.lstm = nn.LSTM(8, 9)
            self.norm = nn.LayerNorm((2, 9))
            self.wide = nn.Linear(700, 600)
            self.conv = nn.Conv1d(360, 1040, 3, groups=2)
            self.head = nn.Linear(9, 4)

    model = Net()
    analog = convert(model, ideal, engine=engine, exclude=["head", "position"])
    table = coverage(analog)
    assert list(table.columns) == ["module", "type", "parameters", "where", "tiles", "reason"]
    assert table.parameters.sum() == sum(p.numel() for p in model.parameters())
    rows = {row.module: row for row in table.itertuples()}
    assert rows[""].where == "digital" and rows[""].reason == "excluded by name"
    assert rows["embedding"].reason == "embedding" and rows["norm"].reason == "normalisation"
    assert rows["head"].reason == "excluded by 'head'"
    expected = {"lstm": 2, "wide": 2 * 2, "conv": 2 * 2 * 2}
    assert {n: r.tiles for n, r in rows.items() if r.tiles} == expected
    assert {n for n, r in rows.items() if r.where == "analog"} == set(expected)
    total = sum(m.grid.tiles for m in matrices_of(analog).values())
    assert total == table.tiles.sum()


def test_coverage_needs_a_converted_model() -> None:
    with pytest.raises(CapabilityError, match=r"call convert\(model, preset\) first"):
        coverage(mlp())


def test_tied_linear_layers_are_told(engine: str) -> None:
    model = nn.Sequential(linear(6, 6), linear(6, 6))
    model[1].weight = model[0].weight
    table = coverage(convert(model, ideal, engine=engine)).set_index("module")
    assert table.loc["0"].reason == "was tied to 1.weight: from now on each has its own copy"
    assert table.loc["1"].reason == "was tied to 0.weight: from now on each has its own copy"


def test_one_layer_under_two_names(engine: str) -> None:
    model = nn.ModuleDict({"a": linear(6, 6)})
    model["b"] = model["a"]
    analog = convert(model, ideal, engine=engine)
    assert analog["a"] is analog["b"] and type(analog["b"]) is not nn.Linear
    assert len(coverage(analog)) == len(matrices_of(analog)) == 1
    model["c"] = linear(6, 6)
    digital = convert(model, ideal, engine=engine, exclude=["b"])
    assert type(digital["a"]) is nn.Linear and digital["a"] is digital["b"]


# --- exclude, overrides, strict ---


@pytest.mark.parametrize(
    ("exclude", "digital"),
    [
        ("head", {"head"}),
        (["head"], {"head"}),
        (["body"], {"body.0", "body.2"}),
        (["body.*"], {"body.0", "body.2"}),
        (["*.0", "he?d"], {"body.0", "head"}),
    ],
)
def test_exclude(engine: str, exclude: str | list[str], digital: set[str]) -> None:
    model = nn.ModuleDict({"body": mlp(), "head": linear(5, 3)})
    table = coverage(convert(model, ideal, engine=engine, exclude=exclude))
    assert set(table[table["where"] == "digital"].module) == digital


def test_patterns_that_do_nothing_are_errors(engine: str) -> None:
    model = nn.ModuleDict({"body": mlp(), "head": linear(5, 3)})
    with pytest.raises(UsageError, match=r"'bod' matches no module; names look like: body"):
        convert(model, ideal, engine=engine, exclude=["bod"])
    with pytest.raises(UsageError, match=r"'head.weight'.*exclude the layer by its name"):
        convert(model, ideal, engine=engine, exclude=["head.weight"])
    with pytest.raises(UsageError, match=r"override 'body.1' reaches no analog layer"):
        convert(model, ideal, engine=engine, overrides={"body.1": ideal})
    with pytest.raises(UsageError, match=r"override 'head' .* earlier pattern"):
        convert(model, ideal, engine=engine, overrides={"*": ideal, "head": ideal})
    convert(model, ideal, engine=engine, exclude=["body", "body.0"])


def test_overrides(engine: str) -> None:
    other = ideal.change(max_rows=3, why="test")
    third = ideal.change(max_columns=2, why="test")
    analog = convert(mlp(), ideal, engine=engine, overrides={"2": other, "*": third})
    matrices = matrices_of(analog)
    assert matrices["0"].preset == third and matrices["2"].preset == other
    assert matrices["0"].grid.columns == (2,) * 8
    assert matrices["2"].grid.rows == (3, 3, 3, 3, 2, 2)
    table = coverage(analog).set_index("module")
    assert table.loc["2"].reason == "preset ideal with max_rows=3"
    x = random(4, 12)
    assert_close(analog(x), mlp()(x), "output")


def test_a_layer_that_its_handler_refuses_stays_digital_and_no_override_reaches_it(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handlers = engines.engine(engine).handlers.by_type
    usual = handlers[nn.Linear]

    def refusing(module: nn.Module, preset: Preset) -> nn.Module:
        if isinstance(module, nn.Linear) and module.out_features == 3:
            raise ConversionError("three outputs")
        return usual(module, preset)

    monkeypatch.setitem(handlers, nn.Linear, refusing)
    model = nn.Sequential(linear(5, 4), linear(4, 3))
    with pytest.raises(ConversionError, match=r"1 \(three outputs\)"):
        convert(model, ideal, engine=engine)
    table = coverage(convert(model, ideal, engine=engine, strict=False))
    assert list(table["where"]) == ["analog", "digital"]
    with pytest.raises(UsageError, match=r"override '1' reaches no analog layer"):
        convert(model, ideal, engine=engine, strict=False, overrides={"1": ideal})


def test_strict_names_the_layer(engine: str) -> None:
    model = nn.ModuleDict(
        {"a": linear(4, 4), "odd": nn.Bilinear(4, 4, 2), "own": ScaledLinear(4, 4)}
    )
    with pytest.raises(ConversionError) as error:
        convert(model, ideal, engine=engine)
    text = str(error.value)
    assert "odd.weight (Bilinear)" in text and "ScaledLinear changes the forward pass" in text
    assert "own" in text and "exclude" in text
    analog = convert(model, ideal, engine=engine, strict=False)
    table = coverage(analog).set_index("module")
    assert list(table["where"]) == ["analog", "digital", "digital"]
    assert table.loc["odd"].reason == "no handler"
    assert "changes the forward pass" in table.loc["own"].reason
    x = random(3, 4)
    assert torch.equal(analog["own"](x), model["own"](x))
    convert(model, ideal, engine=engine, exclude=["odd", "own"])


def test_wrapped_forward_and_parametrizations_are_not_dropped(engine: str) -> None:
    wrapped, own = linear(4, 4), linear(4, 4)
    wrapped.forward = lambda x: functional.relu(x)  # type: ignore[method-assign]
    nn.utils.parametrize.register_parametrization(own, "weight", nn.Tanh())
    model = nn.ModuleDict({"a": linear(4, 4), "wrapped": wrapped, "own": own})
    with pytest.raises(ConversionError, match="wrapped .*own .*remove_parametrizations"):
        convert(model, ideal, engine=engine)


def test_bad_models(engine: str) -> None:
    def fails(model: object, match: str, error: type[Exception] = ConversionError) -> None:
        with pytest.raises(error, match=match):
            convert(model, ideal, engine=engine)  # type: ignore[arg-type]

    for value in (float("nan"), float("inf")):
        model = mlp()
        with torch.no_grad():
            model[2].weight[0, 0] = value
        fails(model, r"'2\.weight': NaN or infinite values")
    fails(convert(mlp(), ideal, engine=engine), "converted already")
    fails(nn.Sequential(convert(mlp(), ideal, engine=engine)), "converted already")
    fails(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)), "nothing of Sequential was converted")
    fails(nn.LazyLinear(3), "no values yet")
    fails(nn.Linear(3, 3, device="meta"), "no values yet")
    fails("resnet18", "model is a str", UsageError)
    with pytest.raises(ConversionError, match="all are excluded"):
        convert(mlp(), ideal, engine=engine, exclude=["*"])


def test_bad_arguments() -> None:
    with pytest.raises(UsageError, match=r"allowed: a Preset, such as presets.get\('rasch2023'\)"):
        convert(mlp(), "rasch2023")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="allowed: a Preset"):
        convert(mlp(), ideal, overrides={"0": "hermes"})  # type: ignore[dict-item]
    with pytest.raises(UnknownNameError, match="there are: native, aihwkit"):
        convert(mlp(), ideal, engine="cuda")


def test_wrong_shapes_say_what_is_allowed() -> None:
    from aimc_bridge.errors import ShapeError

    with pytest.raises(ShapeError, match=r"input \(2, 11\); allowed: \[\.\.\., 12\]"):
        convert(linear(12, 3), ideal)(random(2, 11))
    with pytest.raises(ShapeError, match=r"allowed: \[batch, 3, 2 sizes\]"):
        convert(nn.Conv2d(3, 4, 3), ideal)(random(2, 4, 5, 5))
