"""Climb the ladder of one task: measure every rung, and the rows beside the ladder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import DataError
from aimc_bridge.spec import Preset
from benchmarks.report.ladder_tables import COLUMNS
from benchmarks.studies import held_out, run_steps
from benchmarks.studies.base import Study
from benchmarks.studies.chip_metrics import Evaluate
from benchmarks.studies.finished_parts import finished
from benchmarks.studies.ladder.probe import Probe
from benchmarks.studies.ladder.rungs import LADDER, Rung
from benchmarks.studies.ladder.sides import SIDES, Chips, Redrawn, Reread, SideRow
from benchmarks.studies.steps import Step, Steps
from benchmarks.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


class Climb:
    """The ladder of one task; every finished rung and chip is on disk.

    Attributes:
        study: The task's study.
        task: The task.
        subset: Test samples (words); None means all.
        repeats: Chips or readings per row that shows a flaw.
        rungs: The rungs.
        sizes: How much of the task the ladder runs.
        facts: What the record says about the task.
    """

    def __init__(
        self, study: Study, subset: int | None, repeats: int, rungs: Sequence[Rung] = LADDER
    ) -> None:
        """Prepare the climb; nothing is read or written yet.

        Args:
            study: The task's study; its settings hold the times and the chips per rung.
            subset: Test samples (words); None means all.
            repeats: Chips or readings per row that shows a flaw.
            rungs: The rungs, `LADDER` or `with_top` of a preset.
        """
        self.study, self.task, self.repeats = study, study.task, repeats
        self.rungs = rungs
        self.sizes = self.task.ladder
        self.subset = None if subset is None or subset >= self.task.count("test") else subset
        self.facts = study.facts
        self.facts |= {
            "subset": self.subset,
            "input_ranges": {
                "method": study.plan.method,
                "batches": study.plan.calibration,
                # ranges come from the inputs alone: raised for the outputs, they would depend on
                # tiles and scales, and change together with the rung that adds those
                "out_percentile": None,
            },
            "probe": {"samples": self.sizes.probe_samples, "inputs": self.sizes.probe_inputs},
        }

    def steps(self) -> list[Step]:
        """Return the parts that take time: the digital model, the rungs, the rows beside them."""
        study, name = self.study, self.task.name
        samples = self.task.count("test") if self.subset is None else self.subset
        each = study.plan.chips * samples
        kind = run_steps.cost_of(study, "rung of the ladder")
        listed = run_steps.digital(study)
        for rung in self.rungs:
            text = f"{name}: rung {rung.number} of {len(self.rungs)}, {rung.title}"
            work = (kind, len(study.settings.at) * each)
            listed.append(Step(run_steps.name_of(study, rung.key), text, (work,)))
        for side in SIDES:
            units = (self.repeats if side.many else study.plan.chips) * samples
            work = (run_steps.cost_of(study, f"row beside the ladder, {side.how}"), units)
            text = f"{name}: beside the rungs, {side.title}"
            listed.append(Step(run_steps.name_of(study, side.key), text, (work,)))
        return listed

    def run(self, steps: Steps) -> pd.DataFrame:
        """Measure all rungs and all rows beside them.

        Args:
            steps: The steps of the command, with those of `steps` among them.

        Returns:
            The rows; their columns are `benchmarks.report.ladder_tables.COLUMNS`.
        """
        import pandas as pd

        study = self.study
        study.folder.mkdir(parents=True, exist_ok=True)
        study.parts.recall()
        with run_steps.digital_training(study, steps):
            model = study.digital_model()
        tables = [self._baseline(model)]
        for rung in self.rungs:
            whole = rung.key not in study.parts.started
            with steps.doing(run_steps.name_of(study, rung.key), whole=whole):
                tables.append(study.parts.timed(rung.key, self._rung, model, rung.key, rung.preset))
        for side in SIDES:
            whole = side.key not in study.parts.started
            with steps.doing(run_steps.name_of(study, side.key), whole=whole):
                tables.append(study.parts.timed(side.key, self._side, model, side))
        self.facts |= {"wall_s": study.parts.wall_s, "interrupted": study.parts.interrupted}
        return pd.concat(tables, ignore_index=True)[COLUMNS]

    def _baseline(self, model: nn.Module) -> pd.DataFrame:
        import pandas as pd

        path = self.study.folder / "digital.json"
        values = self.study.digital_values(model, self.subset, "test", path)
        self.facts["samples"] = held_out.samples(self.study.task, self.subset)
        rows = [{"row": "digital", "metric": name, "value": v} for name, v in values.items()]
        nothing = {"t_inference": float("nan"), "chip": float("nan"), "seed": float("nan")}
        return self._named(pd.DataFrame(rows).assign(**nothing))

    def _rung(self, model: nn.Module, key: str, preset: Preset) -> pd.DataFrame:
        def measure(analog: nn.Module) -> Evaluate:
            run = functools.partial(_run_validation, self.task, self.sizes.probe_samples)
            return Chips(self.task, self.subset, Probe(analog, run, self.sizes.probe_inputs))

        at, chips = self.study.settings.at, self.study.plan.chips
        return self._sweep(model, key, preset, at, chips, measure)

    def _side(self, model: nn.Module, side: SideRow) -> pd.DataFrame:
        task, subset = self.task, self.subset
        evaluate: Evaluate = Chips(task, subset)
        if side.how == "redrawn":
            evaluate = Redrawn(task, subset, self.sizes.redrawn)
        elif side.how == "reread":
            evaluate = Reread(task, subset, self.study.chip_seed)
        count = self.repeats if side.many else self.study.plan.chips
        last = (max(self.study.settings.at),)
        return self._sweep(model, side.key, side.preset, last, count, lambda _: evaluate)

    def _sweep(
        self,
        model: nn.Module,
        key: str,
        preset: Preset,
        times: tuple[float, ...],
        chips: int,
        measure: Callable[[nn.Module], Evaluate],
    ) -> pd.DataFrame:
        study = self.study
        path = study.folder / f"{key.replace(' ', '-').replace('/', '')}.csv"
        analog = study.convert(model, preset=preset)
        matrices = matrices_of(analog)
        self.facts["layers"] = list(matrices)
        tiles = sum(matrix.grid.tiles for matrix in matrices.values())
        self.facts.setdefault("tiles", {})[key] = tiles
        study.calibrate(analog, preset, inputs_alone=True)
        # `sweep` also reads a finished row: it checks that weights and ranges are those of the file
        done = finished(path, chips, times, study.chip_seed) is not None
        evaluate = _never if done else measure(analog)
        table = study.sweep(analog, evaluate, path, chips=chips, times=times)
        return self._named(table.assign(row=key))

    def _named(self, table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(task=self.task.name, model=self.task.model_name)


def _never(model: nn.Module) -> dict[str, float]:
    raise DataError("a finished row was asked to be measured again")  # pragma: no cover


def _run_validation(task: Task, samples: int, model: nn.Module) -> None:
    for batch in task.batches("validation", samples):
        task.logits(model, batch)
