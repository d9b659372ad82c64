"""The task level: metrics of the whole model at each time. The sampling unit is the chip."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from aimc_bridge.conversion import convert, copy_trained
from aimc_bridge.engines.native import compiled
from aimc_bridge.equivalence.measuring import AIHWKIT, COMPILED, full_float32
from aimc_bridge.equivalence.report import Findings, Row
from aimc_bridge.equivalence.statistics import Test, Values, mean_test
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import Evaluate, one_chip

TIMES = ("1s", "1h", "1d", "1y")
POINTS, RELATIVE = 0.005, 0.005  # margin of a metric within [0, 1]; of any other, a share of it
CHIPS, MOST_CHIPS = 10, 400  # chips of each side, fewest and most, if a pilot decides
PILOT = 8  # native chips of the pilot; they are not used again
SECONDS = 600  # without a budget, a task with more than CHIPS chips takes no longer

Value = tuple[float, str, float]
"""Seconds after programming, the metric's name, and its value on one chip."""


class TaskModel:
    """A digital model on one side: its chips on one engine under one preset.

    Attributes:
        label: What tells this side from the other: in the names of its random streams, and in the
            keys under which the values of its chips are kept.
        travels: Whether the model can be sent to other processes. Compiled passes and tensors on
            a GPU stay where they are.
    """

    def __init__(
        self,
        label: str,
        digital: nn.Module,
        trained: nn.Module,
        preset: Preset,
        engine: str,
        exclude: Any,
        device: str = "cpu",
    ) -> None:
        """Prepare the model.

        Args:
            label: See the attributes.
            digital: The digital model.
            trained: Its native conversion, calibrated or trained: weights, learned scales and
                input ranges are taken from it.
            preset: What the model is converted under.
            engine: NATIVE, COMPILED or AIHWKIT.
            exclude: Modules that stay digital, as in `convert`.
            device: Where the native engine runs; aihwkit runs on the CPU.
        """
        self.label, self.digital, self.trained = label, digital, trained
        self.preset, self.engine, self.exclude = preset, engine, exclude
        self.travels = engine != COMPILED and (engine == AIHWKIT or device == "cpu")
        # the native model serves for all chips, a model of aihwkit for one
        self._reusable: nn.Module | None = None if engine == AIHWKIT else trained
        if engine == COMPILED or (self._reusable is not None and device != "cpu"):
            self._reusable = copy.deepcopy(trained).to(device)
        if engine == COMPILED and self._reusable is not None:
            compiled(self._reusable)

    def fresh(self) -> nn.Module:
        """Return the model for a new chip.

        On aihwkit it is converted again for every chip, because a tile draws the noise of its
        products from a pool of its own.
        """
        if self._reusable is not None:
            return self._reusable
        model = convert(self.digital, self.preset, engine=self.engine, exclude=self.exclude)
        copy_trained(self.trained, model)
        return model.eval()

    def chip(
        self,
        evaluate: Evaluate,
        times: Sequence[float],
        chip: int,
        seed: int,
        label: str | None = None,
    ) -> list[Value]:
        """Program one chip and evaluate it at every time.

        Args:
            evaluate: The metric, or metrics by name, of a model.
            times: Seconds after programming.
            chip: The number of the chip.
            seed: The seed of the cross-check.
            label: Names other chips than those of this side, for a pilot.

        Returns:
            One value per time and metric.
        """
        base = derive(seed, "crosscheck", "task", label or self.label) >> 8  # room for chip numbers
        with full_float32():
            rows = one_chip(self.fresh(), evaluate, list(times), chip, base, "cpu")
        return [(t_s, metric, value) for _, _, t_s, metric, value in rows]


def keyed_chip(
    model: TaskModel,
    evaluate: Evaluate,
    times: Sequence[float],
    seed: int,
    key: str,
    chip: int,
) -> tuple[str, list[Value]]:
    """Return the values of one chip with the key under which they are kept.

    A function of the module, so that it can be sent to another process.
    """
    return key, model.chip(evaluate, times, chip, seed)


def compare(
    first: list[list[Value]], second: list[list[Value]], reference: str, cell: str
) -> Findings:
    """Compare each metric at each time.

    Args:
        first: The values of each chip of the first side.
        second: The values of each chip of the second side.
        reference: What the second side is.
        cell: The name of the model.

    Returns:
        One row per time and metric.
    """
    findings = Findings()
    keys = list(dict.fromkeys((t_s, metric) for chip in first for t_s, metric, _ in chip))
    for t_s, metric in keys:
        a, b = (
            np.array([v for chip in side for t, m, v in chip if (t, m) == (t_s, metric)])
            for side in (first, second)
        )
        findings.rows.append(Row("task", cell, metric, t_s, judged(a, b), reference))
    return findings


def judged(a: Values, b: Values) -> Test:
    """Test one metric at one time; `a` and `b` have one value per chip of each side."""
    return mean_test(a, b, margin_of(np.concatenate([a, b]), float(b.mean())))


def margin_of(values: Values, mean: float) -> float:
    """Return a metric's margin: half a point if all values are shares, else 0.5 % of `mean`."""
    if bool(((values >= 0) & (values <= 1)).all()):
        return POINTS
    return max(RELATIVE * abs(mean), 1e-12)
