"""Training without noise is plain training: optimizers, accumulation, rates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from aimc_bridge import convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.training import default_optimizer, learning_rate_factor
from presets import ideal, rasch2023
from tests.models import assert_close, mlp, random, small_net
from tests.training.test_training import recipe, run


@pytest.mark.parametrize("kind", ["none", "pcm", "gaussian"])
def test_scale_zero_is_plain_training(kind: str) -> None:
    """Momentum, weight decay on matrices only and gradient clipping are included.

    So are warm-up and drops.
    """
    model = small_net()
    analog = convert(model, ideal)
    data = [(random(8, 2, 4, 4, seed=i), torch.arange(8) % 3) for i in range(4)]
    fields = {
        "noise_type": kind,
        "noise_scale": 0.0,
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.05,
        "grad_clip": 0.5,
        "warmup_batches": 2,
        "warmup_factor": 0.5,
        "lr_drop_epochs": (1, 2),
        "lr_drop_factor": 0.1,
        "epochs": 3,
    }

    def loss(m: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return functional.cross_entropy(m(batch[0]), batch[1])

    history = run(analog, data, recipe(**fields), loss=loss)
    rates = [0.05, 0.05, 0.1, 0.1] + [0.01] * 4 + [0.001] * 4
    assert list(history.learning_rate) == pytest.approx(rates)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.05},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    losses = []
    for epoch in range(3):
        for i, batch in enumerate(data):
            for group in optimizer.param_groups:
                group["lr"] = rates[4 * epoch + i]
            optimizer.zero_grad()
            value = loss(model, batch)
            value.backward()
            losses.append(float(value.detach()))
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
    assert list(history.loss) == pytest.approx(losses, rel=1e-4)
    trained = dict(analog.named_parameters())
    for name, parameter in model.named_parameters():
        assert_close(trained[name], parameter, name, 1e-4)


def test_gradient_accumulation_is_a_larger_batch() -> None:
    weights = []
    for steps, size in ((1, 8), (2, 4)):
        analog = convert(mlp(), ideal)
        data = list(torch.cat([random(8, 12, seed=i) for i in range(4)]).split(size))
        how = recipe(learning_rate=0.1, momentum=0.9)
        run(analog, data, how, gradient_accumulation_steps=steps)
        weights.append(matrices_of(analog)["0"].clean_weight())
    assert_close(weights[1], weights[0], "weights")


def test_one_process_takes_whole_mini_batches() -> None:
    """`split` is for several processes: one does not ask it, and trains as without it."""
    weights = []
    for more in ({}, {"split": lambda batch, index, count: batch[:1]}):
        analog = convert(mlp(), ideal)
        run(analog, [random(4, 12, seed=i) for i in range(2)], recipe(learning_rate=0.1), **more)
        weights.append(matrices_of(analog)["0"].clean_weight())
    assert torch.equal(*weights)


def test_learning_rate_factor() -> None:
    spec = recipe(
        warmup_batches=3, warmup_factor=0.05, lr_drop_epochs=(2, 4), lr_drop_factor=0.1
    ).spec
    cases = {(0, 0): 0.05, (2, 0): 0.05, (3, 0): 1.0, (50, 1): 1.0, (50, 2): 0.1, (90, 4): 0.01}
    for (step, epoch), expected in cases.items():
        assert learning_rate_factor(spec, step, epoch) == pytest.approx(expected)


def test_weight_decay_is_on_matrices_only() -> None:
    """It is not on biases, normalisations, input ranges or column scales.

    Input ranges and column scales have two dimensions.
    """
    analog = convert(small_net(), rasch2023)
    how = recipe(weight_decay=0.1, learn_input_ranges=True, learn_out_scales=True)
    for matrix in matrices_of(analog).values():
        matrix.prepare_training(how.spec)
    groups = default_optimizer(analog, how.spec).param_groups
    names = {id(p): name for name, p in analog.named_parameters()}
    decayed = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in groups}
    assert decayed[0.1] == {"0.weight", "4.weight"}
    assert {"0.bias", "1.weight", "4.crossbar.input_range", "4.crossbar.out_scale"} < decayed[0.0]
    assert len(decayed[0.1]) + len(decayed[0.0]) == len(names)


def test_own_optimizer_gets_its_rates_back() -> None:
    analog = convert(mlp(), ideal)
    groups = [
        {"params": analog[0].parameters(), "lr": 0.3},
        {"params": analog[2].parameters(), "lr": 0.2},
    ]
    optimizer = torch.optim.SGD(groups)
    how = recipe(warmup_batches=9, warmup_factor=0.5)
    history = run(analog, [random(4, 12)] * 2, how, optimizer=optimizer)
    assert list(history.learning_rate) == [0.15, 0.15]
    assert [group["lr"] for group in optimizer.param_groups] == [0.3, 0.2]
