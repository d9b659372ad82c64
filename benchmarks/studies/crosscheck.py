"""A cross-check of presets and tasks: its reports, their budgets, one verdict over all."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from torch import nn

import presets
from aimc_bridge.commands import Output
from aimc_bridge.conversion import convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.equivalence import Report, crosscheck, lightning_side
from aimc_bridge.equivalence.against_lightning import without_definitions
from aimc_bridge.equivalence.lightning_side import LIGHTNING
from aimc_bridge.equivalence.plan import BudgetError
from aimc_bridge.equivalence.report import LEVELS
from aimc_bridge.errors import UsageError
from aimc_bridge.files import write_text
from aimc_bridge.spec import Preset
from benchmarks.machine import hardware, versions
from benchmarks.report.html import build, page
from benchmarks.report.record import as_json
from benchmarks.report.verdict import in_short, summary, verdict_of
from benchmarks.studies import run_steps
from benchmarks.studies.base import Study
from benchmarks.studies.budget import Budget, as_option
from benchmarks.studies.claims import DIRECTORY
from benchmarks.studies.crosscheck_options import CrosscheckOptions, one_or_two
from benchmarks.studies.finished_parts import load_weights
from benchmarks.studies.steps import Step, Steps
from benchmarks.tasks import Task

FILE = "crosscheck.json"
BUDGET = Path("work") / "budget.json"
CALIBRATION = 8  # batches of training data; they set the input ranges and are the layers' inputs
_SPARE = 1.5  # factor on predicted costs: a busy machine may take that much longer


@dataclass(frozen=True)
class Planned:
    """One report of the cross-check, before it is made.

    Attributes:
        name: Its folder: "PRESET/device", "PRESET/TASK", or "PRESET-OTHER/..." for two presets.
        preset: The preset of both engines, or of the first side if two presets are compared.
        task: The task whose model is compared; None for devices.
        against: The preset of the second side if two presets are compared, else None.
        levels: The levels that are compared.
    """

    name: str
    preset: Preset
    task: str | None
    against: Preset | None
    levels: tuple[str, ...]

    @property
    def should_agree(self) -> bool:
        """True if a difference is a failure: two engines should agree, two presets may differ."""
        return self.against is None


class Crosscheck:
    """The cross-check of some presets and tasks; finished parts are files in a folder.

    Attributes:
        options: The options.
        output: Where notes go.
        settings: The settings of the digital models.
        levels: The levels that are compared, in the order of `LEVELS`.
        checkpoints: Task -> its digital model, for tasks whose digital model is given.
        trained: Task -> its hardware-aware model, for tasks whose hardware-aware model is given.
        tasks: Name -> task; empty if only devices are compared.
    """

    def __init__(self, options: CrosscheckOptions, output: Output = Output()) -> None:
        """Check the options, before anything is done.

        Args:
            options: The options.
            output: Where notes go.

        Raises:
            UsageError: If presets, levels, metrics, layers or files of weights do not fit together.
            CheckpointError: If a file with weights is missing, damaged or of another model.
            DataError: If the data of a task are missing or damaged.
        """
        self.options, self.output = options, output
        self.settings = settings = options.of_models()
        if not options.preset:
            raise UsageError(f"--preset names no preset; there are: {', '.join(presets.names())}")
        if not options.levels:
            raise UsageError(f"--levels names no level; some of {', '.join(LEVELS)}")
        self.levels = tuple(level for level in LEVELS if level in options.levels)
        if options.reference == LIGHTNING:
            if "layer" not in options.levels or options.against or options.times:
                raise UsageError(
                    "--reference lightning compares layers: with --levels layer, without --against "
                    "and --times"
                )
            self.levels = ("layer",)
            for preset in options.preset:
                lightning_side.check(preset)
        if options.metrics is not None and "task" not in self.levels:
            raise UsageError("--metrics are of the task level; with --levels task")
        self.checkpoints, self.trained = settings.checkpoints(), settings.trained_files()
        self.tasks = {} if self.levels == ("device",) else settings.make_tasks()
        for task in self.tasks.values():
            self._metrics_of(task)
        self._check_weights()
        if "layer" in self.levels and options.layers:
            for task in self.tasks.values():
                _check_layers(task, options.layers)

    def reports(self) -> list[Planned]:
        """Return all reports in order; the devices of each preset come first."""
        planned = []
        rest = tuple(level for level in self.levels if level != "device")
        chosen = self.options.preset
        pairs: list[tuple[Preset, Preset | None]] = [(preset, None) for preset in chosen]
        pairs += [(chosen[0], other) for other in self.options.others]
        for preset, against in pairs:
            name = preset.name if against is None else f"{preset.name}-{against.name}"
            if "device" in self.levels:
                planned.append(Planned(f"{name}/device", preset, None, against, ("device",)))
            if rest:
                planned += [Planned(f"{name}/{t}", preset, t, against, rest) for t in self.tasks]
        return planned

    def budget(self, path: Path | None = None) -> Budget | None:
        """Predict the cheapest plan of every report; refuse a budget that is too small for it.

        The cost of a model that is not trained yet is predicted with its starting weights: the cost
        of a layer does not depend on their values.

        Args:
            path: The file with the budget of an interrupted cross-check. What it holds is not
                predicted again.

        Returns:
            The budget, or None if the options have none.

        Raises:
            UsageError: If the budget is too small for one cell per report; the error names the
                smallest budget that is enough.
        """
        total_s = self.options.budget
        if total_s is None:
            return None
        resumed = path is not None and path.exists()
        budget = Budget.read(path, total_s) if path is not None and resumed else Budget(total_s)
        new = [report for report in self.reports() if report.name not in budget.smallest_s]
        if new:
            self.output.say("predicting the cheapest plan of every report")
            began = time.monotonic()
            models = {name: self._unlearned(name) for name in self.tasks}
            for report in new:
                budget.smallest_s[report.name] = self._smallest(report, models)
            budget.spent_s += time.monotonic() - began
            budget.check()
        return budget

    def plan(self, budget: Budget | None) -> list[str]:
        """Describe what is compared, one line per report.

        Args:
            budget: The result of `budget`.
        """
        lines = []
        for report in self.reports():
            sides = f"native against {self.options.reference}"
            if not report.should_agree:
                sides = "two presets, may differ"
            line = f"{report.name}: {', '.join(report.levels)}; {sides}"
            if budget is not None:
                line += f"; {as_option(budget.smallest_s[report.name])} at least"
            lines.append(line)
        return [*lines, self.steps().estimate().text()]

    def steps(self) -> Steps:
        """Return the parts that take time: the digital models, then the reports."""
        options = self.options
        listed: list[Step] = []
        for name, task in self.tasks.items():
            if name not in self.trained:
                listed += run_steps.digital(Study(task, self.settings, Path(name), self.output))
        for planned in self.reports():
            cost = {
                "levels": planned.levels,
                "chips": options.chips,
                "times": options.times,
                "targets": options.targets,
                "samples": options.samples,
                "layers": options.layers,
                "subset": options.subset,
                "budget": options.budget,
                "workers": options.workers,
                "profile": options.profile,
                "device": options.device,
                "reference": options.reference,
            }
            kind = f"crosscheck {planned.name}: {json.dumps(cost, default=str)}"
            listed.append(Step(planned.name, f"comparing {planned.name}", ((kind, 1.0),)))
        return Steps(listed, self.output)

    def run(self, folder: Path, budget: Budget | None, command: str) -> list[dict[str, Any]]:
        """Make all reports, one folder each, and crosscheck.json and summary.md over all of them.

        Args:
            folder: The folder of the results.
            budget: The result of `budget`.
            command: The command line, for the record.

        Returns:
            One short form per report; see `benchmarks.report.verdict.in_short`.
        """
        if self.options.profile != "paper" and self.tasks:
            self.output.say(
                f"profile {self.options.profile}: not the paper's models or data", "yellow"
            )
        steps = self.steps()
        models = {name: self._model(name, folder / "work" / name, steps) for name in self.tasks}
        done: list[dict[str, Any]] = []
        for planned in self.reports():
            share = None
            if budget is not None:
                share = budget.share(planned.name)
                budget.write(folder / BUDGET)
            began = time.monotonic()
            place = folder / "work" / planned.name
            with steps.doing(planned.name, whole=not place.exists()):
                report = self._compare(planned, models, share, place)
                report.save(folder / planned.name)
            wall_s = time.monotonic() - began
            if self.options.reference == LIGHTNING:
                report = without_definitions(report)
            if budget is not None:
                budget.spent_s += wall_s
            done.append(in_short(planned.name, planned.should_agree, report, wall_s))
            self._write(folder, done, command)
        return done

    def _write(self, folder: Path, done: list[dict[str, Any]], command: str) -> None:
        planned = len(self.reports())
        verdict = verdict_of(done, planned)
        about = {
            "kind": "crosscheck",
            "name": folder.name,
            "command": command,
            "finished": len(done) == planned,
            "verdict": {"word": verdict.word, "text": verdict.text},
            "arguments": self.options.claim(),
            DIRECTORY: str(Path.cwd()),
            "versions": versions(),
            "hardware": hardware(),
            "models": {
                name: {
                    "model": task.model_name,
                    "dataset": task.dataset,
                    "profile": self.options.profile,
                }
                for name, task in self.tasks.items()
            },
        }
        write_text(folder / FILE, as_json({**about, "reports": done}) + "\n")
        write_text(folder / "run.json", json.dumps(about, indent=1) + "\n")
        write_text(folder / "summary.md", summary(done, planned, command))
        page.write(build.of_crosscheck(folder, {**about, "reports": done}), folder / page.FILE)

    # --- checks ---

    def _metrics_of(self, task: Task) -> tuple[str, ...]:
        """Return the metrics that the task level compares.

        Raises:
            UsageError: If the task does not have a metric.
        """
        # the probability of a word is small: a margin of half a point would be too wide for it
        more = ("probability",) if task.metric == "accuracy" else ()
        allowed = (task.metric, "error", "loss", *more)
        metrics = tuple(dict.fromkeys(self.options.metrics or (task.metric,)))
        unknown = [name for name in metrics if name not in allowed]
        if unknown:
            raise UsageError(f"--metrics {' '.join(unknown)}: {task.name} has {', '.join(allowed)}")
        return metrics

    def _check_weights(self) -> None:
        both = sorted(self.checkpoints.keys() & self.trained.keys())
        if both:
            raise UsageError(f"{', '.join(both)}: --checkpoint and --trained; give one of them")
        if self.trained and (len(self.options.preset) > 1 or self.options.others):
            raise UsageError("--trained was trained under one preset; name it, and no --against")
        for name, task in self.tasks.items():
            if name in self.checkpoints:
                task.load(self.checkpoints[name])
            self._trained_model(task)

    # --- models and reports ---

    def _trained_model(self, task: Task) -> nn.Module | None:
        """Return the hardware-aware model that is given for a task, or None."""
        if task.name not in self.trained:
            return None
        skeleton, preset = task.skeleton().eval(), self.options.preset[0]
        analog = convert(skeleton, preset, exclude=task.digital_names(skeleton))
        load_weights(analog, self.trained[task.name])
        return analog.eval()

    def _model(self, name: str, folder: Path, steps: Steps) -> nn.Module:
        """Return a task's digital model on the CPU: the given one, or a trained one."""
        task = self.tasks[name]
        if name in self.trained:
            return task.skeleton().eval()
        folder.mkdir(parents=True, exist_ok=True)
        study = Study(task, self.settings, folder, self.output)
        study.parts.recall()
        with run_steps.digital_training(study, steps):
            return study.digital_model().cpu().eval()

    def _unlearned(self, name: str) -> nn.Module:
        """Return a model to predict costs with; its weights are given ones or starting weights."""
        task = self.tasks[name]
        if name in self.trained:
            return task.skeleton().eval()
        if name in self.checkpoints:
            return task.load(self.checkpoints[name])
        return task.build(self.options.seed).eval()

    def _smallest(self, planned: Planned, models: Mapping[str, nn.Module]) -> float:
        """Return the wall seconds of a report's cheapest plan, predicting included."""
        try:
            self._compare(planned, models, 1e-9, None)
        except BudgetError as error:  # no plan is that cheap: this always happens
            return _SPARE * error.smallest_s / self.options.workers
        return 0.0  # pragma: no cover

    def _compare(
        self,
        planned: Planned,
        models: Mapping[str, nn.Module],
        share: float | None,
        resume: Path | None,
    ) -> Report:
        options = self.options
        task = None if planned.task is None else self.tasks[planned.task]
        evaluate = None
        digital = None if planned.task is None else models[planned.task]
        exclude = () if task is None or digital is None else task.digital_names(digital)
        if task is not None and "task" in planned.levels:
            metrics = self._metrics_of(task)
            evaluate = functools.partial(_evaluate, task, options.subset, metrics)
        return crosscheck(
            digital,
            planned.preset,
            None if task is None else task.calibration_batches(CALIBRATION),
            options.times,
            options.chips,
            against=planned.against,
            reference=self.options.reference,
            trained=None if task is None else self._trained_model(task),
            evaluate=evaluate,
            task_chips=one_or_two(options.task_chips),
            seed=options.seed,
            levels=planned.levels,
            layers=options.layers,
            exclude=exclude,
            targets=options.targets,
            samples=options.samples,
            budget=share,
            compiled=options.compiled,
            device=options.device,
            resume=resume,
            workers=options.workers,
            progress=self.output.bars and resume is not None,
        )


def _evaluate(
    task: Task, subset: int, metrics: tuple[str, ...], model: nn.Module
) -> dict[str, float]:
    values = task.evaluate(model, subset, probability="probability" in metrics)
    return {name: values[name] for name in metrics}


def _check_layers(task: Task, patterns: Sequence[str]) -> None:
    """Refuse a name or pattern that matches no layer of the task.

    Raises:
        UsageError: If a pattern matches none; the error lists the layers.
    """
    skeleton = task.skeleton()
    analog = convert(skeleton, presets.ideal, exclude=task.digital_names(skeleton))
    names = list(matrices_of(analog))
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"--layers {pattern!r} matches none of {task.name}: {', '.join(names)}"
            )
