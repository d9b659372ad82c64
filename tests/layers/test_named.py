"""Layers of timm and transformers that are known by their names; both packages are optional."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from timm.layers import (
    Conv2dSame,
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from timm.layers import Linear as TimmLinear
from torch import Tensor, nn
from transformers.models.bit.modeling_bit import WeightStandardizedConv2d
from transformers.models.falcon.modeling_falcon import FalconLinear

from aimc_bridge import convert, coverage
from aimc_bridge.errors import ConversionError
from presets import ideal
from tests.models import assert_close, random

FOLDED = "standardised weight folded in: training changes the folded one"
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "timm Linear": (lambda: TimmLinear(7, 5), (3, 7), ""),
    "FalconLinear": (lambda: FalconLinear(7, 5), (3, 7), ""),
    "Conv2dSame": (lambda: Conv2dSame(3, 6, 3, stride=2), (2, 3, 9, 8), ""),
    "Conv2dSame uneven": (lambda: Conv2dSame(4, 6, (4, 3), dilation=2, groups=2), (2, 4, 9, 8), ""),
    "StdConv2d": (lambda: StdConv2d(3, 6, 3, stride=2, bias=True), (2, 3, 8, 9), FOLDED),
    "StdConv2dSame": (lambda: StdConv2dSame(3, 6, 4, stride=2), (2, 3, 8, 9), FOLDED),
    "StdConv2dSame static": (lambda: StdConv2dSame(3, 6, 3, eps=1e-3), (2, 3, 8, 9), FOLDED),
    "ScaledStdConv2d": (
        lambda: ScaledStdConv2d(3, 6, 3, gamma=1.7, gain_init=0.6),
        (2, 3, 8, 9),
        FOLDED,
    ),
    "ScaledStdConv2dSame": (
        lambda: ScaledStdConv2dSame(4, 6, 3, stride=2, groups=2),
        (2, 4, 8, 9),
        FOLDED,
    ),
    "Bit": (partial(WeightStandardizedConv2d, 3, 6, 3, stride=2), (2, 3, 8, 9), FOLDED),
}


@pytest.mark.parametrize("case", LAYERS)
def test_equals_digital(engine: str, case: str) -> None:
    torch.manual_seed(0)
    make, shape, note = LAYERS[case]
    layer = make().eval()
    layer.weight.requires_grad_(False)  # type: ignore[union-attr, operator]
    analog = convert(nn.Sequential(layer), ideal, engine=engine)
    assert_close(analog(random(*shape)), layer(random(*shape)), case)
    row = coverage(analog).iloc[0]
    assert row["where"] == "analog" and row["module"] == "0" and row.reason == note
    assert row.parameters == sum(p.numel() for p in layer.parameters())
    if engine == "native":
        learns = [n for n, p in analog.named_parameters() if p.requires_grad]
        assert all("bias" in name for name in learns)


class Padded(nn.Conv2d):
    """Changes what its base's forward pass calls, not the forward pass itself."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return 2.0 * super()._conv_forward(input, weight, bias)


class Tanned(nn.Linear):
    """Has a property where its base has a parameter."""

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        return torch.tanh(self.raw)

    @weight.setter
    def weight(self, value: nn.Parameter) -> None:
        self.raw = value


class Called(nn.Linear):
    def __call__(self, x: Tensor) -> Tensor:
        return -super().__call__(x)  # type: ignore[no-any-return]


class Standardised(StdConv2d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1.0


class Renamed(nn.Linear):
    """Changes nothing that a pass runs."""

    def __init__(self, n: int) -> None:
        super().__init__(n, n)
        self.note = "mine"

    def extra_repr(self) -> str:
        return self.note


def test_subclasses_that_change_what_a_pass_runs_are_refused(engine: str) -> None:
    layers = {
        "padded": Padded(3, 4, 3),
        "called": Called(4, 4),
        "standardised": Standardised(3, 4, 3),
        "renamed": Renamed(4),
    }
    with pytest.raises(ConversionError, match="forward pass of Conv2d .by its own _conv_f") as e:
        convert(nn.ModuleDict(layers), ideal, engine=engine)
    message = str(e.value)
    assert "Called changes the forward pass of Linear (by its own __call__)" in message
    assert message.endswith('exclude=["padded", "called", "standardised"]')
    analog = convert(
        nn.ModuleDict(layers), ideal, engine=engine, exclude=["padded", "called", "standardised"]
    )
    assert list(coverage(analog)["where"]) == ["digital"] * 3 + ["analog"]
    with pytest.raises(ConversionError, match="forward pass of Linear .by its own weight"):
        convert(nn.Sequential(Tanned(3, 4)), ideal, engine=engine)
