"""The cross-check: `python -m benchmarks.crosscheck [wrn] [bert] [lstm]`.

For each preset: devices, then the layers (and the metric) of each task's trained model, native
against aihwkit; and two presets on the native engine, which may differ. Writes crosscheck.csv,
summary.md and figures a preset and model, crosscheck.json over all. Exit codes: 0 no cell that
should agree is different, 1 one is, 2 bad usage.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import shlex
import sys
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

import presets
from aimc_bridge.conversion import convert
from aimc_bridge.engines.base import matrices_of
from aimc_bridge.equivalence import Report, crosscheck
from aimc_bridge.equivalence.device import SAMPLES, TARGETS
from aimc_bridge.equivalence.report import LEVELS
from aimc_bridge.errors import AimcError, UsageError
from aimc_bridge.spec import Preset
from aimc_bridge.times import seconds
from benchmarks import digital, tasks
from benchmarks.arguments import options_of
from benchmarks.command import (
    Parser,
    add_tasks,
    add_trained,
    check_device,
    holds_a_run,
    paths_of,
    task_names,
)
from benchmarks.files import replace_file
from benchmarks.machine import hardware, versions
from benchmarks.report import folders
from benchmarks.report.record import as_json, check_name
from benchmarks.studies.weights import trained_model
from benchmarks.tasks import Task
from benchmarks.tasks.data import data_dir

PRESETS = ("rasch2023", "scalar_drift", "hermes")
_WORST = 12  # rows of a report that the record keeps


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.crosscheck",
        description="Compare the native engine with aihwkit, with statistics.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add_tasks(add)
    add("--preset", nargs="*", default=list(PRESETS), help=", ".join(presets.names()))
    add(
        "--against",
        nargs="*",
        help="presets compared with the first one natively; default scalar_drift with rasch2023",
    )
    add("--levels", nargs="*", default=["device", "layer"], help=", ".join(LEVELS))
    add("--times", nargs="*", help="as 1s 1h '1 day' 3600; by default those of each level")
    add("--targets", nargs="*", type=float, default=list(TARGETS), help="of devices, over g_max")
    add("--samples", type=int, default=SAMPLES, help="devices a cell")
    add("--chips", type=int, help="of each side of every layer; default: as many as it needs")
    add(
        "--task-chips",
        nargs="+",
        type=int,
        metavar="N",
        help="of each side of the task level, or of the native side and of the other",
    )
    add("--layers", nargs="*", help="names or patterns; default: up to two of each kind")
    add("--subset", type=int, default=200, help="test samples (words) of the task level")
    add(
        "--metrics",
        nargs="+",
        metavar="NAME",
        help="of the task level: accuracy (the default; perplexity of lstm), error, loss, or "
        "probability, the mean of what the model gives the right class",
    )
    add_trained(add)
    add("--option", "-o", action="append", default=[], metavar="KEY=VALUE", help="of the task")
    add("--budget", help="wall time for all of it, as 20m: what it pays for is done, and named")
    add("--compiled", action="store_true", help="the native engine as native.compiled runs it")
    add("--device", default="cpu", help="cpu or cuda: where the native engine runs")
    add("--workers", type=int, default=2, help="processes")
    add("--seed", type=int, default=0)
    add("--out", type=Path, default=Path("runs/crosscheck"), help="folder of the results")
    add("--resume", action="store_true", help="go on with the cross-check in --out")
    add("--record", metavar="NAME", help="keep it as benchmarks/records/crosscheck-NAME.json")
    add("--ladder", action="store_true", help="from scalar_drift to rasch2023, one step at a time")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    if "--ladder" in words:  # options of its own
        from benchmarks.ladder import main as climb

        return climb([word for word in words if word != "--ladder"])
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    try:
        given = parser().parse_intermixed_args(words)
        return 1 if _Crosscheck(given, words, console).run() else 0
    except AimcError as error:
        console.print(f"error: {' '.join(str(error).split())}", style="red")
        return 2
    except OSError as error:  # a folder that cannot be written, a full disk
        problem = f"{error.filename or 'a file'}: {error.strerror or error}"
        console.print(f"error: {problem}", style="red")
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; what is done is kept; to go on: the same command with --resume")
        return 130


@dataclasses.dataclass(frozen=True)
class Part:
    """One report of the run. `agree`: whether a difference is a failure."""

    name: str
    preset: Preset
    task: str | None
    against: Preset | None
    levels: tuple[str, ...]

    @property
    def agree(self) -> bool:
        return self.against is None


class _Crosscheck:
    """Everything is checked before anything is done."""

    def __init__(self, given: argparse.Namespace, words: list[str], console: Console) -> None:
        self.given, self.words, self.console = given, words, console
        self.levels = tuple(level for level in LEVELS if level in given.levels)
        unknown = [level for level in given.levels if level not in LEVELS]
        if unknown or not self.levels:
            raise UsageError(
                f"--levels {' '.join(unknown) or '(none)'}; some of {', '.join(LEVELS)}"
            )
        unknown = [name for name in given.preset if name not in presets.names()]
        if unknown or not given.preset:
            allowed = ", ".join(presets.names())
            raise UsageError(f"--preset {' '.join(unknown)}: no such preset; there are: {allowed}")
        if given.record is not None:
            check_name(given.record, "--record")
        if given.metrics is not None and "task" not in self.levels:
            raise UsageError("--metrics are of the task level; with --levels task")
        check_device(given.device)
        for field in ("subset", "samples", "workers"):
            if getattr(given, field) < 1:
                raise UsageError(f"--{field} {getattr(given, field)}; allowed: 1 or more")
        self.times = None if given.times is None else [seconds(word) for word in given.times]
        self.budget = None if given.budget is None else seconds(given.budget)
        self.presets = [presets.get(name) for name in dict.fromkeys(given.preset)]
        usual = ["scalar_drift"] if given.preset[0] == "rasch2023" else []
        usual = [name for name in usual if name in given.preset]
        self.against = [presets.get(n) for n in (usual if given.against is None else given.against)]
        self.tasks = self._tasks()
        holds_a_run(given.out, given.resume)

    def _tasks(self) -> dict[str, Task]:
        given = self.given
        names = task_names(given.tasks, given.profile)
        self.checkpoints = paths_of("--checkpoint", given.checkpoint, names)
        self.trained = paths_of("--trained", given.trained, names)
        if self.levels == ("device",):
            return {}
        data_dir(given.data_dir)
        options = tasks.parse_options(given.option)
        made = {
            name: tasks.get(name, given.profile, given.data_dir, **options_of(name, options, names))
            for name in names
        }
        for task in made.values():
            self._metrics_of(task)
        for name, path in self.checkpoints.items():
            made[name].load(path)
        both = sorted(self.checkpoints.keys() & self.trained.keys())
        if both:
            raise UsageError(f"{', '.join(both)}: --checkpoint and --trained; give one of them")
        if self.trained and (len(self.presets) > 1 or self.against):
            raise UsageError("--trained was trained under one preset; name it, and no --against")
        for name in self.trained:
            trained_model(made[name], self.presets[0], self.trained[name])
        if "layer" in self.levels:
            self._check_layers(made)
        return made

    def _check_layers(self, made: dict[str, Task]) -> None:
        """UsageError where a name or pattern of --layers means no layer of a task."""
        for task in made.values() if self.given.layers else ():
            converted = convert(task.skeleton(), presets.ideal, exclude=list(task.exclude))
            names = list(matrices_of(converted))
            for pattern in self.given.layers:
                if not any(fnmatchcase(name, pattern) for name in names):
                    raise UsageError(
                        f"--layers {pattern!r} matches none of {task.name}: {', '.join(names)}"
                    )

    def _metrics_of(self, task: Task) -> tuple[str, ...]:
        """What the task level compares.

        Raises:  UsageError for a metric that the task does not have.
        """
        # a word's probability is small: half a point of it would be a wide margin
        more = ("probability",) if task.metric == "accuracy" else ()
        allowed = (task.metric, "error", "loss", *more)
        asked = tuple(dict.fromkeys(self.given.metrics or (task.metric,)))
        unknown = [name for name in asked if name not in allowed]
        if unknown:
            raise UsageError(f"--metrics {' '.join(unknown)}: {task.name} has {', '.join(allowed)}")
        return asked

    def parts(self) -> list[Part]:
        """All reports, the devices of each preset first."""
        found = []
        rest = tuple(level for level in self.levels if level != "device")
        pairs: list[tuple[Preset, Preset | None]] = [(preset, None) for preset in self.presets]
        pairs += [(self.presets[0], other) for other in self.against]
        for preset, against in pairs:
            name = preset.name if against is None else f"{preset.name}-{against.name}"
            if "device" in self.levels:
                found.append(Part(f"{name}/device", preset, None, against, ("device",)))
            if rest:
                found += [Part(f"{name}/{t}", preset, t, against, rest) for t in self.tasks]
        return found

    def run(self) -> int:
        """All parts; returns how many cells that should agree do not."""
        out = self.given.out
        out.mkdir(parents=True, exist_ok=True)
        if self.given.profile != "paper" and self.tasks:
            self.console.print(f"profile {self.given.profile}: not the paper's models or data")
        models = {name: self._model(name, task) for name, task in self.tasks.items()}
        parts, wrong, kept = self.parts(), 0, []
        began = time.monotonic()
        for index, part in enumerate(parts):
            self.console.print(f"[{index + 1}/{len(parts)}] {part.name}", style="bold")
            started = time.monotonic()
            share = None
            if self.budget is not None:  # what is left, evenly over what is left
                share = (self.budget - (started - began)) / (len(parts) - index)
            report = self._part(part, models, share)
            report.save(out / part.name)
            bad = len(report.different) if part.agree else 0
            wrong += bad
            counts = report.table["verdict"].value_counts()
            said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
            print(f"{part.name}: {said}; {out / part.name}")
            kept.append(about(part, report, time.monotonic() - started))
            self._write(kept, out / "crosscheck.json", out.name, len(kept) == len(parts))
        if self.given.record is not None:
            folders.keep(out, self.given.record)
        return wrong

    def _part(self, part: Part, models: dict[str, nn.Module], budget: float | None) -> Report:
        given = self.given
        task = None if part.task is None else self.tasks[part.task]
        trained = None
        if task is not None and part.task in self.trained:
            trained = trained_model(task, part.preset, self.trained[part.task])
        evaluate = None
        if task is not None and "task" in part.levels:
            evaluate = functools.partial(_evaluate, task, given.subset, self._metrics_of(task))
        return crosscheck(
            None if part.task is None else models[part.task],
            part.preset,
            None if task is None else task.calibration_batches(8),
            self.times,
            given.chips,
            against=part.against,
            trained=trained,
            evaluate=evaluate,
            task_chips=None if given.task_chips is None else _few(given.task_chips),
            seed=given.seed,
            levels=part.levels,
            layers=given.layers,
            exclude=() if task is None else task.exclude,
            targets=given.targets,
            samples=given.samples,
            budget=None if budget is None else max(budget, 0.0),
            compiled=given.compiled,
            device=given.device,
            resume=given.out / "work" / part.name,
            workers=given.workers,
        )

    def _model(self, name: str, task: Task) -> nn.Module:
        if name in self.trained:
            return task.skeleton().eval()
        if name in self.checkpoints:
            return task.load(self.checkpoints[name])
        folder = self.given.out / "work" / "digital" / name
        if not (folder / "model.safetensors").exists():
            self.console.print(f"digital training of {task.model_name} on {task.dataset}")
        return digital.fit(
            task,
            folder,
            seed=self.given.seed,
            resume=folder.exists(),
            device="cpu",
            console=self.console,
        ).eval()

    def _write(self, kept: list[dict[str, Any]], file: Path, name: str, finished: bool) -> None:
        about_all = {
            "kind": "crosscheck",
            "name": name,
            "command": shlex.join(["python", "-m", "benchmarks.crosscheck", *self.words]),
            "finished": finished,
            "arguments": {k: str(v) if isinstance(v, Path) else v for k, v in _plain(self.given)},
            "versions": versions(),
            "hardware": hardware(),
            "models": {
                name: {
                    "model": task.model_name,
                    "dataset": task.dataset,
                    "profile": self.given.profile,
                }
                for name, task in self.tasks.items()
            },
            "reports": kept,
        }
        replace_file(file, as_json(about_all) + "\n")


def about(part: Part, report: Report, wall_s: float) -> dict[str, Any]:
    """A report in short: verdicts by level and quantity, and the rows that come closest to their
    margins or beyond, those that are not equivalent first."""
    table = report.table
    counts = report.counts()
    size = (table["difference"].abs() / table["margin"]).clip(upper=1e9)
    worst = table.assign(
        of_margin=size, order=table["verdict"].map({"different": 0, "undecided": 1}).fillna(2)
    ).sort_values(["order", "of_margin"], ascending=[True, False])
    columns = ["cell", "quantity", "t_inference", "native", "aihwkit", "difference", "low", "high"]
    columns += ["margin", "p", "power", "verdict", "reference"]
    rows = [
        [_number(value) for value in row] for row in worst[columns].head(_WORST).to_numpy().tolist()
    ]
    return {
        "name": part.name,
        "sides": list(report.sides),
        "should_agree": part.agree,
        "wall_s": round(wall_s, 1),
        "notes": list(report.notes),
        "counts_columns": ["level", "quantity", *counts.columns],
        "counts": [[*index, *map(int, row)] for index, row in _rows(counts)],
        "worst_columns": columns,
        "worst": rows,
    }


def _few(numbers: list[int]) -> int | list[int]:
    return numbers[0] if len(numbers) == 1 else numbers


def _rows(counts: Any) -> list[tuple[Any, Any]]:
    return list(zip(counts.index.tolist(), counts.to_numpy().tolist(), strict=True))


def _number(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if value != value else float(f"{value:.5g}")


def _plain(given: argparse.Namespace) -> list[tuple[str, Any]]:
    left = ("out", "resume", "record")
    return [(key, value) for key, value in vars(given).items() if key not in left]


def _evaluate(
    task: Task, subset: int, metrics: tuple[str, ...], model: nn.Module
) -> dict[str, float]:
    values = task.evaluate(model, subset, probability="probability" in metrics)
    return {name: values[name] for name in metrics}


if __name__ == "__main__":
    sys.exit(main())
