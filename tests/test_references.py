"""Second ways to a layer: lists, dicts, methods, hooks, weights used by hand."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import convert, coverage, drift, program, sweep
from aimc_bridge.errors import ConversionError
from presets import ideal
from tests.models import DEVICES, linear, random


class Stages(nn.Module):
    """A model that calls its layers by plain containers that hold them too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second = linear(12, 16), linear(16, 5, seed=2)
        both = [self.first, self.second]
        self.stages: Any = {
            "list": both,
            "tuple": tuple(both),
            "nested": {"down": [both[0]], "up": ({"last": both[1]},)},
            "methods": [both[0].forward, both[1].forward],
        }[kind]

    def forward(self, x: Tensor) -> Tensor:
        stages = self.stages
        if isinstance(stages, dict):
            stages = (stages["down"][0], stages["up"][0]["last"])
        return stages[1](stages[0](x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", ["list", "tuple", "nested", "methods"])
def test_a_layer_in_a_container_is_the_analog_one(engine: str, kind: str) -> None:
    """The forward pass runs through the chip.

    It does so for the same layers one after another.
    """
    analog = convert(Stages(kind), DEVICES, engine=engine).eval()
    plain = nn.Sequential()
    plain.add_module("first", linear(12, 16))
    plain.add_module("second", linear(16, 5, seed=2))
    expected = convert(plain, DEVICES, engine=engine).eval()
    x = random(6, 12)
    for model in (analog, expected):
        program(model, 3)
        drift(model, "1y")
    with torch.no_grad():
        assert torch.equal(analog(x), expected(x))
        assert not torch.allclose(analog(x), Stages(kind)(x), atol=1e-3)


def test_the_given_model_keeps_its_containers() -> None:
    model = Stages("nested")
    convert(model, ideal)
    assert model.stages["down"][0] is model.first
    assert model.stages["up"][0]["last"] is model.second


def test_a_way_that_cannot_be_changed_is_refused(engine: str) -> None:
    model = Stages("list")
    model.stages = [partial(model.first.forward), model.second]
    with pytest.raises(ConversionError, match="attribute 'stages' holds a layer in a partial"):
        convert(model, DEVICES, engine=engine)
    inner = nn.MultiheadAttention(8, 2)
    holder = nn.Sequential(inner)
    holder.__dict__["last"] = [inner.out_proj]  # This is a part of a layer that is converted whole.
    with pytest.raises(ConversionError, match="attribute 'last' holds a layer"):
        convert(holder, ideal)


def test_a_layer_outside_of_the_module_tree_is_named(engine: str) -> None:
    """`parameters()` does not know it.

    A coverage report would not either.
    """
    model = nn.Sequential(linear(12, 16))
    model.__dict__["tail"] = {"last": [linear(16, 5)]}
    with pytest.raises(ConversionError, match="tail .a Linear that is not in the module tree."):
        convert(model, DEVICES, engine=engine)
    left = convert(model, DEVICES, engine=engine, strict=False)
    assert coverage(left)["where"].tolist() == ["analog"]
    model.__dict__["tail"] = [nn.ReLU(), nn.Embedding(3, 4), nn.LayerNorm(4)]
    convert(model, DEVICES, engine=engine)


def hooked(kind: str) -> nn.Module:
    model = nn.Sequential(linear(12, 16), nn.ReLU(), linear(16, 5))
    layer = model[0]
    make = {
        "hook": lambda: layer.register_forward_hook(lambda *_: None),
        "pre-hook": lambda: layer.register_forward_pre_hook(lambda *_: None),
        "backward hook": lambda: layer.register_full_backward_hook(lambda *_: None),
    }
    make[kind]()
    return model


@pytest.mark.parametrize("kind", ["hook", "pre-hook", "backward hook"])
def test_hooks_that_would_be_lost_are_refused(engine: str, kind: str) -> None:
    with pytest.raises(ConversionError, match=r"0 \(Linear has (forward|backward) (pre-)?hooks"):
        convert(hooked(kind), DEVICES, engine=engine)
    left = convert(hooked(kind), DEVICES, engine=engine, exclude="0")
    assert coverage(left)["where"].tolist() == ["digital", "analog"]


class ByHand(nn.Module):
    """A model that uses the weights of one of its layers, and calls the other."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.used = linear(12, 16), linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(x) @ self.used.weight.T  # type: ignore[no-any-return]


def test_a_sweep_warns_of_layers_that_are_never_called(engine: str) -> None:
    plain = convert(nn.Sequential(linear(12, 16)), DEVICES, engine=engine).eval()

    def size(model: nn.Module) -> float:
        with torch.no_grad():
            return float(model(random(6, 12)).abs().mean())

    sweep(plain, size, "1s", chips=2, progress=False)  # A warning would be an error.
    sweep(plain, lambda model: 1.0, "1s", chips=1, progress=False)  # This runs nothing at all.
    if engine == "aihwkit":
        return  # Its layers have no `weight` of their own to use.
    by_hand = convert(ByHand(), DEVICES, engine=engine, strict=False).eval()
    with (
        pytest.warns(UserWarning, match="outside of the tiles:\n  mm with 'used.weight'"),
        pytest.warns(UserWarning, match="never reached these analog layers: used; "),
    ):
        sweep(by_hand, size, "1s", chips=1, progress=False)
