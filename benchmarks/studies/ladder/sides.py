"""The rows beside the ladder: flawed evaluations, and the paper's model without one of its parts.

A flaw is measured by a function that `sweep` takes as `evaluate`, so that it can be resumed and has
the seeds of a sweep.
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
class SideRow:
    """A row beside the ladder, measured at the last time.

    Attributes:
        key: A unique name, for files.
        title: The name in tables.
        preset: The physics.
        how: "chips": chips as on the ladder; "redrawn": a new chip for every batch; "reread": one
            chip that is read again and again.
        many: Measure as many repeats as the options say, instead of the ladder's number of chips.
    """

    key: str
    title: str
    preset: Preset
    how: str = "chips"
    many: bool = False


def _without(title: str, **values: Any) -> SideRow:
    key = f"without {title}"
    return SideRow(key, key, presets.rasch2023.change(why="the ladder: one step less", **values))


SIDES = (
    SideRow("replication chips", "chips, replication's physics", presets.scalar_drift, many=True),
    SideRow(
        "replication redrawn",
        "new noise at each batch, replication's physics",
        presets.scalar_drift,
        "redrawn",
        many=True,
    ),
    SideRow(
        "replication reread",
        "one chip again and again, replication's physics",
        presets.scalar_drift,
        "reread",
        many=True,
    ),
    SideRow("paper chips", "chips, paper's physics", presets.rasch2023, many=True),
    SideRow(
        "paper redrawn",
        "new noise at each batch, paper's physics",
        presets.rasch2023,
        "redrawn",
        many=True,
    ),
    SideRow(
        "paper reread",
        "one chip again and again, paper's physics",
        presets.rasch2023,
        "reread",
        many=True,
    ),
    SideRow(
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
    """The right evaluation: the task's metrics of the chip, and the errors of its layers."""

    def __init__(self, task: Task, subset: int | None, probe: Probe | None = None) -> None:
        """Prepare the evaluation.

        Args:
            task: The task.
            subset: Test samples (words); None means all.
            probe: The inputs for the errors of layers; None leaves the errors out.
        """
        self.task, self.subset, self.probe = task, subset, probe

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Measure the chip that a model holds; "mvm" is the mean error over the layers."""
        values = dict(self.task.evaluate(model, self.subset))
        if self.probe is not None:  # after the task, whose noise is then the same without a probe
            errors = self.probe.errors()
            values["mvm"] = sum(errors.values()) / len(errors)
            values |= {f"mvm {name}": error for name, error in errors.items()}
        return values


class Redrawing(nn.Module):
    """A converted model that is programmed again, as another chip, before every batch.

    Attributes:
        draws: How many chips were programmed.
    """

    def __init__(self, model: nn.Module, seed: int, t_s: float, size: int | None) -> None:
        """Wrap a model; it is changed in place.

        Args:
            model: A converted model.
            seed: The seed that the chips' seeds are derived from.
            t_s: The age of every chip, in seconds after programming.
            size: Samples per chip; None means a whole batch per chip.
        """
        super().__init__()
        self.model, self.seed, self.t_s, self.size = model, seed, t_s, size
        self.draws = 0
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model on a batch; a single tensor is split into parts, one chip per part."""
        if self.size is not None and len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
            return torch.cat([self._on_a_new_chip(part) for part in args[0].split(self.size)])
        return self._on_a_new_chip(*args, **kwargs)

    def _on_a_new_chip(self, *args: Any, **kwargs: Any) -> Any:
        program(self.model, rng.derive(self.seed, "redrawn", self.draws))
        drift(self.model, self.t_s)
        self.draws += 1
        return self.model(*args, **kwargs)


class Redrawn:
    """A flawed evaluation: the noise is drawn again for every batch, so that no chip exists."""

    def __init__(self, task: Task, subset: int | None, size: int | None) -> None:
        """Prepare the evaluation.

        Args:
            task: The task.
            subset: Test samples (words); None means all.
            size: Samples per draw; None means a whole batch per draw.
        """
        self.task, self.subset, self.size = task, subset, size

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Measure with new noise for every batch; "draws" is how often it was drawn."""
        seed, t_s = _seed_and_time(model)
        drawing = Redrawing(model, seed, t_s, self.size)
        try:
            values = dict(self.task.evaluate(drawing, self.subset))
        finally:
            program(model, seed)
        return {**values, "draws": float(drawing.draws)}


class Reread:
    """A flawed evaluation: the repeats are readings of one chip, a second apart, and not chips."""

    def __init__(self, task: Task, subset: int | None, seed: int) -> None:
        """Prepare the evaluation.

        Args:
            task: The task.
            subset: Test samples (words); None means all.
            seed: The seed of the one chip. When the sweep asks for the chip with seed + i, this
                chip is read i seconds later instead.
        """
        self.task, self.subset, self.seed = task, subset, seed

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Measure the one chip, some seconds later than the time of the sweep."""
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
