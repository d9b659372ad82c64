"""Beside the ladder: flaws of the replication's evaluation; the paper's model less one part.

A flaw is measured as an `evaluate` of a sweep: resume and seeds come with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import presets
from aimc_bridge import rng
from aimc_bridge.chip import drift, program
from aimc_bridge.converted import record_of
from aimc_bridge.spec import Preset
from benchmarks.studies.ladder.probe import Probe
from benchmarks.tasks import Task


@dataclass(frozen=True)
class Side:
    """A row beside the ladder, at the last time.

    how    "chips": as on the ladder; "redrawn": a new chip at every batch; "reread": one chip, read
           again and again
    many   as many repeats as asked for, instead of the ladder's chips
    """

    key: str
    title: str
    preset: Preset
    how: str = "chips"
    many: bool = False


def _without(title: str, **values: Any) -> Side:
    key = f"without {title}"
    return Side(key, key, presets.rasch2023.change(why="the ladder: one step less", **values))


SIDES = (
    Side("replication chips", "chips, replication's physics", presets.scalar_drift, many=True),
    Side(
        "replication redrawn",
        "new noise at each batch, replication's physics",
        presets.scalar_drift,
        "redrawn",
        many=True,
    ),
    Side(
        "replication reread",
        "one chip again and again, replication's physics",
        presets.scalar_drift,
        "reread",
        many=True,
    ),
    Side("paper chips", "chips, paper's physics", presets.rasch2023, many=True),
    Side(
        "paper redrawn",
        "new noise at each batch, paper's physics",
        presets.rasch2023,
        "redrawn",
        many=True,
    ),
    Side(
        "paper reread",
        "one chip again and again, paper's physics",
        presets.rasch2023,
        "reread",
        many=True,
    ),
    Side(
        "oracle",
        "oracle compensation, paper's physics",
        presets.rasch2023.change(why="the ladder: a flaw alone", drift_compensation="oracle"),
    ),
    _without("spread of exponents", nu_sd=(0.0, 0.0, 0.0, 0.0)),
    _without("1/f read noise", read_noise_scale=0.0),
    _without("DAC and ADC", dac_bits=None, adc_bits=None, input_range="none"),
    _without("output noise", out_noise=0.0),
    _without("PCM_READ", w_noise=0.0),
    _without("IR drop", ir_drop=0.0),
)


class Chips:
    """The task's metrics of the chip that a model holds, and its layers' errors."""

    def __init__(self, task: Task, subset: int | None, probe: Probe | None = None) -> None:
        self.task, self.subset, self.probe = task, subset, probe

    def __call__(self, model: nn.Module) -> dict[str, float]:
        values = dict(self.task.evaluate(model, self.subset))
        if self.probe is not None:  # after the task: its noise is then that of a sweep without
            errors = self.probe.errors()
            values["mvm"] = sum(errors.values()) / len(errors)
            values |= {f"mvm {name}": error for name, error in errors.items()}
        return values


class Redrawing(nn.Module):
    """A converted model that is programmed anew, as another chip, before every batch."""

    def __init__(self, model: nn.Module, seed: int, t_s: float, size: int | None) -> None:
        super().__init__()
        self.model, self.seed, self.t_s, self.size = model, seed, t_s, size
        self.draws = 0
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model on the batch; a lone tensor in parts of `size`, each on its own chip."""
        if self.size is not None and len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
            return torch.cat([self._on_a_new_chip(part) for part in args[0].split(self.size)])
        return self._on_a_new_chip(*args, **kwargs)

    def _on_a_new_chip(self, *args: Any, **kwargs: Any) -> Any:
        program(self.model, rng.derive(self.seed, "redrawn", self.draws))
        drift(self.model, self.t_s)
        self.draws += 1
        return self.model(*args, **kwargs)


class Redrawn:
    """The flaw: noise drawn anew at every batch, so that no chip ever exists."""

    def __init__(self, task: Task, subset: int | None, size: int | None) -> None:
        self.task, self.subset, self.size = task, subset, size

    def __call__(self, model: nn.Module) -> dict[str, float]:
        seed, t_s = _seed_and_time(model)
        drawing = Redrawing(model, seed, t_s, self.size)
        try:
            values = dict(self.task.evaluate(drawing, self.subset))
        finally:
            program(model, seed)
        return {**values, "draws": float(drawing.draws)}


class Reread:
    """The flaw: repeats that are readings of one chip, a second apart, and not chips."""

    def __init__(self, task: Task, subset: int | None, seed: int) -> None:
        self.task, self.subset, self.seed = task, subset, seed

    def __call__(self, model: nn.Module) -> dict[str, float]:
        seed, t_s = _seed_and_time(model)
        try:
            program(model, self.seed)
            drift(model, t_s + (seed - self.seed))
            return dict(self.task.evaluate(model, self.subset))
        finally:
            program(model, seed)


def _seed_and_time(model: nn.Module) -> tuple[int, float]:
    chip = record_of(model).chip
    assert chip is not None and chip.t_inference is not None
    return chip.seed, chip.t_inference
