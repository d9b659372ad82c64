"""The decay of learned input ranges looks at a whole mini-batch, in however many pieces it comes.

A range shrinks while more than `input_range_min_unclipped` of a mini-batch's inputs lie inside it:
its gradient is then decay times range, and 0 otherwise, if the outputs pass no gradient back.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.native import forward
from tests.models import RANGED, linear, only
from tests.training.test_training import recipe, run

DECAY, LEAST, RANGE = 0.01, 0.6, 2.0
COUNT = 1030  # vectors: pieces of 258, 258, 258 and 256
RECIPE = {
    "learn_input_ranges": True,
    "input_range_decay": DECAY,
    "input_range_min_unclipped": LEAST,
    "input_range_start": "calibrated",
    "optimizer": "sgd",
}


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a batch come in pieces of at most 300 vectors or 2 images."""
    monkeypatch.setattr(forward, "_PIECE", 1)
    monkeypatch.setattr(forward, "_FEWEST", (2, 300))


def batch(inputs: int, clipped: int, saturating: bool = False) -> Tensor:
    """Return vectors of which the first ones lie outside of the range.

    Args:
        inputs: Number of inputs.
        clipped: How many vectors are outside, all of them at the front.
        saturating: Whether the last vector saturates the ADC.
    """
    x = torch.full((COUNT, inputs), 0.25 * RANGE)
    x[:clipped] = 3.0 * RANGE
    x[:clipped, ::2] *= -1.0  # their products are small: an ADC would not saturate
    if saturating:
        x[-1] = 0.99 * RANGE
    return x


def gradient(analog: nn.Module, x: Tensor, upstream: float = 0.0) -> Tensor:
    """Return the gradient of the ranges over the ranges, for constant gradients of the outputs."""
    (matrix,) = matrices_of(analog).values()
    matrix.prepare_training(recipe(**RECIPE).spec)
    matrix.set_input_ranges(torch.full((len(matrix.grid.rows), len(matrix.grid.columns)), RANGE))
    analog.train()
    y = analog(x.clone().requires_grad_())
    y.backward(torch.full_like(y, upstream))
    grads = [p.grad.flatten() for p in matrix.periphery()["input_range"] if p.grad is not None]
    return torch.cat(grads) / RANGE


def layer(engine: str, tiles: int, adc: bool = False) -> nn.Module:
    """Return a linear layer on `tiles` rows and as many columns of tiles."""
    model = linear(8, 6, bias=False)
    with torch.no_grad():
        model.weight.copy_(model.weight.abs())
    preset = RANGED.change(max_rows=8 // tiles, max_columns=6 // tiles, why="tiles, in tests")
    if adc:
        preset = preset.change(adc_bits=8, out_bound=3.0, why="an ADC that saturates, in tests")
    return convert(model, preset, engine=engine)


@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("clipped", [0, 258, 411, 413, 516, 1030])
def test_the_share_is_that_of_the_whole_batch(
    pieces: None, engine: str, tiles: int, clipped: int
) -> None:
    """411 of 1,030 vectors outside are less than 40 %, 413 are more, wherever they lie."""
    expected = DECAY if 1.0 - clipped / COUNT > LEAST else 0.0
    got = gradient(layer(engine, tiles), batch(8, clipped))
    assert len(got) == tiles * tiles
    torch.testing.assert_close(got, torch.full_like(got, expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("clipped", [411, 413])
def test_the_share_is_that_of_the_whole_batch_if_pieces_saturate(
    pieces: None, engine: str, clipped: int
) -> None:
    """The pieces with saturated outputs are added one by one, and the others too."""
    expected = DECAY if 1.0 - clipped / COUNT > LEAST else 0.0
    got = gradient(layer(engine, 1, adc=True), batch(8, clipped, saturating=True))
    torch.testing.assert_close(got, torch.full_like(got, expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("columns", [6, 3])
@pytest.mark.parametrize("outside", [3, 4])
def test_images_in_pieces(
    pieces: None, monkeypatch: pytest.MonkeyPatch, columns: int, outside: int
) -> None:
    """The same for a convolution: 9 images in pieces of 2, of which 3 or 4 are outside."""
    preset = RANGED.change(max_columns=columns, why="tiles, in tests")
    analog = convert(nn.Conv2d(2, 6, 3, bias=False), preset)
    x = torch.full((9, 2, 5, 5), 0.25 * RANGE)
    x[:outside] = 3.0 * RANGE
    expected = DECAY if 1.0 - outside / 9 > LEAST else 0.0
    got = gradient(analog, x)
    torch.testing.assert_close(got, torch.full_like(got, expected), rtol=1e-5, atol=1e-9)


def test_pieces_change_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clipped inputs, decay and saturation together: as in one piece, up to rounding."""
    for tiles in (1, 2):
        for adc in (False, True):
            x = batch(8, 300, saturating=adc)
            whole = gradient(layer("native", tiles, adc), x, upstream=0.01)
            with monkeypatch.context() as small:
                small.setattr(forward, "_PIECE", 1)
                small.setattr(forward, "_FEWEST", (2, 300))
                got = gradient(layer("native", tiles, adc), x, upstream=0.01)
            assert float(whole.abs().min()) > DECAY  # not the decay alone
            torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-7)


def nothing(model: nn.Module, x: Tensor) -> Tensor:
    """Return a loss of 0, whose gradients are 0 but for the decay."""
    value: Tensor = 0.0 * model(x).sum()
    return value


@pytest.mark.parametrize(("clipped", "decays"), [((0, 1030), 1), ((411, 413), 1), ((411, 0), 2)])
def test_gradient_accumulation_judges_each_mini_batch(
    engine: str, clipped: tuple[int, int], decays: int
) -> None:
    """With two mini-batches per step, each adds its own decay; shares are not averaged.

    The step is computed by hand: range - rate * decay * range for each mini-batch that decays.
    """
    rate = 0.1
    analog = layer(engine, 1)
    calibrate(analog, [torch.full((4, 8), RANGE)])
    before = only(analog).input_ranges()
    assert before is not None
    how = recipe(**{**RECIPE, "learning_rate": rate, "epochs": 1})
    data = [batch(8, count) * (float(before) / RANGE) for count in clipped]
    run(analog, data, how, loss=nothing, gradient_accumulation_steps=2)
    after = only(analog).input_ranges()
    assert after is not None
    expected = before * (1.0 - rate * DECAY * decays)
    torch.testing.assert_close(after, expected, rtol=1e-6, atol=0.0)
