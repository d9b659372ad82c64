"""Task level: a metric of the whole model at each time; a chip is the sampling unit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from aimc_bridge.conversion import convert, copy_trained
from aimc_bridge.engines.native import compiled
from aimc_bridge.equivalence.report import Part, Row
from aimc_bridge.equivalence.side import AIHWKIT, COMPILED, full_float32
from aimc_bridge.equivalence.statistics import Test, Values, mean_test
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import Evaluate, one_chip

TIMES = ("1s", "1h", "1d", "1y")
POINTS, RELATIVE = 0.005, 0.005  # of a metric within [0, 1]; of any other, as a share
CHIPS, MOST_CHIPS = 10, 400  # of each side, where a pilot decides
PILOT = 8  # native chips that are not used again
SECONDS = 600  # that a task takes at most without a budget, but for the fewest chips

Value = tuple[float, str, float]
"""(t_inference, metric, value) of one chip."""


class Model:
    """A digital model on one side: the chips of an engine (NATIVE, COMPILED or AIHWKIT) under a
    preset. `device`: where the native engine runs."""

    def __init__(
        self,
        digital: nn.Module,
        trained: nn.Module,
        preset: Preset,
        engine: str,
        exclude: Any,
        device: str = "cpu",
    ) -> None:
        self.digital, self.trained = digital, trained
        self.preset, self.engine, self.exclude = preset, engine, exclude
        # compiled passes and a GPU's tensors stay where they are
        self.travels = engine != COMPILED and (engine == AIHWKIT or device == "cpu")
        self.kept: nn.Module | None = None if engine == AIHWKIT else trained
        if engine == COMPILED or (self.kept is not None and device != "cpu"):
            self.kept = copy.deepcopy(trained).to(device)
        if engine == COMPILED and self.kept is not None:
            compiled(self.kept)

    def fresh(self) -> nn.Module:
        """The model for a new chip: on aihwkit on new tiles, whose product noise is their own."""
        if self.kept is not None:
            return self.kept
        model = convert(self.digital, self.preset, engine=self.engine, exclude=self.exclude)
        copy_trained(self.trained, model)
        return model.eval()

    def chip(
        self, evaluate: Evaluate, times: Sequence[float], chip: int, seed: int, side: str
    ) -> list[Value]:
        """All values of one chip."""
        base = derive(seed, "crosscheck", "task", side) >> 8  # room for chip numbers
        with full_float32():
            rows = one_chip(self.fresh(), evaluate, list(times), chip, base, "cpu")
        return [(t_s, metric, value) for _, _, t_s, metric, value in rows]


def keyed(
    model: Model,
    evaluate: Evaluate,
    times: Sequence[float],
    seed: int,
    side: str,
    key: str,
    chip: int,
) -> tuple[str, list[Value]]:
    """One chip's values with the name they are kept under: a job."""
    return key, model.chip(evaluate, times, chip, seed, side)


def compare(first: list[list[Value]], second: list[list[Value]], reference: str, cell: str) -> Part:
    """Each metric at each time, chips of both sides."""
    part = Part()
    keys = list(dict.fromkeys((t_s, metric) for chip in first for t_s, metric, _ in chip))
    for t_s, metric in keys:
        a, b = (
            np.array([v for chip in side for t, m, v in chip if (t, m) == (t_s, metric)])
            for side in (first, second)
        )
        part.rows.append(Row("task", cell, metric, t_s, judged(a, b), reference))
    return part


def judged(a: Values, b: Values) -> Test:
    """The test of one metric at one time."""
    return mean_test(a, b, margin_of(np.concatenate([a, b]), float(b.mean())))


def margin_of(values: Values, mean: float) -> float:
    """Half a point where all values are shares, else half a percent of the mean."""
    if bool(((values >= 0) & (values <= 1)).all()):
        return POINTS
    return max(RELATIVE * abs(mean), 1e-12)
