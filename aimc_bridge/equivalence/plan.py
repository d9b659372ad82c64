"""Choose what a budget of a cross-check pays for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.prediction import FEWEST_CHIPS, Cost
from aimc_bridge.errors import UsageError
from aimc_bridge.times import label

FEWEST_SAMPLES = 200_000  # devices per cell
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
