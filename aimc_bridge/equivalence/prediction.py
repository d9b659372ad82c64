"""Predict from small pieces what a cross-check costs, and how many chips decide it."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from aimc_bridge.calibration import run_batch
from aimc_bridge.chip import drift, program, restore
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.layer import (
    ALPHA_BIAS,
    ALPHA_MEAN,
    ALPHA_SD,
    ERROR,
    GAIN,
    MEASURED,
    READ_SD,
)
from aimc_bridge.equivalence.measuring import (
    AIHWKIT,
    ChipStatistics,
    EngineLayer,
    Sampling,
    measure,
    noisy,
)
from aimc_bridge.equivalence.statistics import ALPHA
from aimc_bridge.equivalence.task import MOST_CHIPS as MOST_TASK_CHIPS
from aimc_bridge.equivalence.task import POINTS, Value, margin_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset

FEWEST_CHIPS, USUAL_CHIPS, MOST_CHIPS = 16, 96, 1600
LAYER_SECONDS = 180.0  # without a budget, a layer with more than USUAL_CHIPS takes no longer
PILOT = 16  # chips of the native engine; none of them is used again
_FAMILY = 400  # rows of a layer level, roughly: Holm's first step divides by this
_POWER = 0.95
_LARGE, _COLUMNS = 200_000, 64  # of a layer with more weights, so many columns are timed


@dataclass(frozen=True)
class Cost:
    """A predicted cost, in seconds.

    Attributes:
        fixed: Seconds that it takes whatever the number of chips.
        a_chip: Seconds per chip.
    """

    fixed: float
    a_chip: float

    def of(self, chips: int) -> float:
        """Return the seconds for a number of chips."""
        return self.fixed + chips * self.a_chip


def timed(work: Callable[[], Any]) -> float:
    """Return the wall time of one call in seconds."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def chips_needed(layer: Layer, preset: Preset, sampling: Sampling) -> int:
    """Predict how many chips decide every mean of a layer with a power of 95 %.

    That is the power if the two engines agree. It is predicted from the spread between a few native
    chips, which are not used again, at the last time, when the spread is largest.

    Args:
        layer: The layer.
        preset: The preset.
        sampling: Times, seed, inputs and reads.

    Returns:
        The number of chips of each side, between `FEWEST_CHIPS` and `MOST_CHIPS`.
    """
    last = (max(sampling.times),)
    pilot = Sampling(last, PILOT, derive(sampling.seed, "pilot"), sampling.vectors, sampling.reads)
    statistics = measure(EngineLayer(layer, preset, "native"), pilot)
    z = float(stats.norm.isf(ALPHA / _FAMILY) + stats.norm.isf(1 - _POWER))
    wanted = [float(USUAL_CHIPS), *means_need(statistics, noisy(preset))]
    if preset.compensation.drift_compensation in MEASURED:
        alpha, bias = statistics.column("alpha", 0), statistics.column("bias", 0).mean(1)
        wanted.append(_count(float((alpha.std(0, ddof=1) / alpha.mean(0)).max()), ALPHA_MEAN, z))
        wanted.append(_count(float(bias.std(ddof=1)), ALPHA_BIAS, z))
    tiles = len(layer.grid.rows) * len(layer.grid.columns)
    wanted.append((z / math.log1p(ALPHA_SD)) ** 2 / tiles)
    return int(np.clip(math.ceil(max(wanted)), FEWEST_CHIPS, MOST_CHIPS))


def means_need(pilot: ChipStatistics, noise: bool) -> list[float]:
    """Predict how many chips, or draws, per side decide the means of outputs.

    Args:
        pilot: A few of one side, at one time.
        noise: Whether the spread between reads is one of the means.

    Returns:
        A number for each mean.
    """
    z = float(stats.norm.isf(ALPHA / _FAMILY) + stats.norm.isf(1 - _POWER))
    shares = {"gain": GAIN, "error": ERROR} | ({"read": READ_SD} if noise else {})
    columns = {name: pilot.column(name, 0) for name in shares}
    return [
        _count(float(values.std(ddof=1) / values.mean()), shares[name], z)
        for name, values in columns.items()
        if values.mean() > 0
    ]


def _count(spread: float, margin: float, z: float) -> float:
    """Return how many units per side decide a mean; `z` sums the quantiles of level and power."""
    return 2 * (z * spread / margin) ** 2


def layer_cost(layer: Layer, preset: Preset, sampling: Sampling) -> Cost:
    """Predict what a layer costs from one chip on each engine.

    Only a few columns of a large layer are timed.

    Args:
        layer: The layer.
        preset: The preset.
        sampling: Times, seed, inputs and reads.
    """
    whole = layer.grid.out_features
    if layer.weights > _LARGE and whole > _COLUMNS and layer.grid.groups == 1:
        piece = layer_cost(_columns_of(layer, preset, _COLUMNS), preset, sampling)
        return Cost(piece.fixed * whole / _COLUMNS, piece.a_chip * whole / _COLUMNS)
    one = dataclasses.replace(sampling, chips=1, seed=derive(sampling.seed, "cost"))
    total = 0.0
    for engine in sampling.engines:
        on = sampling.layer_on(layer, preset, engine)
        measure(on, one)  # the first one is slower
        outputs = timed(functools.partial(measure, on, one))
        alpha = timed(functools.partial(measure, on, one, what="alpha"))
        others = sum(kind != preset.compensation.drift_compensation for kind in MEASURED)
        total += outputs + others * alpha
        if engine == AIHWKIT:
            # ADC clipping, twice, and equal outputs: chips at one time or two, with more inputs
            fixed = 200 * alpha / max(1, len(sampling.times))
    return Cost(fixed, total)


def _columns_of(layer: Layer, preset: Preset, count: int) -> Layer:
    """Return the layer with its first `count` outputs alone."""
    module = copy.deepcopy(layer.module)
    weight = module.get_parameter("weight")[:count].detach().clone()
    module.weight = nn.Parameter(weight, requires_grad=False)
    grid = TileGrid.of(count, layer.grid.in_features, preset.crossbar)
    if isinstance(module, nn.Linear):
        module.out_features = count
    else:
        module.out_channels = count  # type: ignore[assignment]
    ranges = None if layer.ranges is None else layer.ranges[:, :1].clone()
    return dataclasses.replace(layer, module=module, ranges=ranges, grid=grid)


def task_cost(
    native: nn.Module,
    fresh: Callable[[], nn.Module],
    batch: Any,
    evaluate: Callable[[nn.Module], Any],
    times: int,
    ratio: float = 1.0,
) -> Cost:
    """Predict what the task costs, from one native evaluation.

    How much slower the second side is, is measured on a small piece of the inputs.

    Args:
        native: The model on the first side, a native one.
        fresh: Builds the model on the second side.
        batch: One batch of inputs.
        evaluate: The metric of a model.
        times: How many times each chip is evaluated at.
        ratio: Chips of the first side per chip of the second.

    Returns:
        The cost per chip of the second side, with `ratio` chips of the first.
    """
    program(native, 0)
    native_drift = timed(lambda: drift(native, 1.0))
    evaluation = timed(lambda: evaluate(native))
    built: list[nn.Module] = []
    building = timed(lambda: built.append(fresh()))
    other = built[0]
    building += timed(lambda: program(other, 0))
    other_drift = timed(lambda: drift(other, 1.0))
    piece = _piece(native, batch)
    ours = min(timed(lambda: _run(native, piece)) for _ in range(3))
    theirs = min(timed(lambda: _run(other, piece)) for _ in range(2))
    restore(native)
    slower = evaluation * max(1.0, theirs / max(ours, 1e-6))
    first = ratio * times * (native_drift + evaluation)
    return Cost(0.0, first + building + times * (other_drift + slower))


@torch.no_grad()
def _run(model: nn.Module, batch: Any) -> None:
    """Run a model on a batch."""
    run_batch(model, batch, next(model.parameters()).device)


def _piece(model: nn.Module, batch: Any) -> Any:
    """Return a few rows of a batch, or all of it if the model does not take a few."""

    def cut(value: Any) -> Any:
        return value[:4] if isinstance(value, Tensor) and value.ndim > 0 else value

    small = batch
    if isinstance(batch, Mapping):
        small = {key: cut(value) for key, value in batch.items()}
    elif isinstance(batch, list | tuple):
        small = tuple(cut(value) for value in batch)
    elif isinstance(batch, Tensor):
        small = cut(batch)
    try:
        _run(model, small)
    except Exception:  # noqa: BLE001 - whatever it is, the whole batch is known to fit
        return batch
    return small


def task_chips_needed(pilot: list[list[Value]]) -> int:
    """Predict how many chips decide each metric at each time with a power of 95 %.

    That is the power if the two sides agree. If some metrics are shares, they alone count.

    Args:
        pilot: The values of a few chips.

    Returns:
        The number of chips of each side, at most `MOST_TASK_CHIPS`.
    """
    keys = list(dict.fromkeys((t_s, metric) for t_s, metric, _ in pilot[0]))
    values_of = {
        key: np.array([v for chip in pilot for t, m, v in chip if (t, m) == key]) for key in keys
    }
    margins = {key: margin_of(values, float(values.mean())) for key, values in values_of.items()}
    shares = [key for key in keys if margins[key] == POINTS] or keys
    z = float(stats.norm.isf(ALPHA / len(keys)) + stats.norm.isf(1 - _POWER))
    counts = [_count(float(values_of[key].std(ddof=1)), margins[key], z) for key in shares]
    return min(MOST_TASK_CHIPS, math.ceil(max(counts)))
