"""A whole run: its check before anything is done, its tasks and trainings, and its results.

A run writes results.csv, summary.md, figures and run.json, and beside each file of chips which
samples they got right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.commands import Output
from aimc_bridge.conversion import convert
from aimc_bridge.errors import UsageError
from aimc_bridge.sealed_files import damaged
from aimc_bridge.times import label
from benchmarks.machine import hardware, versions
from benchmarks.report import run as report
from benchmarks.report.answer_intervals import changes, intervals
from benchmarks.studies import finished_parts, folder, training_facts
from benchmarks.studies.base import Study
from benchmarks.studies.claims import DIRECTORY
from benchmarks.studies.estimates import Costs
from benchmarks.studies.inputs import (
    DIGITAL,
    Inputs,
    fingerprint,
    model_of,
    same,
    training_mark,
)
from benchmarks.studies.phases import PHASES, Phases
from benchmarks.studies.replicas import Replica
from benchmarks.studies.settings import Settings
from benchmarks.studies.side_by_side import packed, side_by_side, usual_workers
from benchmarks.studies.steps import Steps
from benchmarks.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

GROWING = ("times", "chips", "aihwkit_chips", "phases", "seeds")
"""Arguments that a resumed run may have more of; what is finished is not done again."""

_CHIPS = {"chips": "chips", "slow_chips": "aihwkit_chips"}  # name in the plan: name of the option


def prepare(settings: Settings, out: Path | None, resume: bool) -> tuple[Settings, dict[str, Task]]:
    """Check that a run can work, before anything is done or written.

    Args:
        settings: The options.
        out: The folder of the results, or None if the user names none.
        resume: Whether --resume was given.

    Returns:
        The settings, extended by what the run in the folder already has, and the tasks by name.

    Raises:
        AimcError: If anything is wrong.
    """
    if settings.phases is not None and not settings.phases:
        raise UsageError("--phases names no phase; one of direct, finetune, control, hwa")
    if resume and out is not None:
        settings = grown(settings, out)
    settings.check_engines()
    if out is not None:
        folder.holds_a_run(out, resume)
    checkpoints, trained = settings.checkpoints(), settings.trained_files()
    if trained and ("hwa" not in settings.measured or settings.seeds > 1):
        raise UsageError("--trained is the model of the phase hwa, of one training: no --seeds")
    for name in trained:
        if name not in checkpoints:
            raise UsageError(
                f"--trained of {name} without --checkpoint: name the digital model that it was "
                "trained from, which it is compared with"
            )
    if settings.seeds > 1 and checkpoints and settings.measured == ("direct",):
        raise UsageError(
            f"--seeds {settings.seeds}: with --checkpoint and the phase direct nothing is trained; "
            "more chips of one model: --chips"
        )
    for name in settings.tasks if settings.shard is not None else ():
        plan = settings.plan_of(name)
        settings.share(plan.chips if "native" in settings.engines else plan.slow_chips)
        settings.share(plan.slow_chips if "aihwkit" in settings.engines else plan.chips)
    tasks = settings.make_tasks()
    _check_names(tasks)
    for name, task in tasks.items():
        recipe = settings.recipe_of(task)
        before = Inputs(out / "work" / name) if resume and out is not None else None
        if before is not None:
            before.check_data(task)
        if name in checkpoints:
            model = task.load(checkpoints[name])
            if before is not None:
                before.check(DIGITAL, fingerprint(model))
        else:
            task.digital_loader(task.digital.batch_size, settings.seed)
        if name in trained:
            skeleton = task.skeleton().eval()
            analog = convert(skeleton, settings.preset, exclude=task.digital_names(skeleton))
            finished_parts.load_weights(analog, trained[name])
            if before is not None:
                before.check(model_of("hwa"), fingerprint(analog))
            training_facts.check(trained[name], task, settings, recipe, model)
        if "hwa" in settings.measured and name not in trained:
            settings.check_recipe(recipe)
        if {"hwa", "control", "finetune"} & set(settings.measured):
            _check_order(task, recipe.spec.batch_size, settings.seed)
    return settings, tasks


def _check_order(task: Task, batch_size: int, seed: int) -> None:
    """Check that the batches of a task depend on their seed alone.

    Raises:
        UsageError: If two loaders with the same seed give other batches.
    """
    first, second = (training_mark(task, batch_size, seed, most=0) for _ in range(2))
    if not same(first, second):
        raise UsageError(
            f"the train_loader of the task {task.name} gives other batches each time; they must "
            "depend on its seed alone, so that trainings can go on and be compared"
        )


def _check_names(tasks: Mapping[str, Task]) -> None:
    """Check that rows of results, which have the name of their model, tell tasks apart.

    Raises:
        UsageError: If two tasks have models of one name.
    """
    names: dict[str, str] = {}
    for name, task in tasks.items():
        other = names.setdefault(task.model_name, name)
        if other != name:
            raise UsageError(
                f"the models of the tasks {other} and {name} are both called {task.model_name}, "
                "which is all that tells their rows apart; give one another model_name, or "
                "run each by itself"
            )


def grown(settings: Settings, out: Path) -> Settings:
    """Add the times, phases, seeds and chips of the run in a folder to the settings.

    Args:
        settings: The settings of the command line.
        out: The folder.

    Returns:
        Settings that include both. If the folder holds another run, the settings come back as they
        are, and `folder.enter` refuses them later.

    Raises:
        UsageError: If an option asks for fewer chips than the run has.
    """
    try:
        before = folder.claim_in(out).arguments
        known = {field: before[field] for field in GROWING}
        known["times"] = tuple(float(t_s) for t_s in known["times"])
        known["phases"] = tuple(str(phase) for phase in known["phases"])
        known["seeds"] = int(known["seeds"])
    except (UsageError, KeyError):
        return settings
    except (TypeError, ValueError) as error:
        raise UsageError(str(damaged(out / "run.json", error, folder.PUT_BACK))) from None
    if before.get("profile") != settings.profile:
        return settings
    named = {*known["phases"], *(settings.phases or ())}
    more = dataclasses.replace(
        settings,
        times=tuple(sorted({*known["times"], *(settings.times or ())})),
        phases=tuple(phase for phase in PHASES if phase in named),
        seeds=max(known["seeds"], settings.seeds),
        chips=known["chips"] if settings.chips is None else settings.chips,
        aihwkit_chips=(
            known["aihwkit_chips"] if settings.aihwkit_chips is None else settings.aihwkit_chips
        ),
    )
    former = dataclasses.replace(more, chips=known["chips"], aihwkit_chips=known["aihwkit_chips"])
    for name in before.get("tasks", []):
        now, then = more.plan_of(name), former.plan_of(name)
        for part, field in _CHIPS.items():
            has = getattr(then, part)
            if getattr(now, part) < has:
                raise UsageError(
                    f"--{field.replace('_', '-')} {getattr(settings, field)}: the run has {has} of "
                    f"{name}; give as many or more, or another --out"
                )
    return more


class WholeRun:
    """The trainings and chips of all tasks of a run, in one folder.

    Attributes:
        settings: The options.
        out: The folder of the results.
        output: Where notes go.
        replica: Which of several processes this is.
        command: The command line, for the record.
        tasks: Task -> its trainings, one per seed.
        trainings: Those of all tasks.
        steps: The parts that take time, over all tasks.
    """

    def __init__(
        self,
        settings: Settings,
        made: Mapping[str, Task],
        out: Path,
        output: Output,
        words: tuple[str, ...],
        replica: Replica,
        workers: int | None = 1,
    ) -> None:
        """Prepare the run; nothing is read or written yet.

        Args:
            settings: The options, from `prepare`.
            made: The tasks, from `prepare`.
            out: The folder of the results.
            output: Where notes go.
            words: The command and the words after it, for the record.
            replica: Which of several processes this is.
            workers: How many trainings run side by side, each in a process of its own; None decides
                by the machine, the profile and the expected time.

        Raises:
            UsageError: If several trainings cannot run side by side.
        """
        self.settings, self.out, self.output, self.replica = settings, out, output, replica
        program, *options = words
        self.command = shlex.join(["python", "-m", f"benchmarks.{program}", *options])
        self.tasks = {name: self._phases_of(task) for name, task in made.items()}
        self.trainings = [phases for listed in self.tasks.values() for phases in listed]
        steps = [step for phases in self.trainings for step in phases.planned()]
        known = Costs(None) if replica.index else None
        self.steps = Steps(steps, output, known, around="benchmarks.run")
        self._jobs: dict[str, bytes] = {}
        self._spread(workers)
        for phases in self.trainings:
            phases.steps = self.steps

    def _spread(self, workers: int | None) -> None:
        """Decide how many trainings run side by side, and pack them for their processes."""
        wanted = workers
        if wanted is None:
            wanted = usual_workers(self.settings, self.replica, self.steps.estimate())
        lanes = min(wanted, len(self.trainings))
        if lanes < 2:
            return
        try:
            self._jobs = packed(self.trainings)
        except Exception as error:  # what pickling a user's task or device can raise is not known
            why = f"a training cannot be sent to another process ({type(error).__name__}: {error})"
            if workers is not None:
                raise UsageError(f"--workers {workers}: {why}; use --workers 1") from error
            self.output.say(f"one training after another: {why}")
            return
        self.steps.lanes = lanes

    def _phases_of(self, task: Task) -> list[Phases]:
        """Return the phases of each training of a task.

        If the digital model is given, all trainings start from it: only the first training measures
        its direct conversion.
        """
        trained = tuple(phase for phase in self.settings.measured if phase != "direct")
        has_checkpoint = task.name in self.settings.checkpoints()
        trainings = []
        for number in range(self.settings.seeds):
            name = task.name if number == 0 else f"{task.name}-seed-{self.settings.seed + number}"
            study = Study(
                task,
                self.settings,
                self.out / "work" / name,
                self.output,
                replica=self.replica,
                training=number,
            )
            again = number > 0 and has_checkpoint
            trainings.append(Phases(study, trained if again else self.settings.measured))
        return trainings

    def assist(self) -> None:
        """Take part in the trainings of the first process, and in nothing else."""
        self.replica.meet()
        for trainings in self.tasks.values():
            for phases in trainings:
                phases.assist()
        self.replica.meet()  # the group ends for all at once: a process that left early can abort

    def measure(self, resume: bool) -> pd.DataFrame:
        """Do the parts that are left, and write the results after each task.

        Args:
            resume: Whether --resume was given.

        Returns:
            The rows of results.csv.

        Raises:
            UsageError: If the folder holds something else.
        """
        import pandas as pd

        folder.enter(self.out, self.settings.claim(), resume, free=GROWING)
        self.replica.meet()
        for text in self.plan():
            self.output.say(text)
        parts: dict[str, pd.DataFrame] = {}
        named = self.out if self.settings.shard is None else self.out.parent
        rows: dict[Phases, pd.DataFrame] = {}
        with (
            folder.resumable(self.out, self.output, named),
            contextlib.closing(self._measured()) as measured,
        ):
            for phases, table in measured:
                rows[phases] = table
                for name, trainings in self.tasks.items():
                    if phases in trainings and all(one in rows for one in trainings):
                        parts[name] = _of_all([rows[one] for one in trainings], trainings)
                        parts = {task: parts[task] for task in self.tasks if task in parts}
                        self._write(parts)
        self.steps.close()
        self.replica.meet()
        return pd.concat(parts.values(), ignore_index=True)

    def _measured(self) -> Generator[tuple[Phases, pd.DataFrame], None, None]:
        """Measure all trainings, one after another or side by side; yield each as it is done."""
        if self._jobs:
            yield from side_by_side(self.trainings, self._jobs, self.steps, self.output)
        else:
            for phases in self.trainings:
                yield phases, phases.measure()

    def plan(self) -> list[str]:
        """Describe what will be measured, as lines of text."""
        settings = self.settings
        lines = []
        if settings.profile != "paper":
            lines.append(
                f"profile {settings.profile}: these data, model sizes and training lengths are not "
                "the paper's; compare no number with it"
            )
        studies = {name: trainings[0].study for name, trainings in self.tasks.items()}
        lines += [f"  {name}: {_size(study.task)}" for name, study in studies.items()]
        times = ", ".join(label(t) for t in settings.at)
        lines.append(
            f"preset {settings.preset}; phases {', '.join(settings.measured)}; times {times}"
        )
        if settings.seeds > 1:
            lines.append(f"{settings.seeds} trainings of each, seeds from {settings.seed} on")
        for name, study in studies.items():
            plan = study.plan
            parts = {
                "native": f"{plan.chips} chips on {plan.subset or 'all'} test {study.task.unit}",
                "aihwkit": f"{plan.slow_chips} on {plan.slow_subset or 'all'}",
            }
            chips = "; ".join(f"{engine} {parts[engine]}" for engine in settings.engines)
            lines.append(f"  {name}: {chips}")
        if self.steps.lanes > 1:
            lines.append(f"{self.steps.lanes} trainings side by side, in a process each")
        return [*lines, self.steps.estimate().text(), f"into {self.out}"]

    def studies(self) -> dict[str, Any]:
        """Return task -> the facts about it, after `measure`."""
        return {name: self._facts(name) for name in self.tasks}

    def _write(self, parts: Mapping[str, pd.DataFrame]) -> None:
        """Write the results of the tasks that are done."""
        import pandas as pd

        about = {
            "arguments": self.settings.claim(),
            DIRECTORY: str(Path.cwd()),
            "command": self.command,
            "versions": versions(),
            "hardware": hardware(),
            "studies": {name: self._facts(name) for name in parts},
        }
        report.write(self.out, pd.concat(parts.values(), ignore_index=True), about)

    def _facts(self, name: str) -> dict[str, Any]:
        """Return the facts about a task's first training, with those of the others in "others"."""
        trainings = self.tasks[name]
        first, *others = (phases.study for phases in trainings)
        answers, times = [phases.answers for phases in trainings], self.settings.at
        own = name not in self.settings.checkpoints()
        stars = intervals(answers, times, first.task.chance_error, own_digital=own)
        differences = changes(answers, times, own_digital=own)
        facts = {**first.facts, "intervals": stars, "changes": differences}
        if not others:
            return facts
        more = {str(study.seed): study.facts for study in others}
        return {**facts, "training_seeds": [first.seed, *map(int, more)], "others": more}


def as_table(rows: pd.DataFrame) -> dict[str, Any]:
    """Return rows as {"columns": [...], "rows": [[...], ...]}; missing values are None.

    Args:
        rows: The rows of results.csv.
    """
    table = rows.astype(object).where(rows.notna(), None).to_dict("split")
    return {"columns": table["columns"], "rows": table["data"]}


def default_folder(profile: str) -> Path:
    """Return the folder of a run that has no --out: runs/PROFILE-DATE-TIME.

    Args:
        profile: The profile.
    """
    return Path("runs") / f"{profile}-{time.strftime('%Y%m%d-%H%M%S')}"


def _of_all(rows: list[pd.DataFrame], trainings: list[Phases]) -> pd.DataFrame:
    """Join the rows of all trainings; if there are several, the last column is the seed."""
    import pandas as pd

    if len(rows) == 1:
        return rows[0]
    marked = [
        part.assign(training_seed=phases.study.seed)
        for part, phases in zip(rows, trainings, strict=True)
    ]
    return pd.concat(marked, ignore_index=True)


def _size(task: Task) -> str:
    weights = sum(parameter.numel() for parameter in task.skeleton().parameters())
    counts = ", ".join(f"{task.count(split):,} {split}" for split in ("train", "test"))
    return f"{task.model_name} ({weights:,} parameters) on {task.dataset} ({counts} {task.unit})"
