"""Gradients of several mini-batches in one step of the optimizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aimc_bridge import convert, train
from aimc_bridge.training import accelerate_state, train_digital
from benchmarks.tasks.data import Loader
from presets import ideal
from tests.models import DEVICES, assert_close, linear, mlp, random
from tests.training.test_resume import Interrupted, assert_same_run
from tests.training.test_training import recipe

KINDS = ("list", "DataLoader", "benchmarks")


def loader_of(kind: str, batches: int) -> Any:
    """Return a loader of the same mini-batches of 4, in the same order in every epoch."""
    data = random(4 * batches, 12)
    if kind == "DataLoader":
        return DataLoader(data, batch_size=4)
    parts = list(data.split(4))
    if kind == "list":
        return parts
    return Loader(lambda epoch, g: list(range(batches)), lambda i, g, e: parts[i], batches, 0)


class Counting(torch.optim.SGD):
    """An optimizer that notes after how many mini-batches it steps."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model.parameters(), lr=0.1, momentum=0.9)
        self.seen = 0
        self.after: list[int] = []

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        self.seen += 1
        return model(batch).square().mean()

    def step(self, closure: Any = None) -> None:
        self.after.append(self.seen)
        super().step()


def accumulated(
    analog: nn.Module, loader: Any, accumulate: int, fields: Any = None, **options: Any
) -> list[int]:
    """Train; return the numbers of mini-batches after which the optimizer stepped."""
    optimizer = Counting(analog)
    train(
        analog, loader, optimizer.loss, recipe=recipe(**(fields or {})), optimizer=optimizer,
        progress=False, cpu=True, gradient_accumulation_steps=accumulate, **options,
    )  # fmt: skip
    return optimizer.after


@accelerate_state()
def plain(model: nn.Module, epochs: int) -> list[int]:
    """Return the steps that Accelerate itself makes of 10 mini-batches per epoch, 4 per step."""
    accelerator = Accelerator(gradient_accumulation_steps=4, cpu=True)
    counting = Counting(model)
    prepared, optimizer, loader = accelerator.prepare(model, counting, loader_of("DataLoader", 10))
    for _ in range(epochs):
        for batch in loader:
            with accelerator.accumulate(prepared):
                accelerator.backward(counting.loss(prepared, batch))
                optimizer.step()
                optimizer.zero_grad()
    return counting.after


@pytest.mark.parametrize("kind", KINDS)
def test_the_optimizer_steps_when_accelerate_would(kind: str) -> None:
    """An epoch's last mini-batches, too few for a step, make one.

    The weights are Accelerate's.
    """
    model, twin = mlp(), mlp()
    optimizer = Counting(model)
    train_digital(
        model, loader_of(kind, 10), optimizer.loss, recipe=recipe(epochs=2), optimizer=optimizer,
        progress=False, cpu=True, gradient_accumulation_steps=4,
    )  # fmt: skip
    assert optimizer.after == plain(twin, 2) == [4, 8, 10, 14, 18, 20]
    for (name, got), expected in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert torch.equal(got, expected), name


def test_every_kind_of_loader_gives_the_same_weights(engine: str) -> None:
    """They agree bit for bit, noise, clip and remap included."""
    fields = {
        "noise_type": "pcm", "noise_scale": 2.0, "clip_type": "fixed", "clip_value": 0.9,
        "remap_every": 3, "epochs": 2,
    }  # fmt: skip
    states = []
    for kind in KINDS:
        analog = convert(mlp(), DEVICES, engine=engine)
        assert accumulated(analog, loader_of(kind, 5), 2, fields) == [2, 4, 5, 7, 9, 10]
        states.append(analog.state_dict())
    for name, value in states[0].items():
        assert torch.equal(states[1][name], value) and torch.equal(states[2][name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_cut_short_steps_with_what_is_left_over(kind: str) -> None:
    """max_batches ends a run in the middle of a step.

    The step is computed by hand, with each gradient over 4.
    """
    model = linear(12, 5)
    analog = convert(model, ideal)
    assert accumulated(analog, loader_of(kind, 10), 4, max_batches=6) == [4, 6]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    data = loader_of("list", 10)
    for group in (data[:4], data[4:6]):
        optimizer.zero_grad()
        for batch in group:
            (model(batch).square().mean() / 4).backward()
        optimizer.step()
    assert_close(analog.get_parameter("weight"), model.weight, "weights")
    assert_close(analog.get_parameter("bias"), model.bias, "biases")


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_may_reach_into_the_next_epoch(kind: str) -> None:
    """Accelerate's plugin can ask for it; the run's end leaves nothing over."""
    optimizer = Counting(analog := convert(mlp(), ideal))
    train(
        analog, loader_of(kind, 5), optimizer.loss, recipe=recipe(epochs=3), optimizer=optimizer,
        progress=False, cpu=True, gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=4, sync_with_dataloader=False
        ),
    )  # fmt: skip
    assert optimizer.after == [4, 8, 12, 15]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_goes_on_from_its_last_step(kind: str, tmp_path: Path) -> None:
    """It is interrupted between steps and in the middle of an epoch.

    It is also interrupted after an epoch's left-over step.
    """
    fields = {"noise_type": "pcm", "noise_scale": 2.0, "remap_every": 3, "epochs": 3}

    def go(folder: Path | None, stop: int | None = None, resume: bool = False) -> Any:
        analog = convert(mlp(), DEVICES)
        calls = 0

        def loss(m: nn.Module, batch: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls - 1 == stop:
                raise Interrupted
            return m(batch).square().mean()

        history = train(
            analog, loader_of(kind, 5), loss, recipe=recipe(**fields), folder=folder,
            resume=resume, checkpoint_every=1, max_batches=14, progress=False, cpu=True,
            gradient_accumulation_steps=3,
        )  # fmt: skip
        return {k: v.clone() for k, v in analog.state_dict().items()}, history

    expected = go(None)
    # The mini-batch that fails -> the mini-batches of the checkpoint, its epoch and position.
    for stop, noted in {4: (3, 0, 3), 6: (5, 1, 0), 9: (8, 1, 3), 12: (10, 2, 0)}.items():
        folder = tmp_path / str(stop)
        with pytest.raises(Interrupted):
            go(folder, stop)
        state = json.loads((folder / "checkpoint.json").read_text())["state"]
        assert (state["step"], state["epoch"], state["position"]) == noted
        assert_same_run(go(folder, resume=True), expected)
        state = json.loads((folder / "checkpoint.json").read_text())["state"]
        assert (state["step"], state["trained"]) == (14, 14)
