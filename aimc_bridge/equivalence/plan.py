"""Predict the cost of a cross-check from small pieces, and choose what a budget pays for."""

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
from aimc_bridge.errors import UsageError
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset
from aimc_bridge.times import label

FEWEST_SAMPLES = 200_000  # devices per cell
FEWEST_CHIPS, USUAL_CHIPS, MOST_CHIPS = 16, 96, 1600
LAYER_SECONDS = 180.0  # without a budget, a layer with more than USUAL_CHIPS takes no longer
PILOT = 16  # chips of the native engine; none of them is used again
_FAMILY = 400  # rows of a layer level, roughly: Holm's first step divides by this
_POWER = 0.95
_LARGE, _COLUMNS = 200_000, 64  # of a layer with more weights, so many columns are timed
_ORDER = (0.0, 0.1, 1.0, 0.5, 0.25, 0.05, 0.75, 0.01)  # targets, those that tell most first
SHARES = {"device": 0.25, "layer": 0.5, "task": 0.25}  # of a budget that is too small for all


class BudgetError(UsageError):
    """A budget that does not pay for one cell.

    Attributes:
        smallest_s: Seconds of work of the smallest budget that does, predicting included; wall
            time is this over the number of workers.
    """

    def __init__(self, message: str, smallest_s: float) -> None:
        """Keep the smallest budget beside the message.

        Args:
            message: What is wrong, and what to do.
            smallest_s: See the attribute.
        """
        super().__init__(message)
        self.smallest_s = smallest_s


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


@dataclass
class Choice:
    """The amount of work that was chosen.

    Attributes:
        targets: Targets of devices.
        samples: Devices per cell.
        layers: Chips of each layer, by name.
        task: Chips of the task, of its second side.
        notes: Lines for the summary: what was chosen, and what was left out.
        first: Chips of the task's first side; None for as many as of the second.
    """

    targets: list[float]
    samples: int
    layers: dict[str, int]
    task: int
    notes: list[str]
    first: int | None = None

    @property
    def sides(self) -> tuple[int, int]:
        """The chips of the task's two sides."""
        return self.task if self.first is None else self.first, self.task

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as plain data."""
        return vars(self)


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


def choose(
    budget: float | None,
    spent: float,
    targets: list[float],
    samples: int,
    target_cost: float,
    layers: dict[str, tuple[Layer, int, Cost]],
    task: tuple[int, Cost] | None,
) -> Choice:
    """Choose everything, or the part that a budget pays for.

    Args:
        budget: Seconds of work, or None.
        spent: Seconds of the budget that are spent already.
        targets: Targets of devices.
        samples: Devices per cell.
        target_cost: Seconds of one target with all samples.
        layers: For each layer by name: the layer, the chips that it should get, and its cost.
        task: The chips that the task should get and its cost, or None.

    Raises:
        BudgetError: If the budget does not pay for one cell.
    """
    everything = {name: chips for name, (_, chips, _) in layers.items()}
    wanted = {
        "device": len(targets) * target_cost,
        "layer": sum(cost.of(chips) for _, chips, cost in layers.values()),
        "task": 0.0 if task is None else task[1].of(task[0]),
    }
    total = sum(wanted.values())
    by_level = ", ".join(f"{level} {_time(s)}" for level, s in wanted.items() if s > 0)
    notes = [f"predicted: {_time(total)} of work ({by_level})"]
    chips = 0 if task is None else task[0]
    if budget is None or total <= budget - spent:
        return Choice(list(targets), samples, everything, chips, notes)
    whole_budget, budget = budget, max(0.0, budget - spent)
    shares = {level: SHARES[level] for level, seconds in wanted.items() if seconds > 0}
    left = {level: budget * share / sum(shares.values()) for level, share in shares.items()}
    paid_targets, fewer = _devices_for(left.get("device", 0.0), targets, samples, target_cost)
    least = target_cost * min(samples, FEWEST_SAMPLES) / samples
    spare = left.get("device", 0.0) - len(paid_targets) * target_cost * fewer / samples
    paid_layers, spare = _layers_for(left.get("layer", 0.0) + spare, layers)
    if task is not None:
        chips = min(task[0], int((left["task"] + spare) / max(task[1].a_chip, 1e-9)))
        chips = chips if chips >= 2 else 0
    if not paid_targets and not paid_layers and not chips:
        cheapest = {"device": least} if targets else {}
        if layers:
            fewest = [cost.of(min(FEWEST_CHIPS, n)) for _, n, cost in layers.values()]
            cheapest["layer"] = min(fewest)
        if task is not None:
            cheapest["task"] = task[1].of(2)
        smallest = spent + _smallest(cheapest)
        raise BudgetError(
            f"budget of {_time(whole_budget)} is too small for one cell: predicting took "
            f"{_time(spent)}, and the cheapest cell takes about {_time(min(cheapest.values()))}; "
            f"give {_time(math.ceil(smallest))} or more",
            smallest,
        )
    targets_paid = ", ".join(f"{x:g}" for x in paid_targets)
    layers_paid = ", ".join(f"{name} ({count} chips)" for name, count in paid_layers.items())
    notes.append(
        f"a budget of {_time(whole_budget)} chose: "
        + (f"targets {targets_paid} ({fewer} samples); " if paid_targets else "")
        + (f"layers {layers_paid}; " if paid_layers else "")
        + (f"{chips} chips of the task" if chips else "no task")
    )
    left_out = [f"target {x:g}" for x in targets if x not in paid_targets]
    left_out += [f"layer {name}" for name in layers if name not in paid_layers]
    left_out += ["the task"] if task is not None and not chips else []
    if left_out:
        notes.append(f"the budget left out: {', '.join(left_out)}")
    return Choice([x for x in targets if x in paid_targets], fewer, paid_layers, chips, notes)


def _smallest(cheapest: Mapping[str, float]) -> float:
    """Return the least seconds of work with which `choose` finds one cell.

    A level may spend its own share and what the levels before it left.

    Args:
        cheapest: Seconds of the cheapest cell per level, of the levels that are asked for.
    """
    total, reached, budgets = sum(SHARES[level] for level in cheapest), 0.0, []
    for level in SHARES:
        if level in cheapest:
            reached += SHARES[level]
            budgets.append(cheapest[level] * total / reached)
    return min(budgets)


def _devices_for(
    seconds: float, targets: list[float], samples: int, target_cost: float
) -> tuple[list[float], int]:
    """Return the targets and samples that some seconds pay for.

    Samples become fewer first, but not fewer than `FEWEST_SAMPLES`; then targets do.
    """
    if not targets:
        return [], samples
    least = min(samples, FEWEST_SAMPLES)
    share = min(1.0, seconds / (len(targets) * target_cost))
    if share * samples >= least:
        return list(targets), int(share * samples)
    order = [x for x in _ORDER if x in targets] + [x for x in targets if x not in _ORDER]
    return order[: int(seconds / (target_cost * least / samples))], least


def _layers_for(
    seconds: float, layers: dict[str, tuple[Layer, int, Cost]]
) -> tuple[dict[str, int], float]:
    """Return the chips of the layers that some seconds pay for, and the seconds that are left.

    Every layer gets fewer chips first. Then the most expensive layers go, and those of a kind with
    several layers go before the rest.
    """
    affordable = dict(layers)
    while affordable:
        fixed = sum(cost.fixed for _, _, cost in affordable.values())
        a_round = sum(chips * cost.a_chip for _, chips, cost in affordable.values())
        share = min(1.0, (seconds - fixed) / a_round) if a_round > 0 else 1.0
        chips = {name: int(share * wanted) for name, (_, wanted, _) in affordable.items()}
        fewest = {name: min(FEWEST_CHIPS, wanted) for name, (_, wanted, _) in affordable.items()}
        if all(chips[name] >= fewest[name] for name in affordable):
            spent = sum(cost.of(chips[name]) for name, (_, _, cost) in affordable.items())
            return chips, seconds - spent
        kinds = [layer.kind for layer, _, _ in affordable.values()]
        repeated = [
            name for name, (layer, _, _) in affordable.items() if kinds.count(layer.kind) > 1
        ]
        dearest = max(repeated or affordable, key=lambda name: affordable[name][2].of(FEWEST_CHIPS))
        del affordable[dearest]
    return {}, seconds


def _time(seconds: float) -> str:
    """Write a duration for people."""
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return label(round(seconds)) if seconds >= 1 else f"{seconds:.2g} s"
