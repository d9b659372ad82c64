"""Ranges from the largest inputs, if these are outliers: a warning names the layers."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert
from aimc_bridge.calibration import OUTLYING
from aimc_bridge.converted import matrices_of
from tests.models import RANGED, linear, random


def with_outlier(times: float) -> torch.Tensor:
    """Return 1,000 x 12 inputs, the largest of them `times` the 99.9 % percentile of all sizes."""
    x = random(1000, 12)
    usual = float(x.abs().flatten().sort().values[round(0.999 * x.numel()) - 1])
    # It was the largest before, so the percentile stays.
    x.view(-1)[x.abs().argmax()] = times * usual
    return x


def test_outlying_inputs_are_told(engine: str) -> None:
    """The warning names the layers, the worst first, with the ratio.

    The ranges are the largest inputs all the same.
    """
    model = nn.ModuleDict({"first": linear(12, 8), "second": linear(12, 8)})

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = model

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.layers["first"](x) + self.layers["second"](y)
            return out

    analog = convert(Both(), RANGED, engine=engine)
    pairs = [(with_outlier(1.02 * OUTLYING), with_outlier(2.5 * OUTLYING))]
    message = (
        r"largest inputs of 2 of 2 layers .* 99\.9 % percentile: "
        r"layers\.second \(15 times\), layers\.first \(6 times\).*\"percentile\""
    )
    with pytest.warns(UserWarning, match=message):
        calibrate(analog, pairs)
    first, second = (matrix.input_ranges() for matrix in matrices_of(analog).values())
    assert first is not None and second is not None
    assert float(first) == pytest.approx(float(pairs[0][0].abs().max()))
    assert float(second) == pytest.approx(float(pairs[0][1].abs().max()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in ("percentile", "std"):
            calibrate(analog, pairs, method)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(with_outlier(0.98 * OUTLYING), id="within"),
        pytest.param(torch.eye(1200)[:, :12], id="mostly zero"),
        pytest.param(torch.zeros(50, 12), id="nothing"),
    ],
)
def test_inputs_that_are_no_outliers(engine: str, x: torch.Tensor) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        calibrate(convert(linear(12, 8), RANGED, engine=engine), [x])
