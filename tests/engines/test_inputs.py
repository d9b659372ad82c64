"""Inputs of unusual shapes, layouts, dtypes and sizes: equal on both engines, or a clear error."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.training import HWATraining
from presets import ideal, rasch2023
from tests.models import QUIET, RANGED, assert_close, linear, only, random

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: linear(6, 4), (5, 6)),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, dilation=2), (2, 3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=1), (2, 3, 7, 6)),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding="same"), (2, 4, 5, 5)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2), (2, 2, 3, 4, 3)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), (2, 4, 5, 4)),
}


def pair(kind: str, engine: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """Return a digital layer, its ideal analog counterpart, and inputs."""
    torch.manual_seed(0)
    make, shape = LAYERS[kind]
    digital = make().eval()
    return digital, convert(nn.Sequential(digital), ideal, engine=engine)[0], random(*shape)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "not contiguous": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "expanded": lambda x: x[:1].expand(x.shape),
    "channels last": lambda x: (
        x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x
    ),
    "no batch": lambda x: x[0],
    "empty": lambda x: x[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", LAYERS)
def test_layouts(kind: str, layout: str, engine: str) -> None:
    """Values, gradients and the memory order of the outputs are those of the digital layer."""
    digital, analog, x = pair(kind, engine)
    x = LAYOUTS[layout](x)
    outs, grads = [], []
    for layer in (digital, analog):
        leaf = x.detach().requires_grad_()
        outs.append(layer(leaf))
        outs[-1].square().sum().backward()
        grads.append(leaf.grad)
    expected, out = outs
    assert out.shape == expected.shape and out.dtype == expected.dtype
    if x.numel():
        assert_close(out, expected, layout)
        assert_close(grads[1], grads[0], "gradient")
    assert grads[1] is not None and grads[1].shape == x.shape
    assert out.is_contiguous() == expected.is_contiguous()
    assert out.stride() == expected.stride() or not x.numel() or 1 in out.shape


@pytest.mark.parametrize("kind", LAYERS)
def test_shapes_that_do_not_fit(kind: str, engine: str) -> None:
    _, analog, x = pair(kind, engine)
    short = x[..., :-1] if kind == "linear" else x[:, :-1]
    wrong = [short, x.flatten()[0], x[0, 0, ..., 0] if x.ndim > 2 else x[:, :0]]
    if kind != "linear":
        wrong += [x[None, None, None]]
    for each in wrong:
        with pytest.raises(ShapeError, match=r"^input \(.*\); allowed: \["):
            analog(each)


@pytest.mark.parametrize("kind", ["conv1d", "conv2d", "conv3d"])
def test_images_smaller_than_the_kernel(kind: str, engine: str) -> None:
    digital, analog, x = pair(kind, engine)
    with pytest.raises(RuntimeError, match=r"[Kk]ernel size|Only zero batch"):
        digital(x[..., :0])
    with pytest.raises(ShapeError, match=r"is smaller than the kernel; allowed: sizes from \("):
        analog(x[..., :0])
    least = analog.least
    smallest = x[(..., *(slice(n) for n in least))]
    assert_close(analog(smallest), digital(smallest), "smallest")


WRONG: dict[str, tuple[Callable[[Tensor], Any], str]] = {
    "int64": (torch.Tensor.long, r"^input of torch.int64; allowed: float16, bfloat16, float32"),
    "uint8": (lambda x: x.to(torch.uint8), "^input of torch.uint8; allowed"),
    "bool": (lambda x: x > 0, "^input of torch.bool; allowed"),
    "complex": (lambda x: x.to(torch.complex64), "^input of torch.complex64; allowed"),
    "8 bits": (lambda x: x.to(torch.float8_e4m3fn), "^input of torch.float8_e4m3fn; allowed"),
    "sparse": (torch.Tensor.to_sparse, r"^input of layout torch.sparse_coo; allowed: .*to_dense"),
    "nested": (
        lambda x: torch.nested.nested_tensor([x[0], x[1]], layout=torch.jagged),
        "^input is a nested tensor; allowed: a padded one",
    ),
    "meta": (lambda x: x.to("meta"), "^input on meta; allowed: cpu"),
    "list": (torch.Tensor.tolist, "^input is a list; allowed: a torch.Tensor"),
    "numpy": (torch.Tensor.numpy, "^input is a ndarray; allowed: a torch.Tensor"),
}


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("kind", LAYERS)
def test_inputs_that_are_no_dense_floats(kind: str, name: str, engine: str) -> None:
    change, message = WRONG[name]
    _, analog, x = pair(kind, engine)
    with pytest.raises(UsageError, match=message):
        analog(change(x))


@pytest.mark.parametrize("kind", ["lstm", "attention"])
def test_integers_in_layers_of_several_matrices(kind: str, engine: str) -> None:
    digital = nn.LSTM(4, 4) if kind == "lstm" else nn.MultiheadAttention(4, 2)
    analog, x = convert(digital, ideal, engine=engine), torch.ones(3, 2, 4, dtype=torch.long)
    with pytest.raises(UsageError, match="^input of torch.int64; allowed"):
        analog(x) if kind == "lstm" else analog(x, x, x)


def test_nan_stays_where_it_is(engine: str) -> None:
    """A NaN makes the outputs of its own vector NaN, and an infinity is clipped by a DAC."""
    analog, x = convert(linear(6, 4), QUIET, engine=engine).eval(), random(3, 6)
    calibrate(analog, [x])
    expected = analog(x)
    x[1, 2] = torch.nan
    out = analog(x)
    assert out[1].isnan().all() and torch.equal(out[[0, 2]], expected[[0, 2]])
    x[1, 2] = torch.inf
    clipped = analog(x)[1]
    x[1, 2] = 1e6
    assert torch.equal(clipped, analog(x)[1])


# --- ranges at the ends of float32 ----------------------------------------------------------------


@pytest.mark.parametrize("size", [1e-42, 1e-38, 1e-20, 1e20])
def test_calibrated_with_tiny_and_huge_inputs(size: float, engine: str) -> None:
    analog = convert(linear(6, 4, bias=False), RANGED, engine=engine).eval()
    x = random(5, 6)
    calibrate(analog, [x * size])
    out = analog(x * size)
    assert out.isfinite().all() and analog(x * 0.0).eq(0.0).all() and analog(x).isfinite().all()
    if size > 1e-30:
        expected = x @ matrices_of(analog)[""].clean_weight().T
        assert_close(out / size, expected, "product", 1e-4)


@pytest.mark.parametrize("method", ["max", "percentile", "std"])
def test_calibrated_with_zeros(method: str, engine: str) -> None:
    analog = convert(linear(6, 4), rasch2023, engine=engine).eval()
    calibrate(analog, [torch.zeros(5, 6)], method)
    assert analog(torch.zeros(5, 6)).isfinite().all() and analog(random(5, 6)).isfinite().all()


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-40, -0.5])
def test_learned_ranges_driven_to_zero(value: float, engine: str) -> None:
    """Outputs and gradients stay finite, and the range can grow again."""
    analog, x = convert(linear(6, 4), RANGED, engine=engine).train(), random(5, 6)
    calibrate(analog, [x])
    (learned,) = only(analog).periphery()["input_range"]
    learned.requires_grad_(True)
    learned.data.fill_(value)
    out = analog(x)
    out.square().sum().backward()
    assert out.isfinite().all() and learned.grad is not None and learned.grad.isfinite().all()
    for parameter in analog.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()
    assert analog.eval()(torch.zeros(5, 6)).isfinite().all()


def test_a_range_of_zero_in_a_state_dict() -> None:
    """It is loaded as the smallest range; any other one is loaded as it is, with its sign."""
    analog, x = convert(nn.Sequential(linear(6, 4)), RANGED).eval(), random(5, 6)
    calibrate(analog, [x])
    state, expected = copy.deepcopy(analog.state_dict()), analog(x)
    analog.load_state_dict(state | {"0.crossbar.input_range": torch.zeros(1, 1)})
    assert analog(x).isfinite().all() and analog(x * 0.0).isfinite().all()
    negative = -state["0.crossbar.input_range"]
    analog.load_state_dict(state | {"0.crossbar.input_range": negative})
    assert torch.equal(analog[0].crossbar.input_range, negative)
    assert torch.equal(analog(x), expected)


def test_ranges_started_from_tiny_inputs(engine: str) -> None:
    """Batches of 1e-42 start ranges as any other does, without a division by 0."""
    analog = convert(linear(6, 4), RANGED, engine=engine).train()
    only(analog).prepare_training(HWATraining.for_(rasch2023, "wrn16").spec)
    for _ in range(3):
        assert analog(random(5, 6) * 1e-42).isfinite().all()
    assert analog(random(5, 6)).isfinite().all()
