"""Whole studies under all of rasch2023, as a user runs them.

They are meant for a GPU, at any size. Inputs lie on the device; a sweep programs, drifts and
evaluates every chip at every time.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from aimc_bridge import sweep
from benchmarks.speed import sides, targets, works
from benchmarks.speed.chips import (
    bert_drift,
    bert_program,
    cnn_chip,
    mlp_chip,
    sweep_of_parts,
    wrn_chip,
)
from benchmarks.speed.forwards import (
    bert_forward,
    cnn_forward,
    cnn_forward_many,
    lstm_forward,
    mlp_forward,
    wrn_forward,
)
from benchmarks.speed.groups import Group, Setting
from benchmarks.speed.timing import Side, alternate
from benchmarks.speed.training_steps import wrn_training
from benchmarks.speed.works import Work, on, outputs

SIZES = {
    "images": 10_000,
    "sentences": 872,
    "train_images": 50_000,
    "batch": 500,
    "train_batch": 128,
    "chips": 25,
    "times": 4,
}
"""The sizes that the goals are stated for; `batch` is the batch of an evaluation."""

STATED = {
    "goal-wrn": ("images", "chips", "times"),
    "goal-bert": ("sentences", "chips", "times"),
    "goal-epoch": ("train_images", "train_batch"),
}
"""The sizes that a goal depends on; the batch of an evaluation is free."""


def goal_wrn(setting: Setting) -> Group:
    """Measure a sweep of the WRN: every test image on every chip at every time.

    Args:
        setting: How to measure.
    """
    work = works.wrn(setting.sizes).to(setting.device)
    return _study("goal-wrn", work, "images", setting)


def goal_bert(setting: Setting) -> Group:
    """Measure a sweep of BERT: every sentence on every chip at every time.

    Args:
        setting: How to measure.
    """
    work = works.bert(setting.sizes).to(setting.device)
    return _study("goal-bert", work, "sentences", setting)


def _study(name: str, work: Work, unit: str, setting: Setting) -> Group:
    goals = {**SIZES, **setting.goals}
    count, size = goals[unit], goals["batch"]
    chips, times = goals["chips"], setting.times[: goals["times"]]
    parts = [min(size, count - start) for start in range(0, count, size)]
    batches = [on(setting.device, work.batch(n)) for n in parts]
    model = sides.analog(work, sides.ALL, device=setting.device, chip=False)

    def evaluate(chip: nn.Module) -> float:
        right = torch.zeros((), device=setting.device)
        with torch.no_grad():
            for batch in batches:
                right += (outputs(chip, batch).argmax(-1) == 0).sum()
        return float(right) / count

    def study() -> None:
        sweep(model, evaluate, times, chips, draw_on=setting.draw_on, progress=False)

    def digital() -> None:
        for _ in range(len(times)):
            evaluate(work.model)

    runs = chips * len(times)
    compared = [
        Side(targets.DIGITAL, digital, len(times), "evaluation alone, scaled", memory=False),
        Side(targets.NATIVE, study, runs, warm=0),
    ]
    for side in compared:
        side.most = 1
    # the first use chooses kernels and compiles passes: it must not be timed
    sweep(model, evaluate, times[:1], 1, draw_on=setting.draw_on, progress=False)
    measured = alternate(compared, 1, setting.device, setting.say)
    text = f"{work.name}, {count:,} {unit}, {chips} chips x {len(times)} times, batch {size}"
    return Group(name, text, "evaluations", runs, measured, about=goals)


def goal_epoch(setting: Setting) -> Group:
    """Measure an epoch of training of the WRN, digital and hardware-aware.

    Both run in float32 and in bfloat16 autocast.

    Args:
        setting: How to measure.
    """
    goals = {**SIZES, **setting.goals}
    work = works.wrn(setting.sizes).to(setting.device)
    n, size = goals["train_images"], goals["train_batch"]
    count = max(1, n // size)
    stored = min(count, 16)  # batches in memory, used again and again
    batches = [on(setting.device, work.batch(size)) for _ in range(stored)]
    classes = [work.targets(size).to(setting.device) for _ in range(stored)]

    def epoch(step: sides.Step) -> Callable[[], None]:
        def run() -> None:
            for index in range(count):
                step.on(batches[index % stored], classes[index % stored])

        return run

    compared = []
    kinds: list[tuple[str, torch.dtype | None]] = [("", None), (", bfloat16", torch.bfloat16)]
    for suffix, dtype in kinds:
        steps = {
            targets.DIGITAL: sides.digital_step(work, size, setting.device, dtype),
            targets.NATIVE: sides.analog_step(
                work, sides.ALL, size, device=setting.device, dtype=dtype
            ),
        }
        for name, step in steps.items():
            _warm(step, batches[0], classes[0])
            compared.append(Side(name + suffix, epoch(step), warm=0, memory=False))
    measured = alternate(compared, 1, setting.device, setting.say)
    text = f"{work.name}, epoch of {count * size:,} images, batch {size}"
    return Group("goal-epoch", text, "epochs", 1, measured, about=goals)


def _warm(step: sides.Step, batch: Tensor, classes: Tensor) -> None:
    for _ in range(3):
        step.on(batch, classes)


MEASURES: dict[str, Callable[[Setting], Group]] = {
    "wrn-forward": wrn_forward,
    "wrn-training": wrn_training,
    "lstm-forward": lstm_forward,
    "cnn-forward": cnn_forward,
    "cnn-forward-many": cnn_forward_many,
    "mlp-forward": mlp_forward,
    "bert-forward": bert_forward,
    "bert-program": bert_program,
    "bert-drift": bert_drift,
    "wrn-chip": wrn_chip,
    "cnn-chip": cnn_chip,
    "mlp-chip": mlp_chip,
    "sweep": sweep_of_parts,
    "goal-wrn": goal_wrn,
    "goal-bert": goal_bert,
    "goal-epoch": goal_epoch,
}
