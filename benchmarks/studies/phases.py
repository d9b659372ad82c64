"""The phases of a run: chips of a task after direct conversion and after three kinds of training.

- finetune: the digital model is trained for as many steps, without a chip, and then converted.
- control: the hardware-aware training with all noise and drop-connect off. Clipping, re-scaling of
  columns, learned ranges and scales, converters and steps are the same, so its distance from hwa is
  what the noise is worth.
- hwa: the hardware-aware training.
"""

from __future__ import annotations

import contextlib
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from aimc_bridge.conversion import copy_trained, coverage
from aimc_bridge.csv_cells import as_csv
from aimc_bridge.errors import CheckpointError
from aimc_bridge.files import check_file, write_text
from aimc_bridge.progress import metric_value
from aimc_bridge.sealed_files import read_facts
from aimc_bridge.times import label
from benchmarks.report import tables
from benchmarks.report.answers import Answers, Kept, errors_of, misfit, path_of
from benchmarks.studies import finished_parts, held_out, run_steps, training_facts, trainings
from benchmarks.studies.base import Study
from benchmarks.studies.claims import TRAINING
from benchmarks.studies.inputs import data_mark, fingerprint, model_of
from benchmarks.studies.layer_facts import coverage_facts, kept_facts, layer_facts
from benchmarks.studies.settings import Phase
from benchmarks.studies.steps import Listener, Step

if TYPE_CHECKING:
    import pandas as pd

PHASES: tuple[Phase, ...] = ("direct", "finetune", "control", "hwa")
NOISE_OFF = "the hardware-aware training with noise and drop-connect off"


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
        self.facts["commonest"] = {}
        total = study.task.count("test")
        self.subset = _part_of(total, study.plan.subset)
        self.slow_subset = _part_of(total, study.plan.slow_subset)
        self.rows: list[pd.DataFrame] = []
        self.steps: Listener | None = None
        self.answers: dict[tuple[str, str, str], Kept | None] = {}

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
        self._check_trained(model)
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

    def _check_trained(self, model: nn.Module) -> None:
        """Check the file of --trained, if there is one, and say what cannot be checked."""
        study = self.study
        path = study.settings.trained_files().get(study.task.name)
        recipe = study.settings.recipe_of(study.task)
        if path is None:
            return
        unknown = training_facts.check(path, study.task, study.settings, recipe, model)
        if unknown:
            study.say(training_facts.warning(path, unknown))
            self.facts["unchecked"] = unknown
            if "control" in self.phases:
                self.facts["control"] = tables.UNCHECKED

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
            history = trainings.train(study, model, native, recipe, study.folder / "hwa-training")
            self._keep(native, "hwa", history, model)

        trained = study.settings.trained_files().get(study.task.name)
        if trained is not None:
            study.say(f"hardware-aware model from {trained}")
            self.facts["trained"] = str(trained)
            self.facts["recipe"] = {"name": f"that of {trained}"}
            finished_parts.load_weights(native, trained)
            self._note_model("hwa", native)
        elif not self._recalled(native, "hwa"):
            with self._training("hwa"):
                study.parts.timed("hwa training", work)
        self._validated("hwa")

    def _control(self, model: nn.Module) -> nn.Module:
        """Return a converted model after the hardware-aware training without its noise."""
        study = self.study
        recipe = study.settings.recipe_of(study.task)
        native = self._native(model)
        self.facts.setdefault("control", NOISE_OFF)

        def work() -> None:
            path = study.folder / "control-training"
            history = trainings.train_control(study, model, native, recipe, path)
            self._keep(native, "control", history, model)

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
            trained, history = trainings.finetune(study, model, recipe, path)
            self._keep(trained, "finetune", history, model)
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
        study = self.study
        recipe = study.settings.recipe_of(study.task)
        about = training_facts.recipe_of(study.settings, study.task, recipe, study.seed)
        study.inputs.note(TRAINING, about.pop(TRAINING))
        study.inputs.note("recipe of the trainings", about)
        if study.plan.keep == "best":  # validation chooses the weights
            subset, place = study.plan.validation_subset, study.settings.place
            mark = data_mark(study.task, "validation", subset, place)
            study.inputs.note("set of validation data", mark)
        path = study.folder / f"{phase}.safetensors"
        if not path.exists():
            return False
        self._skip(f"{phase} training")
        self.study.say(f"{run_steps.TRAININGS[phase]} was done before: its weights are loaded")
        finished_parts.load_weights(model, path)
        self._note_model(phase, model)
        return True

    def _note_model(self, phase: str, model: nn.Module) -> None:
        """Check that the chips of a phase, if there are any, are of this model; note it if not."""
        inputs, mark = self.study.inputs, fingerprint(model)
        if any(self.study.folder.glob(f"{phase}-*.csv")):
            inputs.check(model_of(phase), mark)
        inputs.note(model_of(phase), mark, replace=True)

    def _keep(
        self, model: nn.Module, phase: str, history: pd.DataFrame, digital: nn.Module
    ) -> None:
        """Write the weights and history of a finished training, and delete its checkpoints."""
        study = self.study
        if study.replica.index:
            return
        recipe = study.settings.recipe_of(study.task)
        facts = training_facts.facts_of(
            phase, study.settings, study.task, recipe, study.seed, digital
        )
        write_text(self.study.folder / f"{phase}.csv", as_csv(history))
        path = self.study.folder / f"{phase}.safetensors"
        finished_parts.save_weights(model, path, training_facts.header(facts))
        self._note_model(phase, model)
        finished_parts.drop_checkpoints(self.study.folder / f"{phase}-training")

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
            raise CheckpointError(
                f"{path} is damaged ({error}); put the former file back, or remove it; without it "
                "the record says nothing of the validation in this training"
            ) from None
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
            path = study.folder / sweep_name(phase, engine, subset)
            share = study.settings.share(chips)
            mark = study.parts.marks.get(path.name)
            table = finished_parts.finished(path, chips, times, study.chip_seed, mark, share)
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
            self.answers[phase, engine, self._data(subset)] = self._answers(path, table, subset)
            self._add(table, phase, engine, subset)

    def _answers(self, path: Path, table: pd.DataFrame, subset: int | None) -> Kept | None:
        """Return the answers behind rows of a sweep; None, and a note, if they are of others."""
        kept, why = answers_of(self._digital_path(subset), path, table)
        if kept is None:
            it = "" if why.endswith("is missing") else "it and "
            self.study.say(
                f"{why}: intervals of {path.stem} are over chips alone; put the former file back, "
                f"or remove {it}the results of the same name to measure them again"
            )
        return kept

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
        self.facts["samples"][self._data(subset)] = held_out.samples(study.task, subset)
        self.facts["commonest"][self._data(subset)] = held_out.commonest(study.task, subset)
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


def sweep_name(phase: str, engine: str, subset: int | str | None) -> str:
    """Return the name of the file of a phase's chips.

    Args:
        phase: One of `PHASES`.
        engine: "native" or "aihwkit".
        subset: The number of samples (words); None or "" means all.
    """
    return f"{phase}-{engine}{f'-{subset}' if subset else ''}.csv"


def answers_of(digital: Path, path: Path, table: pd.DataFrame) -> tuple[Kept | None, str]:
    """Return the answers behind rows of a sweep, or None and why they are not those of the rows.

    Args:
        digital: The file of the digital model's metrics.
        path: The file of the sweep.
        table: Its rows.
    """
    kept = Kept(path_of(digital), path_of(path), tuple(map(int, table.seed.unique())))
    if not kept.digital.exists() and not kept.chips.exists():  # a task that keeps none
        return kept, ""
    columns = ["seed", "t_inference", "metric", "value"]
    errors = errors_of(table[columns].itertuples(index=False, name=None))
    error = float(read_facts(digital).get("error", math.nan))
    why = misfit(kept.digital, {(0, math.nan): error}) or misfit(kept.chips, errors)
    return (None, why) if why else (kept, "")


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
