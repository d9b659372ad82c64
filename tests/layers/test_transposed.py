"""Transposed convolutions against torch's own, and their chips."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from aimc_bridge import calibrate, convert, coverage, drift, program
from aimc_bridge.errors import ShapeError
from presets import ideal, rasch2023
from tests.models import assert_close, random

CASES: dict[str, tuple[Any, dict[str, Any], tuple[int, ...]]] = {
    "1d": (nn.ConvTranspose1d, {"kernel_size": 3}, (9,)),
    "1d, stride": (
        nn.ConvTranspose1d,
        {"kernel_size": 4, "stride": 3, "padding": 1, "output_padding": 2},
        (7,),
    ),
    "2d": (nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "padding": 1}, (5, 4)),
    "2d, groups": (nn.ConvTranspose2d, {"kernel_size": (2, 3), "groups": 2}, (4, 5)),
    "2d, all": (
        nn.ConvTranspose2d,
        {
            **{"kernel_size": (3, 2), "stride": (2, 3), "padding": (2, 1), "groups": 2},
            **{"output_padding": (1, 2), "dilation": (2, 1), "bias": False},
        },
        (5, 6),
    ),
    "3d": (nn.ConvTranspose3d, {"kernel_size": 2, "stride": 2, "output_padding": 1}, (3, 2, 4)),
}


def layer(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    kind, options, space = CASES[name]
    torch.manual_seed(0)
    return kind(4, 6, **options).eval(), (2, 4, *space)


@pytest.mark.parametrize("name", CASES)
def test_ideal_equals_digital(name: str, engine: str) -> None:
    digital, shape = layer(name)
    analog = convert(nn.Sequential(digital), ideal, engine=engine).eval()
    x = random(*shape)
    assert_close(analog(x), digital(x), "values")
    assert_close(analog[0](x[0]), digital(x[0]), "values")
    assert analog(x).is_contiguous()
    (row,) = coverage(analog).to_dict("records")
    assert (row["where"], row["tiles"]) == ("analog", CASES[name][1].get("groups", 1))


def test_gradients_are_those_of_the_digital_layer() -> None:
    digital, shape = layer("2d, all")
    analog = convert(nn.Sequential(digital), ideal)
    x = random(*shape)
    digital(x).square().sum().backward()
    analog(x).square().sum().backward()
    expected = digital.weight.grad
    parts = [part.weight.grad.T for part in analog[0].parts]
    assert_close(torch.cat(parts).view_as(expected), expected, "values")


def test_output_size_as_torch_takes_it() -> None:
    digital, shape = layer("2d")
    analog = convert(nn.Sequential(digital), ideal)[0]
    x = random(*shape)
    for size in ([9, 7], [10, 8], [2, 6, 10, 7]):
        assert_close(analog(x, output_size=size), digital(x, output_size=size), "values")
    with pytest.raises(ShapeError, match="output_size"):
        analog(x, output_size=[11, 7])


def test_wrong_shapes_are_named(engine: str) -> None:
    analog = convert(nn.Sequential(layer("2d")[0]), ideal, engine=engine)
    with pytest.raises(ShapeError, match="4"):
        analog(random(2, 3, 5, 4))


def test_an_empty_batch_gives_an_empty_result() -> None:
    digital, _ = layer("2d")
    analog = convert(nn.Sequential(digital), ideal)
    assert analog(torch.zeros(0, 4, 5, 4)).shape == digital(torch.zeros(0, 4, 5, 4)).shape


def test_a_chip_drifts(engine: str) -> None:
    """The held weights of a noise-free device follow the power law."""
    quiet = rasch2023.change(
        **{"prog_noise_scale": 0.0, "read_noise_scale": 0.0, "nu_sd": (0.0, 0.0, 0.0, 0.0)},
        nu_mean=(0.0, 0.06, 0.06, 0.06),
        drift_compensation="none",
        why="the power law alone",
    )
    digital, shape = layer("2d, groups")
    analog = convert(nn.Sequential(digital), quiet, engine=engine).eval()
    calibrate(analog, [random(*shape)])
    from aimc_bridge.converted import matrices_of

    program(analog, 1)
    drift(analog, 3600.0)
    for matrix in matrices_of(analog).values():
        expected = matrix.clean_weight() * ((3600.0 + 20.0) / 20.0) ** -0.06
        assert_close(matrix.effective_weight(), expected, "values")
