"""A cross-check of presets and tasks: its reports, what each may cost, one verdict over all."""

from __future__ import annotations

import functools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

import presets
from aimc_bridge.conversion import convert
from aimc_bridge.engines.base import matrices_of
from aimc_bridge.equivalence import Report, crosscheck
from aimc_bridge.equivalence.device import SAMPLES, TARGETS
from aimc_bridge.equivalence.plan import BudgetError
from aimc_bridge.equivalence.report import LEVELS
from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import write_text
from aimc_bridge.spec import Preset
from benchmarks.studies.weights import Weights, trained_model
from benchmarks.tasks import Task

CALIBRATION = 8  # batches of training data that set the input ranges and are what the layers see
_WORST = 12  # rows of a report that the record keeps
_SPARE = 1.5  # of a predicted cost: a busy machine may take that much longer


@dataclass(frozen=True)
class Settings:
    """What is compared, and how thoroughly; None leaves the choice to `crosscheck`.

    Attributes:
        presets: Presets of which the native engine is compared with aihwkit.
        against: Presets that are compared with the first of `presets` on the native engine.
        levels: Some of "device", "layer", "task".
        times: Seconds after programming.
        chips: Chips of each side of every layer and of the task.
        task_chips: Chips of each side of the task, or one number for both.
        layers: Names or patterns of the layers.
        subset: Test samples (words) of the task level.
        metrics: Metrics of the task level; None is each task's own.
        targets: Conductances of the device level over g_max.
        samples: Devices per cell of the device level.
        budget_s: Wall time of all reports in seconds, digital training not counted.
        compiled: Whether the native engine runs its compiled passes.
        device: "cpu" or "cuda", for the native engine.
        workers: Processes.
        seed: First random seed.
        bars: Whether progress bars are shown.
    """

    presets: tuple[Preset, ...]
    against: tuple[Preset, ...] = ()
    levels: tuple[str, ...] = ("device", "layer")
    times: tuple[float, ...] | None = None
    chips: int | None = None
    task_chips: tuple[int, ...] | None = None
    layers: tuple[str, ...] | None = None
    subset: int = 200
    metrics: tuple[str, ...] | None = None
    targets: tuple[float, ...] = TARGETS
    samples: int = SAMPLES
    budget_s: float | None = None
    compiled: bool = False
    device: str = "cpu"
    workers: int = 2
    seed: int = 0
    bars: bool = True


@dataclass(frozen=True)
class Planned:
    """One report of the cross-check, before it is made.

    Attributes:
        name: Its folder: "PRESET/device", "PRESET/TASK", or "PRESET-OTHER/..." for two presets.
        preset: The preset of both engines, or of the first side.
        task: The task whose model is compared; None for devices.
        against: The preset of the second side if two presets are compared, else None.
        levels: What it compares.
    """

    name: str
    preset: Preset
    task: str | None
    against: Preset | None
    levels: tuple[str, ...]

    @property
    def should_agree(self) -> bool:
        """Whether a difference is a failure: two engines should agree, two presets need not."""
        return self.against is None


class Crosscheck:
    """The cross-check of some presets and tasks, in a folder.

    Everything is checked when it is built. Finished parts are on disk and are not done twice.
    """

    def __init__(
        self,
        tasks: Mapping[str, Task],
        weights: Mapping[str, Weights],
        settings: Settings,
        digital: Callable[[Task], nn.Module],
        say: Callable[[str], None],
    ) -> None:
        """Check what is asked for.

        Args:
            tasks: Tasks by name; none are needed for the device level alone.
            weights: Weights that the user gives, per task; others are trained by `digital`.
            settings: What is compared.
            digital: Returns a task's digital model: the given one, or trained now.
            say: Prints a line for the user.

        Raises:
            UsageError: If levels, metrics, layers or weights are not possible.
            CheckpointError: If a file with weights is missing, damaged or of another model.
        """
        self.settings, self.digital, self.say = settings, digital, say
        unknown = [level for level in settings.levels if level not in LEVELS]
        if unknown or not settings.levels:
            words = " ".join(unknown) or "(none)"
            raise UsageError(f"--levels {words}; some of {', '.join(LEVELS)}")
        self.levels = tuple(level for level in LEVELS if level in settings.levels)
        if not settings.presets:
            raise UsageError(f"--preset names no preset; there are: {', '.join(presets.names())}")
        if settings.metrics is not None and "task" not in self.levels:
            raise UsageError("--metrics are of the task level; with --levels task")
        self.tasks = {} if self.levels == ("device",) else dict(tasks)
        self.weights = {name: weights.get(name, Weights()) for name in self.tasks}
        for task in self.tasks.values():
            self._metrics_of(task)
        self._check_weights()
        if "layer" in self.levels and settings.layers:
            for task in self.tasks.values():
                _check_layers(task, settings.layers)

    def reports(self) -> list[Planned]:
        """Return all reports in their order, the devices of each preset first."""
        planned = []
        rest = tuple(level for level in self.levels if level != "device")
        first = self.settings.presets[0]
        pairs: list[tuple[Preset, Preset | None]] = [(p, None) for p in self.settings.presets]
        pairs += [(first, other) for other in self.settings.against]
        for preset, against in pairs:
            name = preset.name if against is None else f"{preset.name}-{against.name}"
            if "device" in self.levels:
                planned.append(Planned(f"{name}/device", preset, None, against, ("device",)))
            if rest:
                planned += [Planned(f"{name}/{t}", preset, t, against, rest) for t in self.tasks]
        return planned

    def budget(self, file: Path | None = None) -> Budget | None:
        """Predict the cheapest plan of all reports; refuse a budget that does not pay for it.

        Models that would be trained are predicted with their starting weights: what a layer costs
        does not depend on its values.

        Args:
            file: Where an interrupted cross-check noted its budget; it is not predicted again.

        Returns:
            The budget, or None if none is given.

        Raises:
            UsageError: If the budget does not pay for one cell per report; it names the smallest
                one that does.
        """
        if self.settings.budget_s is None:
            return None
        if file is not None and file.exists():
            return Budget.read(file, self.settings.budget_s)
        self.say("predicting the cheapest plan of every report")
        began = time.monotonic()
        models = {name: self._unlearned(name) for name in self.tasks}
        smallest = {one.name: self._smallest(one, models) for one in self.reports()}
        budget = Budget(self.settings.budget_s, smallest, time.monotonic() - began)
        budget.check()
        return budget

    def run(
        self, folder: Path, budget: Budget | None, done: Callable[[list[dict[str, Any]]], None]
    ) -> list[dict[str, Any]]:
        """Make all reports.

        Args:
            folder: Where they go, one folder per report.
            budget: What `budget` returned.
            done: Called after each report with all that are done, in short.

        Returns:
            The reports in short; see `in_short`.
        """
        models = {name: self._model(name) for name in self.tasks}
        planned, finished = self.reports(), []
        for index, one in enumerate(planned):
            self.say(f"[{index + 1}/{len(planned)}] {one.name}")
            share = None
            if budget is not None:
                share = budget.share(one.name)
                budget.write(folder / "work" / "budget.json")
            began = time.monotonic()
            report = self._compare(one, models, share, folder / "work" / one.name)
            report.save(folder / one.name)
            wall_s = time.monotonic() - began
            if budget is not None:
                budget.spent_s += wall_s
            finished.append(in_short(one, report, wall_s))
            done(finished)
        return finished

    # --- checks ---

    def _metrics_of(self, task: Task) -> tuple[str, ...]:
        """Return what the task level compares.

        Raises:
            UsageError: For a metric that the task does not have.
        """
        # a word's probability is small: half a point of it would be a wide margin
        more = ("probability",) if task.metric == "accuracy" else ()
        allowed = (task.metric, "error", "loss", *more)
        asked = tuple(dict.fromkeys(self.settings.metrics or (task.metric,)))
        unknown = [name for name in asked if name not in allowed]
        if unknown:
            raise UsageError(f"--metrics {' '.join(unknown)}: {task.name} has {', '.join(allowed)}")
        return asked

    def _check_weights(self) -> None:
        given = self.weights.items()
        both = sorted(name for name, one in given if one.digital and one.trained)
        if both:
            raise UsageError(f"{', '.join(both)}: --checkpoint and --trained; give one of them")
        trained = [name for name, one in given if one.trained]
        if trained and (len(self.settings.presets) > 1 or self.settings.against):
            raise UsageError("--trained was trained under one preset; name it, and no --against")
        for name, one in given:
            if one.digital is not None:
                self.tasks[name].load(one.digital)
            if one.trained is not None:
                trained_model(self.tasks[name], self.settings.presets[0], one.trained)

    # --- models and reports ---

    def _model(self, name: str) -> nn.Module:
        task = self.tasks[name]
        return task.skeleton().eval() if self.weights[name].trained else self.digital(task)

    def _unlearned(self, name: str) -> nn.Module:
        """Return a model for predictions: the given weights, or those a training starts from."""
        task, weights = self.tasks[name], self.weights[name]
        if weights.trained is not None:
            return task.skeleton().eval()
        if weights.digital is not None:
            return task.load(weights.digital)
        return task.build(self.settings.seed).eval()

    def _smallest(self, one: Planned, models: Mapping[str, nn.Module]) -> float:
        """Return the wall seconds of the report's cheapest plan, predicting included."""
        try:
            self._compare(one, models, 1e-9, None)
        except BudgetError as error:  # no budget is as small: this always happens
            return _SPARE * error.smallest_s / self.settings.workers
        return 0.0  # pragma: no cover

    def _compare(
        self,
        one: Planned,
        models: Mapping[str, nn.Module],
        share: float | None,
        resume: Path | None,
    ) -> Report:
        settings = self.settings
        task = None if one.task is None else self.tasks[one.task]
        trained = evaluate = None
        if task is not None:
            file = self.weights[task.name].trained
            trained = None if file is None else trained_model(task, one.preset, file)
            if "task" in one.levels:
                metrics = self._metrics_of(task)
                evaluate = functools.partial(_evaluate, task, settings.subset, metrics)
        return crosscheck(
            None if one.task is None else models[one.task],
            one.preset,
            None if task is None else task.calibration_batches(CALIBRATION),
            settings.times,
            settings.chips,
            against=one.against,
            trained=trained,
            evaluate=evaluate,
            task_chips=_one_or_two(settings.task_chips),
            seed=settings.seed,
            levels=one.levels,
            layers=settings.layers,
            exclude=() if task is None else task.exclude,
            targets=settings.targets,
            samples=settings.samples,
            budget=share,
            compiled=settings.compiled,
            device=settings.device,
            resume=resume,
            workers=settings.workers,
            progress=settings.bars and resume is not None,
        )


# --- the budget -----------------------------------------------------------------------------------


@dataclass
class Budget:
    """Wall time of a cross-check, and which part of it each report gets.

    Attributes:
        total_s: All of it.
        smallest_s: Seconds that each report needs at least, by its name, in order.
        spent_s: Seconds that are spent: predicting first, then the reports that are done.
        shares_s: Seconds that reports got, by name. A report that is resumed keeps its share.
    """

    total_s: float
    smallest_s: dict[str, float]
    spent_s: float = 0.0
    shares_s: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a budget that is too small for one cell per report.

        Raises:
            UsageError: If it is; it names the smallest budget that would do.
        """
        needed = self.spent_s + sum(self.smallest_s.values())
        if self.total_s < needed:
            dearest = max(self.smallest_s, key=lambda name: self.smallest_s[name])
            raise UsageError(
                f"--budget {_time(self.total_s)} is too small for one cell of each of "
                f"{len(self.smallest_s)} reports (most for {dearest}: "
                f"{_time(self.smallest_s[dearest])}; predicting: {_time(self.spent_s)}); give "
                f"--budget {_time(needed)} or more, or fewer presets, tasks or levels"
            )

    def share(self, name: str) -> float:
        """Return the seconds of a report: what it needs, and an even part of what is left over."""
        if name not in self.shares_s:
            waiting = [one for one in self.smallest_s if one not in self.shares_s]
            spare = self.total_s - self.spent_s - sum(self.smallest_s[one] for one in waiting)
            self.shares_s[name] = self.smallest_s[name] + max(0.0, spare) / len(waiting)
        return self.shares_s[name]

    def write(self, file: Path) -> None:
        """Note it for a resumed cross-check."""
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {name: value for name, value in vars(self).items() if name != "total_s"}
        write_text(file, json.dumps(values, indent=1) + "\n")

    @staticmethod
    def read(file: Path, total_s: float) -> Budget:
        """Return the budget that an interrupted cross-check noted.

        Raises:
            CheckpointError: If the file is damaged.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return Budget(total_s, values["smallest_s"], values["spent_s"], values["shares_s"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error!r}); remove it to predict the budget again"
            ) from None


def _time(seconds: float) -> str:
    """Whole seconds or minutes, rounded up, as --budget takes them."""
    return f"{math.ceil(seconds / 60)}m" if seconds >= 120 else f"{math.ceil(seconds)}s"


# --- a report in short ----------------------------------------------------------------------------


def in_short(one: Planned, report: Report, wall_s: float) -> dict[str, Any]:
    """Return a report in short, as plain data.

    Args:
        one: The report as it was planned.
        report: What came out.
        wall_s: How long it took.

    Returns:
        Verdicts per level and quantity, and the rows that come closest to their margins or exceed
        them, those that are not equivalent first.
    """
    table = report.table
    counts = report.counts()
    size = (table["difference"].abs() / table["margin"]).clip(upper=1e9)
    worst = table.assign(
        of_margin=size, order=table["verdict"].map({"different": 0, "undecided": 1}).fillna(2)
    ).sort_values(["order", "of_margin"], ascending=[True, False])
    columns = ["cell", "quantity", "t_inference", "native", "aihwkit", "difference", "low", "high"]
    columns += ["margin", "p", "power", "verdict", "reference"]
    places, numbers = counts.index.tolist(), counts.to_numpy().tolist()
    return {
        "name": one.name,
        "sides": list(report.sides),
        "should_agree": one.should_agree,
        "wall_s": round(wall_s, 1),
        "notes": list(report.notes),
        "counts_columns": ["level", "quantity", *counts.columns],
        "counts": [
            [*place, *map(int, row)] for place, row in zip(places, numbers, strict=True)
        ],
        "worst_columns": columns,
        "worst": [
            [_number(value) for value in row]
            for row in worst[columns].head(_WORST).to_numpy().tolist()
        ],
    }


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.5g}")


def _one_or_two(numbers: Sequence[int] | None) -> int | list[int] | None:
    """One number for both sides, or one per side."""
    if numbers is None:
        return None
    return numbers[0] if len(numbers) == 1 else list(numbers)


def _evaluate(
    task: Task, subset: int, metrics: tuple[str, ...], model: nn.Module
) -> dict[str, float]:
    values = task.evaluate(model, subset, probability="probability" in metrics)
    return {name: values[name] for name in metrics}


def _check_layers(task: Task, patterns: Sequence[str]) -> None:
    """Refuse a name or pattern that means no layer of the task.

    Raises:
        UsageError: For such a one; it lists the layers.
    """
    names = list(matrices_of(convert(task.skeleton(), presets.ideal, exclude=list(task.exclude))))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"--layers {pattern!r} matches none of {task.name}: {', '.join(names)}"
            )
