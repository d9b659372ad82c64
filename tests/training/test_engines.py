"""The two engines train alike: injected noise and gradients agree in distribution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aimc_bridge import calibrate, convert, train
from aimc_bridge.engines.base import Matrix
from presets import rasch2023
from tests.models import (
    DEVICES,
    ENGINES,
    QUIET,
    assert_close,
    linear,
    only,
    plain_parameters,
    random,
)
from tests.stats import assert_same_mean, assert_same_sd
from tests.training.test_training import STILL, recipe

N_IN, N_OUT = 60, 400
# The paper's device and periphery: every non-ideality that both engines have in training.
HOW = recipe(noise_type="pcm", noise_scale=3.0, learning_rate=STILL, momentum=0.0)


def model() -> nn.Linear:
    """Return a layer with rows of similar size.

    So their gradients have one distribution except for their mean.
    """
    return linear(N_IN, N_OUT, bias=False)


def trained(engine: str, preset: Any, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return (normalised weights in use, gradient of each output) of every mini-batch.

    The loss is the sum of squares: an output's gradient is twice the output, noise and all. The
    gradient of the weights is g x^T, so g is read off along x.

    Returns:
        Weights, shape `[steps, out, in]`, and gradients, shape `[steps, out]`.
    """
    analog = convert(model(), preset, engine=engine)
    matrix = only(analog)
    x = random(1, N_IN)
    if preset.crossbar.input_range != "none":
        calibrate(analog, [x])
    used: list[Tensor] = []

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        used.append(normalised(matrix))
        return m(batch).square().sum()

    weight = next(p for p in plain_parameters(analog) if p.shape == (N_OUT, N_IN))
    # aihwkit trains normalised weights, with gradients that make its steps equal to steps in the
    # layer's own units.
    own_units = torch.equal(weight.detach(), matrix.clean_weight())
    scale = matrix.grid.expand_columns(matrix.column_scale())
    gradients: list[Tensor] = []

    class Recorder(torch.optim.SGD):
        """An optimizer that stores the gradients of the clean weights, in the layer's own units."""

        def step(self, closure: Any = None) -> None:
            assert weight.grad is not None
            gradient = weight.grad if own_units else weight.grad * scale
            gradients.append((gradient @ x[0] / x.square().sum()).clone())

    train(
        analog, [x] * steps, loss, recipe=HOW, optimizer=Recorder(analog.parameters(), lr=STILL),
        seed=seed, progress=False, cpu=True,
    )  # fmt: skip
    return torch.stack(used), torch.stack(gradients)


def normalised(matrix: Matrix) -> Tensor:
    """Return the weights on the crossbar in this mini-batch, divided by the column scales."""
    return matrix.effective_weight() / matrix.grid.expand_columns(matrix.column_scale())


@pytest.fixture(scope="module")
def runs() -> dict[str, tuple[Tensor, Tensor]]:
    """Return one training per engine, with different seeds: nothing drawn is shared."""
    return {
        engine: trained(engine, rasch2023, 300, seed) for seed, engine in enumerate(ENGINES, 10)
    }


@pytest.mark.parametrize("sd", [3.0, 1.0], ids=["in range", "clipped"])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_a_step_without_noise_is_the_same(kind: str, sd: float) -> None:
    """Weights, ranges and column scales agree after one SGD step.

    The step has DAC, ADC and IR drop, and no output saturates: aihwkit lets the gradient of the
    weights through a saturated ADC, the native engine does not. A clipped pixel of a convolution
    counts once on the native engine and in every window on aihwkit, so the step of its range
    differs.
    """
    layer: nn.Module = linear(12, 50, bias=False)
    x = random(40, 12)
    if kind == "convolution":
        layer = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        with torch.no_grad():
            layer.weight.copy_(random(6, 3, 3, 3) / 27**0.5)
        x = random(4, 3, 6, 6)
    how = recipe(learning_rate=0.1, learn_out_scales=True, learn_input_ranges=True)
    steps = []
    for engine in ENGINES:
        analog = convert(layer, QUIET, engine=engine)
        matrix = only(analog)
        before = matrix.clean_weight()
        matrix.set_input_ranges(torch.full((1, 1), sd))
        loss = lambda m, b: -m(b).square().mean()  # noqa: E731 (clipped inputs want more range)
        train(analog, [x], loss, recipe=how, progress=False, cpu=True)
        ranges = matrix.input_ranges()
        assert ranges is not None
        steps.append((matrix.clean_weight() - before, matrix.learned_scale(), ranges))
    assert_close(steps[0][0], steps[1][0], "step of the weights", 1e-4)
    assert_close(steps[0][1], steps[1][1], "column scales", 1e-5)
    if kind == "linear":
        assert_close(steps[0][2], steps[1][2], "ranges", 1e-5)
        assert float(steps[0][2]) != sd
    assert float(steps[0][0].abs().max()) > 1e-3
    assert bool((steps[0][1] != 1.0).all())


def test_one_seed_injects_the_same_on_both_engines() -> None:
    """Draws are named by (seed, layer, step), not by the engine."""
    first, second = (trained(engine, DEVICES, 3, 4) for engine in ENGINES)
    assert_close(first[0], second[0], "injected", 1e-5)
    assert_close(first[1], second[1], "gradient", 1e-4)
    assert float((first[0][0] - first[0][1]).abs().max()) > 0.05


def test_injected_noise_agrees(runs: dict[str, tuple[Tensor, Tensor]]) -> None:
    """300 mini-batches of 24,000 weights agree in mean size and spread.

    Each assertion is shown to see 2 %.
    """
    clean = only(convert(model(), rasch2023)).normalised_weight()
    ours, theirs = (runs[engine][0] for engine in ENGINES)
    for what, chosen in {"small": clean.abs() < 0.2, "large": clean.abs() > 0.5}.items():
        assert_same_mean(ours.abs()[:, chosen], theirs.abs()[:, chosen], f"size, {what}")
        pair = [(x - clean)[:, chosen] for x in (ours, theirs)]
        assert_same_sd(pair[0], pair[1], f"noise, {what}")


def test_gradients_agree(runs: dict[str, tuple[Tensor, Tensor]]) -> None:
    """300 x 400 outputs through noise, DAC, IR drop, read noise and ADC agree.

    Mean size and spread are compared. Spread is taken about each output's mean over both engines: a
    difference of means widens it.
    """
    ours, theirs = (runs[engine][1].double() for engine in ENGINES)
    centre = (ours.mean(0) + theirs.mean(0)) / 2
    assert_same_sd(ours - centre, theirs - centre, "gradient")
    assert_same_mean(ours.abs(), theirs.abs(), "gradient's size")
    # Output by output, the largest of 400 differences in standard errors is compared: 400 x 1.6e-9
    # = 6.5e-7.
    error = ((ours.var(0) + theirs.var(0)) / 300).sqrt()
    difference = (ours.mean(0) - theirs.mean(0)) / error
    assert float(difference.abs().max()) < 6.03
    shifted = difference + 0.02 * centre.abs().max() / error  # The shift is 2 % of the largest.
    assert float(shifted.abs().max()) > 6.03
