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
from benchmarks.command import Parser, check_alone, check_device, enter
from benchmarks.files import replace_file
from benchmarks.machine import hardware, versions
from benchmarks.report import ablation as ablation_report
from benchmarks.studies.profiles import PLANS, Plan, parse_changes, recipe_for
from benchmarks.studies.trainings import How, hardware_aware
from benchmarks.studies.weights import load_weights, save_weights
from benchmarks.tasks import Task

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


