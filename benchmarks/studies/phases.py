"""The phases of a run: chips of a task after direct conversion and after three kinds of training.

- finetune: the digital model is trained for as many steps, without a chip, and then converted.
- control: the hardware-aware training with all noise and drop-connect off. Clipping, re-scaling of
  columns, learned ranges and scales, converters and steps are the same, so its distance from hwa is
  what the noise is worth.
- hwa: the hardware-aware training.

A run writes results.csv, summary.md, figures and run.json, and beside each file of chips which
samples they got right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from aimc_bridge.commands import Output
from aimc_bridge.conversion import convert, copy_trained, coverage
from aimc_bridge.csv_cells import as_csv
from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import check_file, write_text
from aimc_bridge.progress import metric_value
from aimc_bridge.times import label
from benchmarks.machine import hardware, versions
from benchmarks.report import run as report
from benchmarks.report import tables
from benchmarks.report.answers import Answers, changes, intervals, path_of
from benchmarks.studies import folder, run_steps
from benchmarks.studies.base import Replica, Study
from benchmarks.studies.estimates import Costs
from benchmarks.studies.layer_facts import coverage_facts, kept_facts, layer_facts
from benchmarks.studies.settings import Phase, Settings
from benchmarks.studies.steps import Step, Steps
from benchmarks.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

PHASES: tuple[Phase, ...] = ("direct", "finetune", "control", "hwa")
NOISE_OFF = "the hardware-aware training with noise and drop-connect off"
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
    for name, task in tasks.items():
        recipe = settings.recipe_of(task)
        if name in checkpoints:
            task.load(checkpoints[name])
        else:
            task.digital_loader(task.digital.batch_size, settings.seed)
        if name in trained:
            skeleton = task.skeleton().eval()
            analog = convert(skeleton, settings.preset, exclude=task.digital_names(skeleton))
            folder.load_weights(analog, trained[name])
        if "hwa" in settings.measured and name not in trained:
            settings.check_recipe(recipe)
        if {"hwa", "control", "finetune"} & set(settings.measured):
            task.train_loader(recipe.spec.batch_size, settings.seed)
    return settings, tasks


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
        before = folder.claim_in(out)
        known = {field: before[field] for field in GROWING}
        known["times"] = tuple(float(t_s) for t_s in known["times"])
        known["phases"] = tuple(str(phase) for phase in known["phases"])
        known["seeds"] = int(known["seeds"])
    except (UsageError, KeyError):
        return settings
    except (TypeError, ValueError):
        path = out / "run.json"
        raise UsageError(f"{path}: no record of a run to resume; name another --out") from None
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
    ) -> None:
        """Prepare the run; nothing is read or written yet.

        Args:
            settings: The options, from `prepare`.
            made: The tasks, from `prepare`.
            out: The folder of the results.
            output: Where notes go.
            words: The command and the words after it, for the record.
            replica: Which of several processes this is.
        """
        self.settings, self.out, self.output, self.replica = settings, out, output, replica
        program, *options = words
        self.command = shlex.join(["python", "-m", f"benchmarks.{program}", *options])
        self.tasks = {name: self._phases_of(task) for name, task in made.items()}
        every = [phases for trainings in self.tasks.values() for phases in trainings]
        listed = [step for phases in every for step in phases.planned()]
        self.steps = Steps(listed, output, Costs(None) if replica.index else None)
        for phases in every:
            phases.steps = self.steps

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
        with folder.resumable(self.out, self.output, named):
            for name, trainings in self.tasks.items():
                parts[name] = _of_all([phases.measure() for phases in trainings], trainings)
                self._write(parts)
        self.replica.meet()
        return pd.concat(parts.values(), ignore_index=True)

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
        return [*lines, self.steps.estimate().text(), f"into {self.out}"]

    def studies(self) -> dict[str, Any]:
        """Return task -> the facts about it, after `measure`."""
        return {name: self._facts(name) for name in self.tasks}

    def _write(self, parts: Mapping[str, pd.DataFrame]) -> None:
        """Write the results of the tasks that are done."""
        import pandas as pd

        about = {
            "arguments": self.settings.claim(),
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


class Phases:
    """One training of one task: the chips of each phase on each engine.

    Attributes:
        study: The task's study, of this training.
        phases: Some of `PHASES`.
        facts: What the record says about this training.
        subset: Test samples (words) on the native engine; None means all.
        slow_subset: Test samples (words) on the aihwkit engine; None means all.
        rows: The rows that are measured so far.
        steps: The steps of the run that it is a part of; None says nothing.
        answers: The files of which samples were right, of each sweep; see `report.answers`.
    """

    def __init__(self, study: Study, phases: tuple[str, ...]) -> None:
        """Prepare the phases; nothing is read or written yet.

        Args:
            study: The task's study, of this training.
            phases: Some of `PHASES`.
        """
        self.study, self.phases = study, phases
        self.facts = study.facts
        self.facts["samples"] = {}
        total = study.task.count("test")
        self.subset = _part_of(total, study.plan.subset)
        self.slow_subset = _part_of(total, study.plan.slow_subset)
        self.rows: list[pd.DataFrame] = []
        self.steps: Steps | None = None
        self.answers: dict[tuple[str, str, str], tuple[Path, Path]] = {}

    def measure(self) -> pd.DataFrame:
        """Measure all phases.

        Returns:
            The rows; their columns are `benchmarks.report.tables.COLUMNS`.
        """
        import pandas as pd

        study = self.study
        study.folder.mkdir(parents=True, exist_ok=True)
        study.parts.recall()
        self.facts |= {"wall_s": study.parts.wall_s, "interrupted": study.parts.interrupted}
        model = self._digital()
        native = self._native(model)
        table = coverage(native)
        self.facts["analog_weights"] = int(table[table["where"] == "analog"].parameters.sum())
        self.facts["tiles"] = int(table.tiles.sum())
        self.facts["coverage"] = coverage_facts(native, study.task)
        self.facts["layers"] = {"direct": self._layers("direct", native)}
        for subset in dict.fromkeys(subset for _, subset, _ in self._measurements()):
            self._baseline(model, subset)
        if "direct" in self.phases:
            self._sweeps("direct", model, native)
        if "finetune" in self.phases:
            tuned = self._finetuned(model)
            self._sweeps("finetune", tuned, self._native(tuned))
        if "control" in self.phases:
            self._sweeps("control", model, self._control(model))
        if "hwa" in self.phases:
            self._hardware_aware(model, native)
            self.facts["layers"]["hwa"] = self._layers("hwa", native)
            self._sweeps("hwa", model, native)
        return pd.concat(self.rows, ignore_index=True)[tables.COLUMNS].astype({"chip": "Int64"})

    def assist(self) -> None:
        """Do the trainings, and measure nothing."""
        model = self._digital()
        if "finetune" in self.phases:
            self._finetuned(model)
        if "control" in self.phases:
            self._control(model)
        if "hwa" in self.phases:
            self._hardware_aware(model, self._native(model))

    def train(self) -> None:
        """Do the trainings that are left, and measure nothing."""
        study = self.study
        study.folder.mkdir(parents=True, exist_ok=True)
        study.parts.recall()
        self.assist()

    # --- steps ---

    def planned(self) -> list[Step]:
        """Return the steps of this training, in the order of `measure`."""
        listed = run_steps.digital(self.study)
        for phase in PHASES:
            if phase in self.phases:
                if phase != "direct":
                    listed += run_steps.training(self.study, phase)
                listed += run_steps.swept(self.study, phase, self._measurements())
        return listed

    def _doing(self, part: str, *, whole: bool = True) -> contextlib.AbstractContextManager[None]:
        """Say that a step begins; see `Steps.doing`."""
        if self.steps is None:
            return contextlib.nullcontext()
        return self.steps.doing(run_steps.name_of(self.study, part), whole=whole)

    def _skip(self, part: str) -> None:
        """Note that a step was finished before."""
        if self.steps is not None:
            self.steps.skip(run_steps.name_of(self.study, part))

    # --- models ---

    def _digital(self) -> nn.Module:
        """Return the digital model: a given one, or a trained one."""
        with run_steps.digital_training(self.study, self.steps):
            return self.study.digital_model()

    def _native(self, model: nn.Module) -> nn.Module:
        """Convert and calibrate a model, in the same way for direct conversion and for training."""
        native = self.study.convert(model)
        self.study.calibrate(native)
        return native

    def _layers(self, phase: str, native: nn.Module) -> dict[str, Any] | None:
        """Return compensation and error of each layer on the first chip of the sweeps."""
        study = self.study
        seed, times = study.chip_seed, study.settings.at

        def measure() -> dict[str, Any] | None:
            work = functools.partial(layer_facts, native, study.task, seed, times)
            facts: dict[str, Any] | None = study.parts.timed(f"layers {phase}", work)
            return facts

        return kept_facts(study.folder / f"layers-{phase}.json", measure, seed, times)

    def _hardware_aware(self, model: nn.Module, native: nn.Module) -> None:
        study = self.study
        recipe = study.settings.recipe_of(study.task)
        self.facts["recipe"] = {"name": recipe.name, **recipe.spec.values()}

        def work() -> None:
            history = study.train(model, native, recipe, study.folder / "hwa-training")
            self._keep(native, "hwa", history)

        trained = study.settings.trained_files().get(study.task.name)
        if trained is not None:
            study.say(f"hardware-aware model from {trained}")
            self.facts["trained"] = str(trained)
            self.facts["recipe"] = {"name": f"that of {trained}"}
            folder.load_weights(native, trained)
        elif not self._recalled(native, "hwa"):
            with self._training("hwa"):
                study.parts.timed("hwa training", work)
        self._validated("hwa")

    def _control(self, model: nn.Module) -> nn.Module:
        """Return a converted model after the hardware-aware training without its noise."""
        study = self.study
        recipe = study.settings.recipe_of(study.task)
        native = self._native(model)
        self.facts["control"] = NOISE_OFF

        def work() -> None:
            path = study.folder / "control-training"
            self._keep(native, "control", study.train_control(model, native, recipe, path))

        if not self._recalled(native, "control"):
            with self._training("control"):
                study.parts.timed("control training", work)
        self._validated("control")
        return native

    def _finetuned(self, model: nn.Module) -> nn.Module:
        """Return a digital model after as many steps without a chip."""
        study = self.study
        recipe = study.settings.recipe_of(study.task)
        tuned = study.task.skeleton().to(study.settings.place).eval()

        def work() -> nn.Module:
            path = study.folder / "finetune-training"
            trained, history = study.finetune(model, recipe, path)
            self._keep(trained, "finetune", history)
            return trained

        if not self._recalled(tuned, "finetune"):
            with self._training("finetune"):
                tuned = study.parts.timed("finetune training", work)
        self._validated("finetune")
        return tuned

    def _training(self, phase: str) -> contextlib.AbstractContextManager[None]:
        """Say that the training of a phase begins."""
        begun = (self.study.folder / f"{phase}-training").exists()
        return self._doing(f"{phase} training", whole=not begun)

    def _recalled(self, model: nn.Module, phase: str) -> bool:
        """Load the weights of a finished training, if there are any; return whether there are."""
        path = self.study.folder / f"{phase}.safetensors"
        if not path.exists():
            return False
        self._skip(f"{phase} training")
        self.study.say(f"{phase}: weights of the run before the interruption")
        folder.load_weights(model, path)
        return True

    def _keep(self, model: nn.Module, phase: str, history: pd.DataFrame) -> None:
        """Write the weights and history of a finished training, and delete its checkpoints."""
        if self.study.replica.index:
            return
        write_text(self.study.folder / f"{phase}.csv", as_csv(history))
        folder.save_weights(model, self.study.folder / f"{phase}.safetensors")
        folder.drop_checkpoints(self.study.folder / f"{phase}-training")

    def _validated(self, phase: str) -> None:
        """Add the validation results of a training to the facts.

        Only the first process does so; it wrote the history.
        """
        import pandas as pd

        path = self.study.folder / f"{phase}.csv"
        if self.study.replica.index or not path.exists():  # no file: trained elsewhere
            return
        try:
            check_file(path)
            history = pd.read_csv(path)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} is damaged ({error}); delete it") from None
        shown = ["step", *(name for name in history if str(name).startswith("validation_"))]
        if len(shown) > 1:
            looks = history[shown].dropna()
            self.facts.setdefault("validation", {})[phase] = looks.to_dict("list")

    # --- measurements ---

    def _measurements(self) -> list[tuple[str, int | None, int]]:
        """Return (engine, samples, chips) of all measurements of a phase; None samples means all.

        If aihwkit gets fewer samples than the native engine, the native engine is measured on the
        smaller set too, so that the two engines can be compared on the same samples.
        """
        plan, engines = self.study.plan, self.study.settings.engines
        measurements: list[tuple[str, int | None, int]] = []
        if "native" in engines:
            measurements.append(("native", self.subset, plan.chips))
            if "aihwkit" in engines and self.slow_subset != self.subset:
                measurements.append(("native", self.slow_subset, plan.chips))
        if "aihwkit" in engines:
            measurements.append(("aihwkit", self.slow_subset, plan.slow_chips))
        return measurements

    def _data(self, subset: int | None) -> str:
        dataset = self.study.task.dataset
        return dataset if subset is None else f"{dataset}, subset of {subset}"

    def _sweeps(self, phase: str, model: nn.Module, native: nn.Module) -> None:
        """Measure the chips of a phase on every engine."""
        study = self.study
        times = study.settings.at
        for engine, subset, chips in self._measurements():
            name = f"{phase} {engine}" + (f" {subset}" if subset is not None else "")
            path = study.folder / f"{name.replace(' ', '-')}.csv"
            share = study.settings.share(chips)
            mark = study.parts.marks.get(path.name)
            table = folder.finished(path, chips, times, study.chip_seed, mark, share)
            if table is None:
                with self._doing(name, whole=not path.exists()):
                    analog = native
                    if engine != "native":
                        analog = study.parts.timed(
                            f"convert {phase} {engine}", self._as, engine, model, native
                        )
                    evaluate = study.evaluator(model, subset, answers=Answers(path_of(path)))
                    work = functools.partial(study.sweep, analog, evaluate, path, chips=chips)
                    table = study.parts.timed(study.parts.more(name), work)
                    study.parts.mark(path)
                study.output.say(f"      {_in_short(table, study.task.metric)}")
            else:
                self._skip(name)
            digital = path_of(self._digital_path(subset))
            self.answers[phase, engine, self._data(subset)] = (digital, path_of(path))
            self._add(table, phase, engine, subset)

    def _digital_path(self, subset: int | None) -> Path:
        return self.study.folder / f"digital-{'all' if subset is None else subset}.json"

    def _as(self, engine: str, model: nn.Module, native: nn.Module) -> nn.Module:
        """Convert a model for another engine, with the weights and ranges of the native one."""
        analog = self.study.convert(model, engine)
        copy_trained(native, analog)
        return analog.eval()

    def _baseline(self, model: nn.Module, subset: int | None) -> None:
        """Measure the digital model on the samples that the chips are measured on."""
        import pandas as pd

        study = self.study
        values = study.digital_values(model, subset, "test", self._digital_path(subset))
        self.facts["samples"][self._data(subset)] = study.samples(subset)
        table = pd.DataFrame(
            [{"metric": k, "value": v, "seed": study.seed} for k, v in values.items()]
        )
        self._add(table.assign(t_inference=math.nan, chip=math.nan), "digital", "digital", subset)

    def _add(self, table: pd.DataFrame, phase: str, engine: str, subset: int | None) -> None:
        self.rows.append(
            table.assign(
                model=self.study.task.model_name,
                dataset=self._data(subset),
                phase=phase,
                engine=engine,
                preset=str(self.study.settings.preset) if phase != "digital" else "",
            )
        )


def _in_short(table: pd.DataFrame, metric: str) -> str:
    """Return the mean of each time in words: "accuracy 97.5 % at 1s, 95.0 % at 1y"."""
    shown = table[table.metric == (metric if metric in set(table.metric) else table.metric.iloc[0])]
    means = shown.groupby("t_inference").value.mean()
    name = str(shown.metric.iloc[0])
    at_times = zip(means.index.tolist(), means.tolist(), strict=True)
    values = (f"{metric_value(name, mean)} at {label(t_s)}" for t_s, mean in at_times)
    return f"{name} {', '.join(values)}"


def _part_of(total: int, subset: int | None) -> int | None:
    """Return a number of samples, or None if it covers all of them."""
    return None if subset is None or subset >= total else subset
