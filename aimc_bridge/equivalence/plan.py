"""What a cross-check will cost, found from small pieces, and what a budget buys."""

from __future__ import annotations

import copy
import dataclasses
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
from aimc_bridge.equivalence.side import AIHWKIT, Setting, Side, measure, noisy
from aimc_bridge.equivalence.statistics import ALPHA
from aimc_bridge.equivalence.task import MOST_CHIPS as MOST_TASK_CHIPS
from aimc_bridge.equivalence.task import POINTS, Value, margin_of
from aimc_bridge.errors import UsageError
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset
from aimc_bridge.times import label

FEWEST_SAMPLES = 200_000  # devices a cell
FEWEST_CHIPS, USUAL_CHIPS, MOST_CHIPS = 16, 96, 1600
LAYER_SECONDS = 180.0  # of work that a layer takes at most without a budget, but for USUAL_CHIPS
_PILOT = 16  # chips of the native engine, none of them used again
_FAMILY = 400  # rows of a layer level, roughly: what Holm's first step divides by
_POWER = 0.95
_LARGE, _COLUMNS = 200_000, 64  # weights of a layer from which on a piece of it is timed
_ORDER = (0.0, 0.1, 1.0, 0.5, 0.25, 0.05, 0.75, 0.01)  # targets, the most telling first
SHARES = {"device": 0.25, "layer": 0.5, "task": 0.25}  # of a budget that does not pay for all


class BudgetError(UsageError):
    """A budget that does not pay for one cell.

    Attributes:
        smallest_s: Seconds of work of the smallest budget that does, predicting included; wall
            time is this over the number of workers.
    """

    def __init__(self, message: str, smallest_s: float) -> None:
        super().__init__(message)
        self.smallest_s = smallest_s


@dataclass(frozen=True)
class Cost:
    """Seconds: once, and for every chip."""

    fixed: float
    a_chip: float

    def of(self, chips: int) -> float:
        return self.fixed + chips * self.a_chip


@dataclass
class Choice:
    """What is done: targets of devices and samples of a cell, chips of each layer by name, chips of
    the task; `first`: those of the task's first side, where they are others."""

    targets: list[float]
    samples: int
    layers: dict[str, int]
    task: int
    notes: list[str]
    first: int | None = None

    @property
    def sides(self) -> tuple[int, int]:
        """Chips of the task's two sides."""
        return self.task if self.first is None else self.first, self.task

    def to_dict(self) -> dict[str, Any]:
        return vars(self)


def timed(work: Callable[[], Any]) -> float:
    """Wall seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def chips_needed(layer: Layer, preset: Preset, setting: Setting) -> int:
    """Chips with which every mean of a layer is decided with a power of 95 %, if the engines agree.

    From the spread between a few native chips that are not used again, at the last time, where it
    is largest.
    """
    last = (max(setting.times),)
    pilot = Setting(last, _PILOT, derive(setting.seed, "pilot"), setting.vectors, setting.reads)
    found = measure(Side(layer, preset, "native"), pilot)
    z = float(stats.norm.isf(ALPHA / _FAMILY) + stats.norm.isf(1 - _POWER))
    wanted = [float(USUAL_CHIPS)]
    shares = {"gain": GAIN, "error": ERROR}
    if noisy(preset):
        shares["read"] = READ_SD
    for name, share in shares.items():
        values = found.column(name, 0)
        if values.mean() > 0:
            wanted.append(_count(float(values.std(ddof=1) / values.mean()), share, z))
    if preset.compensation.drift_compensation in MEASURED:
        alpha, bias = found.column("alpha", 0), found.column("bias", 0).mean(1)
        wanted.append(_count(float((alpha.std(0, ddof=1) / alpha.mean(0)).max()), ALPHA_MEAN, z))
        wanted.append(_count(float(bias.std(ddof=1)), ALPHA_BIAS, z))
    tiles = len(layer.grid.rows) * len(layer.grid.columns)
    wanted.append((z / math.log1p(ALPHA_SD)) ** 2 / tiles)
    return int(np.clip(math.ceil(max(wanted)), FEWEST_CHIPS, MOST_CHIPS))


def _count(spread: float, margin: float, z: float) -> float:
    return 2 * (z * spread / margin) ** 2


def layer_cost(layer: Layer, preset: Preset, setting: Setting) -> Cost:
    """From one chip on each engine; of a large layer, from a few of its columns."""
    whole = layer.grid.out_features
    if layer.weights > _LARGE and whole > _COLUMNS and layer.grid.groups == 1:
        piece = layer_cost(_columns_of(layer, preset, _COLUMNS), preset, setting)
        return Cost(piece.fixed * whole / _COLUMNS, piece.a_chip * whole / _COLUMNS)
    one = dataclasses.replace(setting, chips=1, seed=derive(setting.seed, "cost"))
    total = 0.0
    for engine in setting.engines:
        side = setting.side(layer, preset, engine)
        measure(side, one)  # the first one is slower
        outputs = timed(lambda side=side: measure(side, one))  # type: ignore[misc]
        alpha = timed(lambda side=side: measure(side, one, what="alpha"))  # type: ignore[misc]
        others = sum(kind != preset.compensation.drift_compensation for kind in MEASURED)
        total += outputs + others * alpha
        if engine == AIHWKIT:
            # clipping twice and the exact part: a chip at one time or two, with more inputs
            fixed = 200 * alpha / max(1, len(setting.times))
    return Cost(fixed, total)


def _columns_of(layer: Layer, preset: Preset, count: int) -> Layer:
    """The layer with its first outputs alone."""
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
    """Of a chip on the second side and `ratio` chips on the first: one native evaluation, and how
    much slower aihwkit is on a small piece of the inputs."""
    program(native, 0)
    native_drift = timed(lambda: drift(native, 1.0))
    evaluation = timed(lambda: evaluate(native))
    made: list[nn.Module] = []
    building = timed(lambda: made.append(fresh()))
    other = made[0]
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
    run_batch(model, batch, next(model.parameters()).device)


def _piece(model: nn.Module, batch: Any) -> Any:
    """A few rows of a batch, or all of it where the model does not take that."""

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
    """Chips with which each metric at each time is decided with a power of 95 %, if the two sides
    agree; of metrics that are shares, where there are any."""
    keys = list(dict.fromkeys((t_s, metric) for t_s, metric, _ in pilot[0]))
    found = {
        key: np.array([v for chip in pilot for t, m, v in chip if (t, m) == key]) for key in keys
    }
    margins = {key: margin_of(values, float(values.mean())) for key, values in found.items()}
    shares = [key for key in keys if margins[key] == POINTS] or keys
    z = float(stats.norm.isf(ALPHA / len(keys)) + stats.norm.isf(1 - _POWER))
    counts = [_count(float(found[key].std(ddof=1)), margins[key], z) for key in shares]
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
    """All of it, or the part that a budget (seconds of work, of which some are `spent`) pays for.

    Args:    target_cost  of one target with all samples.
             layers  name -> (layer, chips wanted, cost).    task  (chips wanted, cost), or None.
    Raises:  BudgetError where it does not pay for one cell.
    """
    everything = {name: chips for name, (_, chips, _) in layers.items()}
    wanted = {
        "device": len(targets) * target_cost,
        "layer": sum(cost.of(chips) for _, chips, cost in layers.values()),
        "task": 0.0 if task is None else task[1].of(task[0]),
    }
    total = sum(wanted.values())
    said = ", ".join(f"{level} {_time(s)}" for level, s in wanted.items() if s > 0)
    notes = [f"predicted: {_time(total)} of work ({said})"]
    chips = 0 if task is None else task[0]
    if budget is None or total <= budget - spent:
        return Choice(list(targets), samples, everything, chips, notes)
    given, budget = budget, max(0.0, budget - spent)
    asked = {level: SHARES[level] for level, seconds in wanted.items() if seconds > 0}
    left = {level: budget * share / sum(asked.values()) for level, share in asked.items()}
    kept, fewer = _devices_for(left.get("device", 0.0), targets, samples, target_cost)
    least = target_cost * min(samples, FEWEST_SAMPLES) / samples
    spare = left.get("device", 0.0) - len(kept) * target_cost * fewer / samples
    chosen, spare = _layers_for(left.get("layer", 0.0) + spare, layers)
    if task is not None:
        chips = min(task[0], int((left["task"] + spare) / max(task[1].a_chip, 1e-9)))
        chips = chips if chips >= 2 else 0
    if not kept and not chosen and not chips:
        cheapest = {"device": least} if targets else {}
        if layers:
            fewest = [cost.of(min(FEWEST_CHIPS, n)) for _, n, cost in layers.values()]
            cheapest["layer"] = min(fewest)
        if task is not None:
            cheapest["task"] = task[1].of(2)
        smallest = spent + _smallest(cheapest)
        raise BudgetError(
            f"budget of {_time(given)} is too small for one cell: predicting took {_time(spent)}, "
            f"and the cheapest cell takes about {_time(min(cheapest.values()))}; "
            f"give {_time(math.ceil(smallest))} or more",
            smallest,
        )
    notes.append(
        f"a budget of {_time(given)} chose: "
        + (f"targets {', '.join(f'{x:g}' for x in kept)} ({fewer} samples); " if kept else "")
        + (f"layers {', '.join(f'{k} ({n} chips)' for k, n in chosen.items())}; " if chosen else "")
        + (f"{chips} chips of the task" if chips else "no task")
    )
    out = [f"target {x:g}" for x in targets if x not in kept]
    out += [f"layer {name}" for name in layers if name not in chosen]
    out += ["the task"] if task is not None and not chips else []
    if out:
        notes.append(f"the budget left out: {', '.join(out)}")
    return Choice([x for x in targets if x in kept], fewer, chosen, chips, notes)


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
    """Targets and samples that fit: first fewer samples, not below 2e5, then fewer targets."""
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
    """Chips of the layers that fit, and the seconds not spent.

    First every layer gets fewer chips; then the dearest layers go, those of a kind of which there
    are others before the rest.
    """
    kept = dict(layers)
    while kept:
        fixed = sum(cost.fixed for _, _, cost in kept.values())
        a_round = sum(chips * cost.a_chip for _, chips, cost in kept.values())
        share = min(1.0, (seconds - fixed) / a_round) if a_round > 0 else 1.0
        chips = {name: int(share * wanted) for name, (_, wanted, _) in kept.items()}
        fewest = {name: min(FEWEST_CHIPS, wanted) for name, (_, wanted, _) in kept.items()}
        if all(chips[name] >= fewest[name] for name in kept):
            spent = sum(cost.of(chips[name]) for name, (_, _, cost) in kept.items())
            return chips, seconds - spent
        kinds = [layer.kind for layer, _, _ in kept.values()]
        repeated = [name for name, (layer, _, _) in kept.items() if kinds.count(layer.kind) > 1]
        dearest = max(repeated or kept, key=lambda name: kept[name][2].of(FEWEST_CHIPS))
        del kept[dearest]
    return {}, seconds


def _time(seconds: float) -> str:
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return label(round(seconds)) if seconds >= 1 else f"{seconds:.2g} s"
