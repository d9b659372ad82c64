"""What each technique of a recipe is worth: `python -m benchmarks.ablation bert --profile real`.

From one digital model the recipe is trained as it is, then once with each technique switched off
(one that the recipe lacks is switched on), and at several noise scales: same data in the same
order, same steps, same chips. `--out` holds results.csv, summary.md, figure.png and run.json; a run
that was cut short goes on with `--resume`. `--record NAME` keeps it as
benchmarks/records/ablation-NAME.json. Exit codes: 0 done, 1 a training diverged, 2 bad usage.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn

import presets
from aimc_bridge.calibration import calibrate
from aimc_bridge.conversion import convert
from aimc_bridge.engines.native import compiled
from aimc_bridge.errors import AimcError, TrainingError, UsageError
from aimc_bridge.spec import Preset, TrainingSpec
from aimc_bridge.sweeps import sweep
from aimc_bridge.times import seconds
from aimc_bridge.training import HWATraining
from benchmarks import digital, tasks
from benchmarks.command import TASKS, Parser, check_alone, check_device, enter, task_names
from benchmarks.files import replace_file
from benchmarks.machine import hardware, versions
from benchmarks.report import ablation as ablation_report
from benchmarks.studies.trainings import How, hardware_aware
from benchmarks.studies.weights import load_weights, save_weights
from benchmarks.tasks import Task
from benchmarks.tasks.plan import Plan, parse_changes, recipe_for

if TYPE_CHECKING:
    import pandas as pd

BASE = "recipe"
SCALES = (1.0, 2.0, 3.0, 5.0)
CLIPS = (2.0, 2.5, 3.0)  # standard deviations of a column


@dataclasses.dataclass(frozen=True)
class Variant:
    """A recipe that differs in one technique: what is said of it, and the fields."""

    name: str
    fields: Mapping[str, Any]


def variants(spec: TrainingSpec) -> list[Variant]:
    """The recipe, each technique switched (off; on where it was off), and the noise scales."""
    found = [Variant(BASE, {})]

    def switch(what: str, on: bool, off: dict[str, Any], to_on: dict[str, Any]) -> None:
        if on:
            found.append(Variant(f"no {what}", off))
        elif to_on:
            said = ", ".join(f"{key}={value}" for key, value in to_on.items())
            found.append(Variant(f"with {what} ({said})", to_on))

    noisy = spec.noise_type != "none" and spec.noise_scale > 0
    switch("noise", noisy, {"noise_type": "none"}, {"noise_type": "pcm", "noise_scale": 3.0})
    if noisy:
        ramp = {"ramp_batches": 100}
        switch("ramp", spec.ramp_batches > 0, {"ramp_batches": 0}, ramp)
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
    own = spec.values()
    for width in CLIPS:
        # without a scale anew, a clipped column would use less of the conductance
        clip = {"clip_type": "column_gaussian", "clip_value": width}
        clip |= {"remap_every": spec.remap_every or 20}
        fields = {key: value for key, value in clip.items() if own[key] != value}
        if fields:
            found.append(Variant(f"columns clipped at {width:g} sd", fields))
    if noisy:
        found += [
            Variant(f"noise scale {scale:g}", {"noise_scale": scale})
            for scale in SCALES
            if scale != spec.noise_scale
        ]
    return found


class Ablation:
    """The variants of one task in a folder; every finished part is on disk and not done twice."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        preset: Preset,
        recipe: HWATraining,
        how: How,
        times: tuple[float, ...],
        split: str,
        seeds: int,
        folder: Path,
        console: Console,
        compiled: bool = False,
    ) -> None:
        self.compiled = compiled
        self.task, self.plan, self.preset, self.recipe = task, plan, preset, recipe
        self.how, self.times, self.split, self.seeds = how, times, split, seeds
        self.folder, self.console = folder, console

    def run(self, model: nn.Module, wanted: list[Variant]) -> pd.DataFrame:
        """All variants: rows of `ablation_report.COLUMNS`, those of the digital model first."""
        import pandas as pd

        parts = [self._digital(model)]
        for seed in range(self.how.seed, self.how.seed + self.seeds):
            for number, variant in enumerate(wanted, 1):
                self.console.print(
                    f"{number} of {len(wanted)}, training seed {seed}: {variant.name}",
                    markup=False,
                )
                parts.append(self._variant(model, variant, seed))
        return pd.concat(parts, ignore_index=True)[ablation_report.COLUMNS]

    def _digital(self, model: nn.Module) -> pd.DataFrame:
        import pandas as pd

        file = self.folder / "digital.json"
        if not file.exists():
            values = _evaluate(self.task, self.plan.subset, self.split, model)
            replace_file(file, json.dumps(values) + "\n")
        values = json.loads(file.read_text())
        place = ("digital", self.how.seed)
        rows = [(*place, metric, 0.0, -1, -1, value) for metric, value in values.items()]
        return pd.DataFrame(rows, columns=ablation_report.COLUMNS)

    def _variant(self, model: nn.Module, variant: Variant, seed: int) -> pd.DataFrame:
        folder = self.folder / f"seed-{seed}" / slug(variant.name)
        folder.mkdir(parents=True, exist_ok=True)
        analog = convert(model, self.preset, exclude=list(self.task.exclude)).eval()
        if self.compiled:
            compiled(analog)
        self._calibrated(analog)
        weights = folder / "hwa.safetensors"
        if weights.exists():
            load_weights(analog, weights)
        else:
            recipe = self.recipe.override(f"ablation: {variant.name}", **variant.fields)
            how = dataclasses.replace(self.how, seed=seed)
            teacher = copy.deepcopy(model)
            hardware_aware(self.task, self.plan, recipe, how, teacher, analog, folder / "training")
            if self.plan.recalibrate:
                self._calibrated(analog)
            save_weights(analog, weights)
            for old in (folder / "training").glob("*.safetensors"):
                old.unlink()
            (folder / "training" / "checkpoint.json").unlink(missing_ok=True)
        table = sweep(
            analog,
            functools.partial(_evaluate, self.task, self.plan.subset, self.split),
            self.times,
            chips=self.plan.chips,
            seed=self.how.seed,
            resume=folder / "chips.csv",
            progress=self.how.show,
        )
        return table.assign(variant=variant.name, training_seed=seed)

    def _calibrated(self, analog: nn.Module) -> None:
        if self.preset.crossbar.input_range != "none":
            batches = self.task.calibration_batches(self.plan.calibration)
            calibrate(analog, batches, self.plan.method, out_percentile=self.plan.out_percentile)


def _evaluate(task: Task, subset: int | None, split: Any, model: nn.Module) -> dict[str, float]:
    return task.evaluate(model, subset, split)


def slug(name: str) -> str:
    """A variant's name as a folder's."""
    kept = "".join(c if c.isalnum() or c == "." else "-" for c in name)
    return "-".join(filter(None, kept.split("-")))


# --- the command ----------------------------------------------------------------------------------


def parser() -> Parser:
    """The command line."""
    made = Parser(
        prog="python -m benchmarks.ablation",
        description="Train a recipe with each technique switched off once; compare the chips.",
        allow_abbrev=False,
    )
    add = made.add_argument
    add("task", metavar="TASK", help=TASKS)
    add("--profile", default="embedded", help="embedded, real or paper")
    add("--data-dir", type=Path, help="folder with the data; default $AIMC_BRIDGE_DATA")
    add("--checkpoint", type=Path, help="the trained digital model; trained into --out without")
    add("--preset", default="rasch2023", help=f"one of {', '.join(presets.names())}")
    add("--recipe", help="a recipe of the preset; default: the task's own")
    add("--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes")
    add("--option", "-o", action="append", default=[], metavar="KEY=VALUE")
    add("--only", nargs="+", metavar="NAME", help="of the variants, beside the recipe itself")
    add("--list", action="store_true", help="print the variants' names and end")
    add("--times", nargs="+", default=["1h", "1y"])
    add("--chips", type=int)
    add("--subset", type=int, help="samples (words) that a chip is measured on")
    add("--split", default="validation", help="validation (a default is chosen by it), or test")
    add("--hwa-batches", type=int, help="mini-batches of each training")
    add("--digital-epochs", type=float, help="epochs of digital training")
    add("--precision", default="fp32", help="of trainings: fp32 or bf16")
    add("--compiled", action="store_true", help="compiled passes of the native engine")
    add("--checkpoint-every", type=int, default=500)
    add("--device", default="cpu", help="cpu or cuda")
    add("--threads", type=int)
    add("--seed", type=int, default=0)
    add("--seeds", type=int, default=1, help="trainings of each variant")
    add("--out", type=Path, help="folder of the results; default runs/ablation-TASK-TIME")
    add("--resume", action="store_true")
    add("--record", metavar="NAME", help="keep the result as records/ablation-NAME.json")
    return made


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    console = Console(stderr=True)
    try:
        run(parser().parse_intermixed_args(words), words, console)
    except AimcError as error:
        text = f"error: {' '.join(str(error).split())}"
        console.print(text, style="red", markup=False, highlight=False, soft_wrap=True)
        return 1 if isinstance(error, TrainingError) else 2
    except KeyboardInterrupt:
        console.print("interrupted; --resume goes on")
        return 130
    return 0


def run(given: argparse.Namespace, words: list[str], console: Console) -> None:
    """Check everything, then do it."""
    _check(given)
    (given.task,) = task_names([given.task], given.profile)
    if given.out is None:
        when = time.strftime("%Y%m%d-%H%M%S")
        given.out = Path("runs") / f"ablation-{given.task}-{when}"
    task = tasks.get(given.task, given.profile, given.data_dir, **tasks.parse_options(given.option))
    task.place(torch.device(given.device))
    plan = _plan(given)
    preset = presets.get(given.preset)
    changes = parse_changes(given.changes, TrainingSpec.field_names())
    recipe = recipe_for(preset, given.recipe or task.recipe, plan, changes)
    wanted = variants(recipe.spec)
    if given.list:
        print("\n".join(variant.name for variant in wanted))
        return
    wanted = _chosen(wanted, given.only)
    times = tuple(sorted({seconds(word) for word in given.times}))
    if given.checkpoint is not None:
        task.load(given.checkpoint)  # what cannot work is found before any work
    task.train_loader(recipe.spec.batch_size, given.seed)
    claim = _claim(given)
    enter(given.out, claim, given.resume)
    torch.set_num_threads(
        given.threads or (1 if given.profile == "embedded" else torch.get_num_threads())
    )
    how = How(
        given.seed,
        torch.device(given.device),
        precision=given.precision,
        checkpoint_every=given.checkpoint_every,
        show=console.is_terminal,
    )
    model = _digital(task, plan, given, console)
    study = Ablation(
        task,
        plan,
        preset,
        recipe,
        how,
        times,
        given.split,
        given.seeds,
        given.out,
        console,
        compiled=given.compiled,
    )
    results = study.run(model.to(how.device), wanted)
    record = {
        "name": f"ablation-{given.record or task.name}",
        "kind": "ablation",
        "command": shlex.join(["python", "-m", "benchmarks.ablation", *words]),
        "arguments": claim,
        "versions": versions(),
        "hardware": hardware(),
        "studies": {
            task.name: {
                "model": task.model_name,
                "dataset": task.dataset,
                "split": given.split,
                "samples": sum(
                    task.targets(batch).numel() for batch in task.batches(given.split, plan.subset)
                ),
                "unit": task.unit,
                "chance_error": task.chance_error,
                "recipe": {"name": recipe.name, **recipe.spec.values()},
                "plan": dataclasses.asdict(plan),
                "variants": {variant.name: dict(variant.fields) for variant in wanted},
                "digital": tasks.read_info(given.checkpoint or given.out / "digital"),
            }
        },
    }
    ablation_report.write(given.out, results, record, given.record)
    print((given.out / "summary.md").read_text())


def _check(given: argparse.Namespace) -> None:
    check_alone("benchmarks.ablation")
    for name in ("chips", "subset", "hwa_batches", "threads", "seeds", "checkpoint_every"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}; allowed: 1 or more")
    if given.split not in ("validation", "test"):
        raise UsageError(f"unknown split {given.split!r}; one of validation, test")
    if given.precision not in digital.PRECISIONS:
        raise UsageError(f"unknown precision {given.precision!r}; one of fp32, bf16")
    check_device(given.device)
    if given.record is not None:
        ablation_report.check_name(given.record)


def _plan(given: argparse.Namespace) -> Plan:
    changes = {
        "chips": given.chips,
        "subset": given.subset,
        "hwa_batches": given.hwa_batches,
        "digital_epochs": given.digital_epochs,
    }
    known = {key: value for key, value in changes.items() if value is not None}
    return dataclasses.replace(tasks.find(given.task).plan_of(given.profile), **known)


def _chosen(found: list[Variant], only: list[str] | None) -> list[Variant]:
    names = [variant.name for variant in found]
    for name in only or []:
        if name not in names:
            raise UsageError(f"--only {name!r}; one of {', '.join(map(repr, names[1:]))}")
    return [v for v in found if only is None or v.name in (BASE, *only)]


def _claim(given: argparse.Namespace) -> dict[str, Any]:
    left = ("out", "resume", "threads", "record", "list", "checkpoint_every")
    return {
        key: str(value) if isinstance(value, Path) else value
        for key, value in vars(given).items()
        if key not in left
    }


def _digital(task: Task, plan: Plan, given: argparse.Namespace, console: Console) -> nn.Module:
    if given.checkpoint is not None:
        return task.load(given.checkpoint)
    out = given.out / "digital"
    recipe = task.digital
    if plan.digital_epochs is not None:
        recipe = dataclasses.replace(recipe, epochs=plan.digital_epochs)
    return digital.fit(
        task,
        out,
        recipe=recipe,
        seed=given.seed,
        resume=out.exists(),
        device=given.device,
        precision=given.precision,
        console=console,
    )


if __name__ == "__main__":
    sys.exit(main())
