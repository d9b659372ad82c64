"""One task's ladder: every rung and what is beside it; each finished chip is on disk."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from torch import nn

from aimc_bridge.calibration import calibrate
from aimc_bridge.conversion import convert
from aimc_bridge.engines.base import matrices_of
from aimc_bridge.errors import DataError
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import sweep
from benchmarks import digital, tasks
from benchmarks.report.ladder_tables import COLUMNS
from benchmarks.studies.ladder.probe import Probe
from benchmarks.studies.ladder.rungs import LADDER
from benchmarks.studies.ladder.sides import SIDES, Chips, Redrawn, Reread, Side
from benchmarks.studies.parts import Parts
from benchmarks.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Settings:
    """What the command line says, for every task."""

    profile: str
    times: tuple[float, ...]
    chips: int
    repeats: int
    seed: int
    device: torch.device


class Climb:
    """A task's ladder in a folder: every rung and chip that is done is on disk."""

    def __init__(
        self,
        task: Task,
        subset: int | None,
        settings: Settings,
        folder: Path,
        console: Console,
        checkpoint: Path | None,
    ) -> None:
        self.task, self.settings, self.folder = task, settings, folder
        self.console, self.checkpoint = console, checkpoint
        self.subset = None if subset is None or subset >= task.count("test") else subset
        self.plan = task.plan_of(settings.profile)
        self.parts = Parts(folder / "parts.json", keep=True)
        self.facts: dict[str, Any] = {
            "model": task.model_name,
            "dataset": task.dataset,
            "metric": task.metric,
            "subset": self.subset,
            "input_ranges": {"method": self.plan.method, "batches": self.plan.calibration},
            "probe": {"samples": task.ladder.probe_samples, "inputs": task.ladder.probe_inputs},
        }

    def run(self) -> pd.DataFrame:
        """All rungs and sides: rows of `COLUMNS`."""
        import pandas as pd

        self.folder.mkdir(parents=True, exist_ok=True)
        self.parts.recall()
        model = self._digital()
        tables = [self._baseline(model)]
        for rung in LADDER:
            self._say(f"rung {rung.number} of {len(LADDER)}: {rung.title}")
            tables.append(self.parts.timed(rung.key, self._rung, model, rung.key, rung.preset))
        for side in SIDES:
            self._say(f"beside: {side.title}")
            tables.append(self.parts.timed(side.key, self._side, model, side))
        self.facts |= {"wall_s": self.parts.wall_s, "interrupted": self.parts.interrupted}
        return pd.concat(tables, ignore_index=True)[COLUMNS]

    def _say(self, text: str) -> None:
        self.console.print(
            f"{self.task.name}  {text}", markup=False, highlight=False, soft_wrap=True
        )

    def _digital(self) -> nn.Module:
        if self.checkpoint is not None:
            info = tasks.read_info(self.checkpoint)
            self.facts["digital"] = {"checkpoint": str(self.checkpoint), **info}
            return self.task.load(self.checkpoint).to(self.settings.device)
        out = self.folder / "digital"
        model = digital.fit(
            self.task,
            out,
            seed=self.settings.seed,
            resume=out.exists(),
            device=self.settings.device.type,
            console=self.console,
        )
        self.facts["digital"] = json.loads((out / "info.json").read_text())
        return model.to(self.settings.device)

    def _baseline(self, model: nn.Module) -> pd.DataFrame:
        import pandas as pd

        values = self.task.evaluate(model, self.subset)
        self.facts["samples"] = sum(
            self.task.targets(batch).numel() for batch in self.task.batches("test", self.subset)
        )
        rows = [{"row": "digital", "metric": name, "value": v} for name, v in values.items()]
        nothing = {"t_inference": float("nan"), "chip": float("nan"), "seed": float("nan")}
        return self._named(pd.DataFrame(rows).assign(**nothing))

    def _rung(self, model: nn.Module, key: str, preset: Preset) -> pd.DataFrame:
        def measure(analog: nn.Module) -> Callable[[nn.Module], dict[str, float]]:
            sizes = self.task.ladder
            run = functools.partial(_run_validation, self.task, sizes.probe_samples)
            return Chips(self.task, self.subset, Probe(analog, run, sizes.probe_inputs))

        times, chips = self.settings.times, self.settings.chips
        return self._sweep(model, key, preset, times, chips, measure)

    def _side(self, model: nn.Module, side: Side) -> pd.DataFrame:
        task, subset, seed = self.task, self.subset, self.settings.seed
        evaluate: Callable[[nn.Module], dict[str, float]] = Chips(task, subset)
        if side.how == "redrawn":
            evaluate = Redrawn(task, subset, task.ladder.redrawn)
        elif side.how == "reread":
            evaluate = Reread(task, subset, seed)
        count = self.settings.repeats if side.many else self.settings.chips
        last = (max(self.settings.times),)
        return self._sweep(model, side.key, side.preset, last, count, lambda _: evaluate)

    def _sweep(
        self,
        model: nn.Module,
        key: str,
        preset: Preset,
        times: tuple[float, ...],
        chips: int,
        measure: Callable[[nn.Module], Callable[[nn.Module], dict[str, float]]],
    ) -> pd.DataFrame:
        part = self.folder / f"{key.replace(' ', '-').replace('/', '')}.csv"
        analog = convert(model, preset, exclude=list(self.task.exclude)).eval()
        matrices = matrices_of(analog)
        self.facts["layers"] = list(matrices)
        tiles = sum(matrix.grid.tiles for matrix in matrices.values())
        self.facts.setdefault("tiles", {})[key] = tiles
        if preset.crossbar.input_range != "none":  # the sweep's file knows the ranges
            calibrate(
                analog, self.task.calibration_batches(self.plan.calibration), self.plan.method
            )
        evaluate = _never if _whole(part, chips) else measure(analog)
        table = sweep(
            analog,
            evaluate,
            times,
            chips=chips,
            seed=self.settings.seed,
            resume=part,
            progress=self.console.is_terminal,
        )
        return self._named(table.assign(row=key))

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(task=self.task.name, model=self.task.model_name)


def _never(model: nn.Module) -> dict[str, float]:
    raise DataError("a finished row was asked to be measured again")  # pragma: no cover


def _whole(part: Path, chips: int) -> bool:
    """Whether a sweep's file has all chips; what is in it, `sweep` checks."""
    import pandas as pd

    try:
        return set(range(chips)) <= set(pd.read_csv(part).chip)
    except (OSError, ValueError, AttributeError):
        return False


def _run_validation(task: Task, samples: int, model: nn.Module) -> None:
    for batch in task.batches("validation", samples):
        task.logits(model, batch)
