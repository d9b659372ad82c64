"""One task from digital model to table: direct conversion, hardware-aware training, sweeps."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.markup import escape
from torch import nn

from aimc_bridge import rng
from aimc_bridge.calibration import calibrate
from aimc_bridge.conversion import convert, copy_trained, coverage
from aimc_bridge.engines.native import compiled
from aimc_bridge.errors import CheckpointError
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import sweep
from aimc_bridge.training import HWATraining
from benchmarks import digital, tasks
from benchmarks.files import replace_file
from benchmarks.report.tables import COLUMNS
from benchmarks.studies import measure
from benchmarks.studies.parts import Parts
from benchmarks.studies.trainings import How, hardware_aware, unaware
from benchmarks.studies.weights import Weights, load_weights, save_weights
from benchmarks.tasks import Task
from benchmarks.tasks.plan import Plan, recipe_for

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Replica:
    """Which of several processes this is. The first does everything; the others train with it."""

    index: int = 0
    count: int = 1

    def meet(self) -> None:
        """Wait until all are here."""
        if self.count > 1:
            PartialState().wait_for_everyone()


@dataclass(frozen=True)
class Settings:
    """What the command line says, for every task of a run.

    recipe         name of a recipe of the preset; None is the task's own
    compiled       whether the native engine runs its compiled passes
    reestimate_bn  batches of training data that batch-norm statistics are re-estimated from on
                   every chip at every time, before it is evaluated; 0 is never
    chip_seed      seed of the first chip; None is `seed`
    seeds          trainings of each task, with seeds from `seed` on; a study does one
    """

    preset: Preset
    engines: tuple[str, ...]
    phases: tuple[str, ...]
    times: tuple[float, ...]
    seed: int
    device: torch.device
    changes: Mapping[str, Any]
    recipe: str | None = None
    how: How | None = None
    compiled: bool = False
    reestimate_bn: int = 0
    chip_seed: int | None = None
    seeds: int = 1
    replica: Replica = field(default_factory=Replica)

    def training(self) -> How:
        """How trainings run here."""
        return self.how or How(self.seed, self.device)

    def recipe_of(self, task: Task, plan: Plan) -> HWATraining:
        """What a task is trained by."""
        return recipe_for(self.preset, self.recipe or task.recipe, plan, dict(self.changes))


class Study:
    """A task's run in a folder; every finished part is on disk and is not done twice."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        settings: Settings,
        folder: Path,
        console: Console,
        weights: Weights | None = None,
    ) -> None:
        self.task, self.plan, self.settings = task, plan, settings
        task.place(settings.device)
        self.folder, self.console, self.weights = folder, console, weights or Weights()
        self.facts: dict[str, Any] = {
            "model": task.model_name,
            "dataset": task.dataset,
            "metric": task.metric,
            "chance_error": task.chance_error,
            "plan": dataclasses.asdict(plan),
            "samples": {},
        }
        self.parts = Parts(folder / "parts.json", keep=settings.replica.index == 0)
        total = task.count("test")
        self.subset = _part_of(total, plan.subset)
        self.slow_subset = _part_of(total, plan.slow_subset)
        self.rows: list[pd.DataFrame] = []

    def run(self) -> pd.DataFrame:
        """All phases on all engines: rows of `report.COLUMNS`."""
        import pandas as pd

        self.folder.mkdir(parents=True, exist_ok=True)
        self.parts.recall()
        self.facts |= {"wall_s": self.parts.wall_s, "interrupted": self.parts.interrupted}
        model = self._digital()
        native = self._converted(model, "native")
        self._calibrated(native)
        table = coverage(native)
        self.facts["analog_weights"] = int(table[table["where"] == "analog"].parameters.sum())
        self.facts["tiles"] = int(table.tiles.sum())
        for subset in dict.fromkeys(subset for _, subset, _ in self._measurements()):
            self._baseline(model, subset)
        if "direct" in self.settings.phases:
            self._sweeps("direct", model, native)
        if "control" in self.settings.phases:
            tuned = self._unaware(model)
            converted = self._converted(tuned, "native")
            self._calibrated(converted)
            self._sweeps("control", tuned, converted)
        if "hwa" in self.settings.phases:
            self._trained(model, native)
            self._sweeps("hwa", model, native)
        return pd.concat(self.rows, ignore_index=True)[COLUMNS].astype({"chip": "Int64"})

    def assist(self) -> None:
        """Take part in the trainings of the first process, and in nothing else."""
        model = self._digital()
        if "control" in self.settings.phases:
            self._unaware(model)
        if "hwa" in self.settings.phases:
            native = self._converted(model, "native")
            self._calibrated(native)
            self._trained(model, native)

    def _say(self, text: str) -> None:
        self.console.print(
            f"[bold]{self.task.name}[/bold]  {escape(text)}", highlight=False, soft_wrap=True
        )

    # --- models ---

    def _digital(self) -> nn.Module:
        given = self.weights.digital
        if given is not None:
            self._say(f"digital model from {given}")
            self.facts["digital"] = {"checkpoint": str(given), **tasks.read_info(given)}
            return self.task.load(given).to(self.settings.device)
        out = self.folder / "digital"
        if self.settings.replica.index:
            self.settings.replica.meet()  # the first process has trained it
            return self.task.load(out).to(self.settings.device)
        if not (out / "model.safetensors").exists():
            self._say(f"digital training of {self.task.model_name} on {self.task.dataset}")
        recipe = self.task.digital
        if self.plan.digital_epochs is not None:
            recipe = dataclasses.replace(recipe, epochs=self.plan.digital_epochs)
        how = self.settings.training()
        model = self.parts.timed(
            "digital training",
            functools.partial(
                digital.fit,
                self.task,
                out,
                recipe=recipe,
                seed=self.settings.seed,
                resume=out.exists(),
                device=self.settings.device.type,
                precision=how.precision,
                console=self.console,
            ),
        )
        self.facts["digital"] = json.loads((out / "info.json").read_text())
        self.settings.replica.meet()
        return model.to(self.settings.device)  # type: ignore[no-any-return]

    def _converted(self, model: nn.Module, engine: str) -> nn.Module:
        preset, exclude = self.settings.preset, list(self.task.exclude)
        analog = convert(model, preset, engine=engine, exclude=exclude).eval()
        if engine == "native" and self.settings.compiled:
            compiled(analog)
        return analog

    def _calibrated(self, native: nn.Module) -> None:
        """Ranges from training data, before direct conversion and before training alike."""
        if self.settings.preset.crossbar.input_range != "none":
            batches = self.task.calibration_batches(self.plan.calibration)
            calibrate(native, batches, self.plan.method, out_percentile=self.plan.out_percentile)

    def _trained(self, model: nn.Module, native: nn.Module) -> None:
        recipe = self.settings.recipe_of(self.task, self.plan)
        self.facts["recipe"] = {"name": recipe.name, **recipe.spec.values()}

        def work() -> None:
            folder = self.folder / "hwa-training"
            how = self.settings.training()
            history = hardware_aware(self.task, self.plan, recipe, how, model, native, folder)
            if self.plan.recalibrate:
                self._calibrated(native)
            self._keep(native, "hwa", history)

        given = self.weights.trained
        if given is not None:
            self._say(f"hardware-aware model from {given}")
            self.facts["trained"] = str(given)
            self.facts["recipe"] = {"name": f"that of {given}"}
            load_weights(native, given)
        elif not self._recalled(native, "hwa"):
            self._announce(f"hardware-aware training, recipe {recipe.name}")
            self.parts.timed("hwa training", work)
        self._validated("hwa")

    def _unaware(self, model: nn.Module) -> nn.Module:
        recipe = self.settings.recipe_of(self.task, self.plan)
        tuned = self.task.skeleton().to(self.settings.device).eval()
        if self._recalled(tuned, "control"):
            self._validated("control")
            return tuned

        def work() -> nn.Module:
            folder = self.folder / "control-training"
            how = self.settings.training()
            trained, history = unaware(self.task, self.plan, recipe, how, model, folder)
            self._keep(trained, "control", history)
            return trained

        self._announce(f"control: the same training without noise, recipe {recipe.name}")
        trained: nn.Module = self.parts.timed("control training", work)
        self._validated("control")
        return trained

    def _announce(self, what: str) -> None:
        batches = self.plan.hwa_batches
        self._say(
            f"{what}, {self.plan.why or 'as it is'}"
            f"{f', {batches} mini-batches' if batches is not None else ''}"
        )

    def _recalled(self, model: nn.Module, phase: str) -> bool:
        """Whether a finished training's weights were there, and are now in the model."""
        file = self.folder / f"{phase}.safetensors"
        if not file.exists():
            return False
        self._say(f"{phase}: weights of the run before the interruption")
        load_weights(model, file)
        return True

    def _keep(self, model: nn.Module, phase: str, history: pd.DataFrame) -> None:
        """The weights and history of a finished training; its checkpoints go."""
        if self.settings.replica.index:
            return
        replace_file(self.folder / f"{phase}.csv", history.to_csv(index=False))
        save_weights(model, self.folder / f"{phase}.safetensors")
        for file in (self.folder / f"{phase}-training").glob("*.safetensors"):
            file.unlink()
        (self.folder / f"{phase}-training" / "checkpoint.json").unlink(missing_ok=True)

    def _validated(self, phase: str) -> None:
        """Note what validation said during a training: the first process, which wrote it."""
        import pandas as pd

        if self.settings.replica.index:
            return
        file = self.folder / f"{phase}.csv"
        if not file.exists():  # trained elsewhere
            return
        try:
            history = pd.read_csv(file)
        except ValueError as error:
            raise CheckpointError(f"{file} is damaged ({error}); delete it") from None
        shown = ["step", *(name for name in history if str(name).startswith("validation_"))]
        if len(shown) > 1:
            looks = history[shown].dropna()
            self.facts.setdefault("validation", {})[phase] = looks.to_dict("list")

    # --- measurements ---

    def _measurements(self) -> list[tuple[str, int | None, int]]:
        """(engine, samples, chips) of a phase.

        Where aihwkit gets fewer samples than the native engine, the native engine is measured on
        those too: side by side means the same samples.
        """
        plan, engines = self.plan, self.settings.engines
        found: list[tuple[str, int | None, int]] = []
        if "native" in engines:
            found.append(("native", self.subset, plan.chips))
            if "aihwkit" in engines and self.slow_subset != self.subset:
                found.append(("native", self.slow_subset, plan.chips))
        if "aihwkit" in engines:
            found.append(("aihwkit", self.slow_subset, plan.slow_chips))
        return found

    def _data(self, subset: int | None) -> str:
        if subset is None:
            return self.task.dataset
        return f"{self.task.dataset}, subset of {subset}"

    def _sweeps(self, phase: str, model: nn.Module, native: nn.Module) -> None:
        for engine, subset, chips in self._measurements():
            name = f"{phase} {engine}" + (f" {subset}" if subset is not None else "")
            part = self.folder / f"{name.replace(' ', '-')}.csv"
            table = measure.finished(part, chips, self.settings.times)
            if table is None:
                analog = native
                if engine != "native":
                    analog = self.parts.timed(
                        f"convert {phase} {engine}", self._as, engine, model, native
                    )
                self._say(
                    f"{phase}, {engine}: {chips} chips x {len(self.settings.times)} times on "
                    f"{self._data(subset)}"
                )
                table = self.parts.timed(
                    self.parts.more(name),
                    functools.partial(
                        sweep,
                        analog,
                        self._judge(subset, model),
                        self.settings.times,
                        chips=chips,
                        seed=self._chip_seed(),
                        resume=part,
                        progress=self.console.is_terminal,
                    ),
                )
            self._add(table, phase, engine, subset)

    def _chip_seed(self) -> int:
        seed = self.settings.chip_seed
        return self.settings.seed if seed is None else seed

    def _judge(self, subset: int | None, model: nn.Module) -> Callable[..., dict[str, float]]:
        """What `sweep` measures: the task's metric, on statistics of the chip where asked for."""
        batches = self.settings.reestimate_bn
        if not batches or not measure.has_batchnorm(model):
            return functools.partial(measure.evaluate, self.task, subset)
        data = self.task.calibration_batches(batches, batch_size=64)
        self.facts["reestimated_batchnorm"] = f"{len(data)} batches of 64 of the training data"
        return functools.partial(measure.evaluate_reestimated, self.task, subset, data)

    def _as(self, engine: str, model: nn.Module, native: nn.Module) -> nn.Module:
        """The native model's weights and input ranges on another engine."""
        analog = self._converted(model, engine)
        copy_trained(native, analog)
        return analog.eval()

    def _baseline(self, model: nn.Module, subset: int | None) -> None:
        """The digital model on the samples that the chips are measured on."""
        import pandas as pd

        file = self.folder / f"digital-{'all' if subset is None else subset}.json"
        if file.exists():
            try:
                values = {str(k): float(v) for k, v in json.loads(file.read_text()).items()}
            except (ValueError, AttributeError, TypeError) as error:
                raise CheckpointError(f"{file} is damaged ({error}); delete it") from None
        else:
            with torch.random.fork_rng():
                torch.manual_seed(rng.derive(self.settings.seed, "digital"))
                values = measure.evaluate(self.task, subset, model)
            replace_file(file, json.dumps(values) + "\n")
        self.facts["samples"][self._data(subset)] = sum(
            self.task.targets(batch).numel() for batch in self.task.batches("test", subset)
        )
        table = pd.DataFrame(
            [{"metric": k, "value": v, "seed": self.settings.seed} for k, v in values.items()]
        )
        self._add(table.assign(t_inference=math.nan, chip=math.nan), "digital", "digital", subset)

    def _add(self, table: pd.DataFrame, phase: str, engine: str, subset: int | None) -> None:
        self.rows.append(
            table.assign(
                model=self.task.model_name,
                dataset=self._data(subset),
                phase=phase,
                engine=engine,
                preset=str(self.settings.preset) if phase != "digital" else "",
            )
        )


def _part_of(total: int, subset: int | None) -> int | None:
    """A number of samples, or None where that is all there are."""
    return None if subset is None or subset >= total else subset
