"""Models of other dtypes than float32: what is computed, what is returned, what a chip holds."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import calibrate, convert, drift, load_chip, program, restore, save_chip, train
from aimc_bridge.converted import matrices_of
from aimc_bridge.training import HWATraining
from presets import ideal, rasch2023
from tests.models import QUIET, linear, mlp, random

HALF = [torch.bfloat16, torch.float16]
DTYPES = [*HALF, torch.float64]

CASES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "conv": (lambda: nn.Conv2d(4, 6, 3, padding=1), (2, 4, 5, 5)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding_mode="reflect", padding=1), (4, 5, 5)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), (2, 4, 5, 5)),
    "lstm": (lambda: nn.LSTM(5, 4, 2, bidirectional=True, proj_size=3), (3, 2, 5)),
    "gru cell": (lambda: nn.GRUCell(5, 4), (3, 5)),
}


def first(out: Any) -> Tensor:
    result: Tensor = out[0] if isinstance(out, tuple) else out
    return result


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_linear_layer_rounds_the_float32_result_once(dtype: torch.dtype, engine: str) -> None:
    """The output is that of the same weights in float32, rounded: nothing in between is."""
    digital, x = linear(64, 32).to(dtype), random(8, 64).to(dtype)
    analog = convert(digital, ideal, engine=engine)
    exact = convert(copy.deepcopy(digital).float(), ideal, engine=engine)(x.float())
    assert analog(x).dtype == dtype
    assert torch.equal(analog(x), exact.to(dtype))
    assert analog.weight.dtype == dtype and torch.equal(analog.weight, digital.weight)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", CASES)
def test_every_layer_returns_the_dtype_of_its_inputs(
    kind: str, dtype: torch.dtype, engine: str
) -> None:
    make, shape = CASES[kind]
    torch.manual_seed(0)
    digital, x = make().to(dtype), random(*shape).to(dtype)
    out = first(convert(digital, ideal, engine=engine)(x))
    assert out.dtype == first(digital(x)).dtype == dtype
    expected = first(copy.deepcopy(digital).double()(x.double()))
    error = float((out - expected).detach().abs().max() / expected.detach().abs().max())
    # a float64 model is exact on the native engine, and float32 on aihwkit's tiles
    precision = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps
    assert error < 4 * precision


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_chip_is_that_of_the_float32_copy(
    dtype: torch.dtype, engine: str, tmp_path: Path
) -> None:
    model, x = mlp().to(dtype), random(4, 12).to(dtype)
    twin = copy.deepcopy(model).float()
    analogs = [convert(each, rasch2023, engine=engine).eval() for each in (model, twin)]
    for analog, each in zip(analogs, (x, x.float()), strict=True):
        calibrate(analog, [each])
        program(analog, 3)
        drift(analog, 3600.0)
    mine, reference = ([m.effective_weight() for m in matrices_of(a).values()] for a in analogs)
    for held, expected in zip(mine, reference, strict=True):
        if dtype == torch.float64:  # native computes the same draws in float64
            torch.testing.assert_close(held.float(), expected, rtol=1e-4, atol=1e-6)
        else:
            assert held.dtype == torch.float32 and torch.equal(held, expected)
    assert analogs[0](x).dtype == dtype
    save_chip(analogs[0], tmp_path / "chip.safetensors")
    restore(analogs[0])
    load_chip(analogs[0], tmp_path / "chip.safetensors")
    for matrix, held in zip(matrices_of(analogs[0]).values(), mine, strict=True):
        assert torch.equal(matrix.effective_weight(), held)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_a_chip_keeps_its_numbers_when_the_model_is_converted(
    dtype: torch.dtype, engine: str
) -> None:
    """`model.half()` after `convert` rounds digital parameters, and nothing of the tiles."""
    x = random(4, 12)
    analog = convert(mlp(), QUIET, engine=engine).eval()
    calibrate(analog, [x.to(dtype).float()])
    program(analog, 1)
    drift(analog, 60.0)
    before = {n: m.effective_weight() for n, m in matrices_of(analog).items()}
    ranges = {n: m.input_ranges() for n, m in matrices_of(analog).items()}
    for to, back in ((dtype, dtype), (torch.float32, torch.float32)):
        analog.to(to)
        assert analog(x.to(back)).dtype == back and analog[0].weight.dtype == to
        for name, matrix in matrices_of(analog).items():
            assert torch.equal(matrix.effective_weight(), before[name])
            now, then = matrix.input_ranges(), ranges[name]
            assert now is not None and then is not None and torch.equal(now, then)


@pytest.mark.parametrize("dtype", HALF, ids=str)
def test_training_in_half_precision(dtype: torch.dtype, engine: str) -> None:
    """The gradients are those of the float32 copy, rounded; `train` changes the weights."""
    model, x = mlp().to(dtype), random(16, 12).to(dtype)
    analog = convert(model, ideal, engine=engine)
    analog(x).float().square().sum().backward()
    twin = convert(copy.deepcopy(model).float(), ideal, engine=engine)
    twin(x.float()).square().sum().backward()
    for mine, other in zip(analog.parameters(), twin.parameters(), strict=True):
        if other.grad is not None:
            assert mine.grad is not None and mine.grad.dtype == mine.dtype
            scale = float(other.grad.abs().max())
            torch.testing.assert_close(mine.grad.float(), other.grad, rtol=0.05, atol=0.05 * scale)
    trained = convert(model, QUIET, engine=engine).train()
    recipe = HWATraining.for_(rasch2023, "wrn16").override(
        epochs=1, distill_weight=0.0, learning_rate=0.1, noise_scale=0.0
    )
    before = trained[0].weight.detach().clone()
    batches = [(x, torch.zeros(16, dtype=torch.long))] * 4

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(model(batch[0]).float(), batch[1])

    train(trained, batches, loss, recipe=recipe)
    assert trained[0].weight.dtype == dtype and not torch.equal(trained[0].weight, before)
    assert trained.eval()(x).dtype == dtype
    other = convert(model, QUIET, engine=engine).eval()
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other(x), trained(x))


def test_a_half_state_dict_that_is_assigned() -> None:
    """`load_state_dict(assign=True)` may bring column scales of half precision."""
    x = random(4, 12)
    analog = convert(mlp(), ideal)
    expected = analog(x)
    state = {
        name: value.half() if value.is_floating_point() else value
        for name, value in analog.state_dict().items()
    }
    analog.load_state_dict(state, assign=True)
    torch.testing.assert_close(analog(x), expected, rtol=0.01, atol=0.01)
    scales = [matrix.column_scale() for matrix in matrices_of(analog).values()]
    assert all(scale.dtype == torch.float32 for scale in scales)


def test_autocast_computes_as_before(engine: str) -> None:
    """Products stay in float32, whatever the dtype of the inputs."""
    analog, x = convert(linear(12, 5), ideal, engine=engine), random(4, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outs = analog(x), analog(x.bfloat16())
    assert torch.equal(outs[0], analog(x))
    assert torch.equal(outs[1], analog(x.bfloat16().float()))
