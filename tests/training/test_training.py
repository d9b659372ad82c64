"""Hardware-aware training: the injected noise, the learned parameters, and plain training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import HWATraining, calibrate, convert, train
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from presets import rasch2023
from tests.models import DEVICES, QUIET, RANGED, assert_close, linear, only, random
from tests.stats import assert_mean, assert_sd

STILL = 1e-30  # a learning rate that moves nothing
PLAIN: dict[str, Any] = {
    "noise_type": "none",
    "drop_connect": 0.0,
    "clip_type": "none",
    "ramp_batches": 0,
    "learn_input_ranges": False,
    "learn_out_scales": False,
    "weight_decay": 0.0,
    "grad_clip": None,
    "lr_drop_on_stall": False,
    "dropout": None,
    "epochs": 1,
}


def recipe(**fields: Any) -> HWATraining:
    """Return a recipe for plain training, with other fields."""
    return HWATraining.for_(rasch2023, "lstm").override(**{**PLAIN, **fields})


def run(model: nn.Module, loader: Any, how: HWATraining, **options: Any) -> Any:
    """Call `train` with the mean square of the outputs as loss, on the CPU."""
    options.setdefault("loss", lambda m, batch: m(batch).square().mean())
    loss = options.pop("loss")
    return train(model, loader, loss, recipe=how, progress=False, cpu=True, **options)


def normalised(matrix: Matrix) -> Tensor:
    """Return the weights of this mini-batch, divided by the column scales: `[out, in]`."""
    scale = matrix.grid.expand_columns(matrix.column_scale() * matrix.learned_scale())
    return matrix.effective_weight().detach() / scale


def injected(model: nn.Module, how: HWATraining, batches: int, **options: Any) -> Tensor:
    """Return the normalised weights in use in every mini-batch, `[batches, out, in]`."""
    matrix, seen = only(model), []

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        value: Tensor = m(batch).square().mean()
        seen.append(normalised(matrix).clone())
        return value

    width = matrix.grid.in_features
    data = [random(2, width, seed=i) for i in range(batches)]
    for batch in data:
        batch[:, -1] = 0.0  # There is no gradient: even the smallest step would end an exact zero.
    run(model, data, how, loss=loss, **options)
    return torch.stack(seen)


def levels(*values: float, n: int = 400) -> nn.Linear:
    """Return a layer with weights of these sizes and random signs.

    The first column is 1 and the last exactly 0.
    """
    layer = nn.Linear(n, n, bias=False)
    with torch.no_grad():
        size = torch.tensor(values)[torch.arange(n * n) % len(values)].view(n, n)
        layer.weight.copy_(size * random(n, n).sign())
        layer.weight[:, 0] = 1.0
        layer.weight[:, -1] = 0.0
    return layer


def pcm_sd(x: float, scale: float, read: bool = True) -> float:
    """Return the root mean square of PCM_NOISE on a weight of size x, if no sign is reflected."""
    sigma = scale * (0.26348 + 1.9650 * x - 1.1731 * x**2) / 25.0
    if not read:
        return sigma
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    programmed = np.abs(x + sigma * nodes)
    coefficient = np.minimum(0.0088 / np.maximum(programmed**0.65, 1e-3), 0.2)
    mean = (weights * (programmed * coefficient) ** 2).sum() / weights.sum()
    growth = np.log((20.0 + 250e-9) / (2 * 250e-9))
    return float((sigma**2 + scale**2 * growth * mean) ** 0.5)


# --- injected noise ---


@pytest.mark.parametrize("optimizer", ["recipe's", "Adam", "Adagrad"])
@pytest.mark.parametrize(
    ("kind", "scale", "sizes"),
    [("pcm", 3.0, (1.0, 0.5)), ("pcm", 1.0, (1.0, 0.25)), ("programming", 3.0, (0.5, 1.0))],
)
def test_noise_of_every_batch_has_the_variance_of_the_law(
    engine: str, kind: str, scale: float, sizes: tuple[float, ...], optimizer: str
) -> None:
    """It holds from the first mini-batch on.

    It holds for every optimizer; zeros stay zeros.
    """
    model = levels(*sizes)
    analog = convert(model, DEVICES, engine=engine)
    clean = normalised(only(analog))
    how = recipe(noise_type=kind, noise_scale=scale, learning_rate=STILL)
    options: dict[str, Any] = {}
    if optimizer != "recipe's":
        options["optimizer"] = getattr(torch.optim, optimizer)(analog.parameters(), lr=STILL)
    weights = injected(analog, how, 5, **options)
    assert torch.equal(clean, normalised(only(analog)))
    assert bool((weights[..., -1] == 0.0).all())
    for size in sizes:
        of_size = (clean.abs() - size).abs() < 1e-6
        errors = (weights - clean)[:, of_size] / pcm_sd(size, scale, read=kind == "pcm")
        assert_sd(errors, 1.0, f"all batches, |w| = {size}")
        assert_mean(errors + 1.0, 1.0, f"no mean shift, |w| = {size}")
    everywhere = torch.zeros_like(clean)
    for size in sizes:
        everywhere[(clean.abs() - size).abs() < 1e-6] = pcm_sd(size, scale, read=kind == "pcm")
    everywhere[:, 0] = pcm_sd(1.0, scale, read=kind == "pcm")
    used = everywhere > 0
    z = (weights - clean)[:, used] / everywhere[used]
    assert_sd(z[0], 1.0, "the first batch")
    pairs = torch.corrcoef(z).triu(1).abs().max()
    assert float(pairs) < 4.9 / z.shape[1] ** 0.5, "batches share no noise"


def test_noise_scale_of_a_tile_is_its_largest_weight(engine: str) -> None:
    """A column tile has the noise of its own maximum.

    This holds if its weights are scaled by less than 1.
    """
    if engine != "native":
        pytest.skip("this engine has no scale of a whole layer")
    model = levels(1.0)
    with torch.no_grad():
        model.weight[:200] *= 0.5
    preset = DEVICES.change(max_columns=200, weight_scaling="layer", why="two tiles, one scale")
    analog = convert(model, preset, engine=engine)
    how = recipe(noise_type="programming", noise_scale=1.0, learning_rate=STILL)
    weights = injected(analog, how, 3)[..., 1:-1]
    errors = (weights.abs() - weights.abs().mean(0)) * (3 / 2) ** 0.5
    assert_sd(errors[:, :200] / (0.5 * pcm_sd(1.0, 1.0, read=False)), 1.0, "half")
    assert_sd(errors[:, 200:] / pcm_sd(1.0, 1.0, read=False), 1.0, "whole")


def test_ramp(engine: str) -> None:
    """The noise grows linearly over the first mini-batches, across epochs; the first has noise."""
    analog = convert(levels(1.0), DEVICES, engine=engine)
    how = recipe(
        noise_type="gaussian",
        gaussian_sd=0.05,
        noise_scale=2.0,
        ramp_batches=4,
        learning_rate=STILL,
        epochs=2,
    )
    clean = normalised(only(analog))
    weights = injected(analog, how, 3)
    assert len(weights) == 6
    for step, share in enumerate((0.25, 0.5, 0.75, 1.0, 1.0, 1.0)):
        assert_sd((weights[step] - clean) / (2.0 * 0.05 * share), 1.0, f"mini-batch {step}")
    history = run(analog, [random(2, 400)] * 3, how)
    assert list(history.columns) == ["step", "epoch", "loss", "noise_scale", "learning_rate"]
    assert list(history.noise_scale) == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0]
    assert list(history.step) == list(range(6)) and list(history.epoch) == [0, 0, 0, 1, 1, 1]


def test_drop_connect(engine: str) -> None:
    """That share of the weights is zero, drawn again each time; the others are unchanged."""
    model = nn.Linear(400, 400, bias=False)
    analog = convert(model, DEVICES, engine=engine)
    clean = normalised(only(analog))
    weights = injected(analog, recipe(drop_connect=0.3, learning_rate=STILL), 5)
    dropped = weights == 0.0
    assert_mean(dropped.double(), 0.3, "share of zeros")
    shared = torch.corrcoef(dropped.flatten(1).double()).triu(1).abs().max()
    assert float(shared) < 4.9 / 400.0, "batches are independent"
    assert_close(torch.where(dropped, clean, weights), clean.expand(5, -1, -1), "kept", 1e-6)


def test_gradient_of_the_noisy_pass_goes_to_the_clean_weights() -> None:
    """One SGD step is computed by hand.

    It is a step of a product of two matrices, from the weights in use.
    """
    model = nn.Sequential(linear(12, 16, bias=False), linear(16, 5, bias=False, seed=2)).double()
    analog = convert(model, DEVICES)
    first, second = matrices_of(analog).values()
    x, upstream = random(6, 12, dtype=torch.float64), random(6, 5, seed=3, dtype=torch.float64)
    used = []

    def loss(m: nn.Module, batch: Tensor) -> Tensor:
        used.append([first.effective_weight().clone(), second.effective_weight().clone()])
        return (m(batch) * upstream).sum()

    how = recipe(noise_type="pcm", noise_scale=3.0, learning_rate=0.01, momentum=0.0)
    run(analog, [x], how, loss=loss)
    ((w1, w2),) = used
    assert float((w1 - model[0].weight).detach().abs().max()) > 0.01
    step1 = 0.01 * (upstream @ w2).T @ x
    step2 = 0.01 * upstream.T @ (x @ w1.T)
    assert_close(first.clean_weight(), model[0].weight - step1, "first", 1e-12)
    assert_close(second.clean_weight(), model[1].weight - step2, "second", 1e-12)


# --- after a step ---


def test_fixed_clip(engine: str) -> None:
    model = linear(60, 50, bias=False)
    preset = DEVICES.change(max_rows=25, max_columns=20, why="several tiles")
    analog = convert(model, preset, engine=engine)
    matrix = only(analog)
    before = matrix.normalised_weight()
    assert float(before.abs().max()) == 1.0
    run(analog, [random(2, 60)], recipe(clip_type="fixed", clip_value=0.7, learning_rate=STILL))
    assert_close(matrix.normalised_weight(), before.clamp(-0.7, 0.7), "clipped", 1e-6)


@pytest.mark.parametrize("what", ["layer", "column"])
def test_gaussian_clip(engine: str, what: str) -> None:
    """Weights are clipped to so many standard deviations.

    They are those of each tile, or of each of its columns.
    """
    preset = DEVICES.change(max_rows=25, max_columns=20, why="several tiles")
    analog = convert(linear(60, 50, bias=False), preset, engine=engine)
    matrix = only(analog)
    before = matrix.normalised_weight()
    how = recipe(clip_type=f"{what}_gaussian", clip_value=1.5, learning_rate=STILL)
    run(analog, [random(2, 60)], how)
    sizes = list(matrix.grid.columns) if what == "layer" else 1
    after_clip = matrix.normalised_weight().split(list(matrix.grid.rows), 1)
    expected = before.split(list(matrix.grid.rows), 1)
    for rows, old_rows in zip(after_clip, expected, strict=True):
        for part, old in zip(rows.split(sizes), old_rows.split(sizes), strict=True):
            bound = 1.5 * float(old.std(correction=0))
            assert_close(part, old.clamp(-bound, bound), "clipped", 1e-5)
    clipped = (matrix.normalised_weight() - before).abs() > 1e-5
    assert 0.05 < float(clipped.double().mean()) < 0.3


# Each case: every, mini-batches, largest normalised weight after them, largest trained weight of
# the first.
REMAPS = [
    (0, 2, 0.7, 0.7),
    (3, 2, 0.7, 0.7),
    (2, 2, 1.0, 0.7),
    (2, 3, 0.7, 0.49),
    (1, 2, 1.0, 0.49),
]


@pytest.mark.parametrize(("every", "batches", "share", "trained"), REMAPS)
def test_remap(engine: str, every: int, batches: int, share: float, trained: float) -> None:
    """Columns are scaled again every so many mini-batches, after the clip; weights stay."""
    analog = convert(linear(60, 50, bias=False), DEVICES, engine=engine)
    matrix = only(analog)
    first = matrix.clean_weight().abs().amax(1)
    how = recipe(clip_type="fixed", clip_value=0.7, remap_every=every, learning_rate=STILL)
    run(analog, [random(2, 60)] * batches, how)
    largest = matrix.normalised_weight().abs().amax(1)
    assert_close(largest, torch.full_like(largest, share), "normalised", 1e-6)
    assert_close(matrix.clean_weight().abs().amax(1), trained * first, "trained", 1e-6)


@pytest.mark.parametrize("clip", ["fixed", "layer_gaussian", "column_gaussian"])
def test_frozen_weights_are_neither_clipped_nor_remapped(engine: str, clip: str) -> None:
    """They stay bit for bit, on their old columns.

    The layer behind them is what it is if nothing is frozen.
    """
    model = nn.Sequential(linear(60, 50), nn.Tanh(), linear(50, 40, seed=2))
    preset = DEVICES.change(max_rows=25, max_columns=20, why="several tiles")
    how = recipe(clip_type=clip, clip_value=0.4, remap_every=1, learning_rate=STILL)
    last_layers = []
    for trains in (True, False):
        model[0].weight.requires_grad_(trains)
        analog = convert(model, preset, engine=engine)
        first, last = matrices_of(analog).values()
        # No remap would choose this.
        first.set_clean_weight(first.clean_weight(), first.column_scale() * 2)
        before = first.clean_weight(), first.column_scale().clone(), first.normalised_weight()
        run(analog, [random(2, 60)] * 2, how)
        after = first.clean_weight(), first.column_scale(), first.normalised_weight()
        unchanged = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert unchanged == [not trains] * 3
        last_layers.append((last.clean_weight(), last.column_scale()))
    for a, b in zip(*last_layers, strict=True):
        assert torch.equal(a, b)


# --- learned parameters ---


def test_ranges_start_from_data_and_are_learned(engine: str) -> None:
    """An uncalibrated range starts at 3 sd of the first batches.

    Then it follows its gradient.
    """
    preset = QUIET if engine == "native" else RANGED
    data = [random(20, 60, seed=i) * (1 + i) for i in range(5)]
    started = {"learn_input_ranges": True, "input_range_init_batches": 3}
    starts = []
    for rate in (STILL, 0.5):
        analog = convert(linear(60, 50), preset, engine=engine)
        run(analog, data, recipe(**started, learning_rate=rate, momentum=0.0))
        ranges = only(analog).input_ranges()
        assert ranges is not None
        starts.append(float(ranges[0, 0]))
    expected = sum(float(x.std(correction=0)) * 3.0 for x in data[:3]) / 3
    assert abs(starts[0] / expected - 1.0) < 1e-3  # Engines differ in the sd's correction.
    assert abs(starts[1] / starts[0] - 1.0) > 1e-3


def test_calibrated_ranges_are_kept_where_training_begins(engine: str) -> None:
    preset = QUIET if engine == "native" else RANGED
    analog = convert(linear(60, 50), preset, engine=engine)
    calibrate(analog, [random(20, 60)])
    before = only(analog).input_ranges()
    run(analog, [random(20, 60) * 9.0] * 3, recipe(learn_input_ranges=True, learning_rate=STILL))
    after = only(analog).input_ranges()
    assert before is not None and after is not None
    assert_close(after, before, "ranges", 1e-6)


@pytest.mark.parametrize("learned", [False, True])
def test_column_scales_are_learned(engine: str, learned: bool) -> None:
    """Scales follow their gradient.

    For a loss that is the sum of the outputs, it is the sum of outputs over the scale.
    """
    analog = convert(linear(60, 50, bias=False), DEVICES, engine=engine)
    x = random(20, 60)
    y = functional.linear(x, only(analog).clean_weight())
    how = recipe(learn_out_scales=learned, learning_rate=1e-3, momentum=0.0)
    run(analog, [x], how, loss=lambda m, b: m(b).sum())
    expected = 1.0 - 1e-3 * y.sum(0) * learned
    assert_close(only(analog).learned_scale()[0], expected, "scales", 1e-5)
