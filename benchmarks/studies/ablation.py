"""Measure what each technique of a recipe is worth: the same training with one technique changed.

All trainings start from one digital model. The recipe is trained as it is, then once with each
technique switched off (a technique that the recipe lacks is switched on), and once at each of
several noise scales. Data, their order, the number of steps and the chips are the same each time.

With `--recipes` whole recipes are compared in place of techniques: named ones of the preset, the
default for any model, and direct conversion.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from torch import nn

import presets
from aimc_bridge.commands import Output
from aimc_bridge.errors import UsageError
from aimc_bridge.spec import Preset, TrainingSpec
from aimc_bridge.times import label
from benchmarks import cli
from benchmarks.machine import hardware, versions
from benchmarks.report import ablation as pages
from benchmarks.studies import finished_parts, held_out, run_steps, training_facts, trainings
from benchmarks.studies.base import Study
from benchmarks.studies.claims import DIRECTORY
from benchmarks.studies.settings import DigitalEpochs, Settings
from benchmarks.studies.steps import Step, Steps
from benchmarks.tasks.plan import Plan, recipe_for

if TYPE_CHECKING:
    import pandas as pd

BASE = "recipe"
DIRECT = "direct"  # no training
SCALES = (1.0, 2.0, 3.0, 5.0)
CLIPS = (2.0, 2.5, 3.0)  # standard deviations of a column
TIMES = (3600.0, 365 * 86400.0)


@dataclass(frozen=True)
class Variant:
    """A recipe that differs in one technique.

    Attributes:
        name: The difference in words.
        fields: The fields of the recipe that differ, with their new values.
        trains: Whether the model is trained; if not, it is converted directly.
    """

    name: str
    fields: Mapping[str, Any]
    trains: bool = True


def variants(spec: TrainingSpec) -> list[Variant]:
    """Return the recipe, then one variant per technique, then one per noise scale.

    Args:
        spec: The fields of the recipe.

    Returns:
        The recipe itself first. In the variants, a technique that the recipe has is switched off,
        and a technique that it lacks is switched on.
    """
    chosen = [Variant(BASE, {})]

    def switch(what: str, on: bool, off: dict[str, Any], to_on: dict[str, Any]) -> None:
        if on:
            chosen.append(Variant(f"no {what}", off))
        elif to_on:
            values = ", ".join(f"{key}={value}" for key, value in to_on.items())
            chosen.append(Variant(f"with {what} ({values})", to_on))

    noisy = spec.noise_type != "none" and spec.noise_scale > 0
    switch("noise", noisy, {"noise_type": "none"}, {"noise_type": "pcm", "noise_scale": 3.0})
    if noisy:
        ramped = spec.ramp_batches > 0 or spec.ramp_share is not None
        switch("ramp", ramped, {"ramp_batches": 0}, {"ramp_batches": 100})
    switch("drop-connect", spec.drop_connect > 0, {"drop_connect": 0.0}, {"drop_connect": 0.01})
    if spec.dropout is not None:
        switch("dropout", spec.dropout > 0, {"dropout": 0.0}, {"dropout": None})
    taught = {"distill_weight": 0.9, "distill_temperature": 4.0}
    switch("distillation", spec.distill_weight > 0, {"distill_weight": 0.0}, taught)
    learned = {"learn_input_ranges": True}
    switch("learned ranges", spec.learn_input_ranges, {"learn_input_ranges": False}, learned)
    learned = {"learn_out_scales": True}
    switch("learned column scales", spec.learn_out_scales, {"learn_out_scales": False}, learned)
    clip = {"clip_type": "fixed", "clip_value": 1.0}
    switch("clipping", spec.clip_type != "none", {"clip_type": "none"}, clip)
    values_now = spec.values()
    for width in CLIPS:
        # if it were not scaled again, a clipped column would use less of the conductance
        clip = {"clip_type": "column_gaussian", "clip_value": width}
        if spec.remap_share is None:
            clip |= {"remap_every": spec.remap_every or 20}
        fields = {key: value for key, value in clip.items() if values_now[key] != value}
        if fields:
            chosen.append(Variant(f"columns clipped at {width:g} sd", fields))
    if noisy:
        chosen += [
            Variant(f"noise scale {scale:g}", {"noise_scale": scale})
            for scale in SCALES
            if scale != spec.noise_scale
        ]
    return chosen


def whole_recipes(
    names: Sequence[str], preset: Preset, plan: Plan, changes: dict[str, Any]
) -> list[Variant]:
    """Return the task's recipe, then one variant per recipe of other names.

    Args:
        names: Recipes of the preset, "default" for the one for any model, or "direct".
        preset: The preset.
        plan: The task's plan, whose changes the named recipes have too.
        changes: Fields that the user changes in all of them.

    Returns:
        The task's recipe first.

    Raises:
        UnknownNameError: If there is no such recipe.
    """
    chosen = [Variant(BASE, {})]
    for name in dict.fromkeys(names):
        if name == DIRECT:
            chosen.append(Variant(name, {}, trains=False))
        else:
            spec = recipe_for(preset, name, plan, changes).spec
            fields = {field: getattr(spec, field) for field in spec.field_names()}
            chosen.append(Variant(name, fields))
    return chosen


def slug(name: str) -> str:
    """Turn the name of a variant into the name of a folder."""
    letters = "".join(c if c.isalnum() or c == "." else "-" for c in name)
    return "-".join(filter(None, letters.split("-")))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AblationOptions:
    """The options of an ablation.

    Attributes:
        task: The name of the task.
        recipes: Whole recipes to compare the task's with, in place of its techniques: names of the
            preset, "default" or "direct". None compares techniques.
        only: Names of the variants to train beside the recipe itself; None means all.
        split: The data that chips are measured on.
    """

    task: Annotated[str, Parameter(parse=False)] = ""
    profile: cli.Profile = "embedded"
    data_dir: cli.DataDir = None
    option: cli.Option = ()
    checkpoint: cli.Checkpoints = ()
    preset: cli.PresetName = presets.rasch2023
    recipe: Annotated[
        str | None,
        Parameter(help="One of the preset, as wrn16, or default, for any model; else the task's."),
    ] = None
    changes: cli.Set = ()
    recipes: Annotated[
        tuple[str, ...] | None,
        Parameter(
            consume_multiple=True,
            help="Compare recipes, not techniques: names of the preset, default, direct.",
        ),
    ] = None
    only: Annotated[
        tuple[str, ...] | None,
        Parameter(consume_multiple=True, help="Of the variants, beside the recipe itself."),
    ] = None
    times: cli.Times = TIMES
    chips: cli.Chips = None
    subset: Annotated[
        int | None,
        Parameter(converter=cli.at_least(1), help="Samples (words) that a chip is measured on."),
    ] = None
    split: Annotated[
        Literal["validation", "test"],
        Parameter(
            help="Data that chips are measured on: validation, if a default is chosen by it."
        ),
    ] = "validation"
    hwa_batches: Annotated[
        int | None, Parameter(converter=cli.at_least(1), help="Mini-batches of each training.")
    ] = None
    digital_epochs: DigitalEpochs = None
    precision: cli.Precision = "fp32"
    compiled: cli.Compiled = False
    checkpoint_every: Annotated[
        int, Parameter(converter=cli.at_least(1), help="Mini-batches between two checkpoints.")
    ] = 500
    device: cli.Device = "cpu"
    seed: cli.Seed = 0
    seeds: Annotated[cli.Seeds, Parameter(help="Trainings of each variant.")] = 1

    def settings(self) -> Settings:
        """Return the settings of the task's study."""
        not_shared = ("task", "recipes", "only", "split")
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shared = {name: value for name, value in values.items() if name not in not_shared}
        return Settings(tasks=(self.task,), **shared)

    def claim(self) -> dict[str, Any]:
        """Return the record's arguments; they must be the same when an ablation is resumed."""
        settings = self.settings().claim()
        names = [field.name for field in dataclasses.fields(self) if field.name in settings]
        only = None if self.only is None else list(self.only)
        return {
            "task": self.task,
            **{name: settings[name] for name in (*names, "preset_data")},
            "only": only,
            "split": self.split,
            **({} if self.recipes is None else {"recipes": list(self.recipes)}),
        }


class Ablation:
    """The variants of one task in a folder; no finished part is done twice.

    Attributes:
        options: The options.
        out: The folder of the results.
        output: Where notes go.
        study: The task's study, in the folder "work".
        recipe: The recipe as it is.
        variants: The variants to train, the recipe itself first.
    """

    def __init__(self, options: AblationOptions, out: Path, output: Output = Output()) -> None:
        """Check the options; nothing is written yet.

        Args:
            options: The options.
            out: The folder of the results.
            output: Where notes go.

        Raises:
            AimcError: If a name, the data or the checkpoint is wrong.
        """
        self.options, self.out, self.output = options, out, output
        settings = options.settings()
        settings.check_times()
        (task,) = settings.make_tasks().values()
        self.study = Study(task, settings, out / "work", output)
        self.recipe = settings.recipe_of(task)
        settings.check_recipe(self.recipe)
        every = variants(self.recipe.spec)
        if options.recipes is not None:
            changes = cli.changes_of(settings.changes)
            every = whole_recipes(options.recipes, settings.preset, self.study.plan, changes)
        self.variants = self._chosen(every)

    def _chosen(self, every: Sequence[Variant]) -> list[Variant]:
        only, names = self.options.only, [variant.name for variant in every]
        for name in only or ():
            if name not in names:
                raise UsageError(f"--only {name!r}; one of {', '.join(map(repr, names[1:]))}")
        return [v for v in every if only is None or v.name in (BASE, *only)]

    def check(self) -> None:
        """Load the checkpoint and the training data, so that no error comes after a training.

        Raises:
            CheckpointError: If the checkpoint is missing, damaged or of another model.
            DataError: If the training data are missing or damaged.
        """
        study = self.study
        for path in study.settings.checkpoints().values():
            study.task.load(path)
        study.task.train_loader(self.recipe.spec.batch_size, study.seed)

    def plan(self) -> list[str]:
        """Describe what will be done, one line per variant."""
        study = self.study
        times = ", ".join(label(t_s) for t_s in study.settings.at)
        return [
            f"{study.task.model_name} on {study.task.dataset}, recipe {self.recipe.name}",
            f"{study.plan.chips} chips at {times} on the {self.options.split} split; "
            f"{study.settings.seeds} training(s) of each of {len(self.variants)}:",
            *(f"  {variant.name}" for variant in self.variants),
            self.steps().estimate().text(),
            f"into {self.out}",
        ]

    def steps(self) -> Steps:
        """Return the parts that take time: the digital model, then each variant of each seed."""
        study = self.study
        samples = study.plan.subset or study.task.count(self.options.split)
        chips = study.plan.chips * len(study.settings.at) * samples
        measured = (run_steps.cost_of(study, "native"), chips)
        batches = run_steps.batches_of(study, self.recipe)
        trained = (run_steps.cost_of(study, "training"), batches)
        several = study.settings.seeds > 1
        listed = run_steps.digital(study)
        for seed in range(study.seed, study.seed + study.settings.seeds):
            for variant in self.variants:
                text = f"{variant.name}, training seed {seed}" if several else variant.name
                work = (trained, measured) if variant.trains else (measured,)
                listed.append(Step(f"{seed} {variant.name}", text, work))
        return Steps(listed, self.output)

    def run(self, command: str) -> pd.DataFrame:
        """Train and measure all variants; write results.csv, summary.md, figure.png and run.json.

        Args:
            command: The command line, for the record.

        Returns:
            The rows of results.csv; the rows of the digital model come first.

        Raises:
            TrainingError: If a training diverges.
        """
        import pandas as pd

        study = self.study
        study.folder.mkdir(parents=True, exist_ok=True)
        study.parts.recall()
        steps = self.steps()
        with run_steps.digital_training(study, steps):
            model = study.digital_model()
        parts = [self._digital(model)]
        for seed in range(study.seed, study.seed + study.settings.seeds):
            for variant in self.variants:
                with steps.doing(f"{seed} {variant.name}"):
                    parts.append(self._variant(model, variant, seed))
        results = pd.concat(parts, ignore_index=True)[pages.COLUMNS]
        pages.write(self.out, results, self._about(command))
        return results

    def _digital(self, model: nn.Module) -> pd.DataFrame:
        import pandas as pd

        study, split = self.study, self.options.split
        path = study.folder / "digital.json"
        values = study.digital_values(model, study.plan.subset, split, path)
        place = ("digital", study.seed)
        rows = [(*place, metric, 0.0, -1, -1, value) for metric, value in values.items()]
        return pd.DataFrame(rows, columns=pages.COLUMNS)

    def _variant(self, model: nn.Module, variant: Variant, seed: int) -> pd.DataFrame:
        study = self.study
        place = study.folder / f"seed-{seed}" / slug(variant.name)
        place.mkdir(parents=True, exist_ok=True)
        analog = study.convert(model)
        study.calibrate(analog)
        weights = place / "hwa.safetensors"
        if weights.exists():
            finished_parts.load_weights(analog, weights)
        elif variant.trains:
            recipe = self.recipe.override(f"ablation: {variant.name}", **variant.fields)
            trainings.train(study, model, analog, recipe, place / "training", seed)
            facts = training_facts.facts_of("hwa", study.settings, study.task, recipe, seed, model)
            finished_parts.save_weights(analog, weights, training_facts.header(facts))
            finished_parts.drop_checkpoints(place / "training")
        evaluate = study.evaluator(model, study.plan.subset, self.options.split)
        table = study.sweep(analog, evaluate, place / "chips.csv")
        return table.assign(variant=variant.name, training_seed=seed)

    def _about(self, command: str) -> dict[str, Any]:
        """Return the content of run.json."""
        study, split = self.study, self.options.split
        facts = {
            **study.facts,
            "split": split,
            "samples": held_out.samples(study.task, study.plan.subset, split),
            "unit": study.task.unit,
            "recipe": {"name": self.recipe.name, **self.recipe.spec.values()},
            "variants": {variant.name: dict(variant.fields) for variant in self.variants},
            "wall_s": study.parts.wall_s,
            "interrupted": study.parts.interrupted,
        }
        return {
            "kind": "ablation",
            "command": command,
            "arguments": self.options.claim(),
            DIRECTORY: str(Path.cwd()),
            "versions": versions(),
            "hardware": hardware(),
            "studies": {study.task.name: facts},
        }
