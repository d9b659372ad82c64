"""One task from the digital model to the table: direct conversion, hardware-aware training, sweeps."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from aimc_bridge import rng
from aimc_bridge.calibration import calibrate
from aimc_bridge.conversion import convert, copy_trained, coverage
from aimc_bridge.errors import CheckpointError
from aimc_bridge.report import COLUMNS
from aimc_bridge.spec import Preset
from aimc_bridge.sweeps import sweep
from aimc_bridge.training import train
from benchmarks import digital
from benchmarks.profiles import Plan, recipe_for
from benchmarks.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Settings:
    """What the command line says, for every task of a run."""

    preset: Preset
    engines: tuple[str, ...]
    phases: tuple[str, ...]
    times: tuple[float, ...]
    seed: int
    device: torch.device
    changes: Mapping[str, Any]


class Study:
    """A task's run in a folder; every finished part is on disk and is not done twice."""

    def __init__(
        self,
        task: Task,
        plan: Plan,
        settings: Settings,
        folder: Path,
        console: Console,
        checkpoint: Path | None = None,
    ) -> None:
        self.task, self.plan, self.settings = task, plan, settings
        self.folder, self.console, self.checkpoint = folder, console, checkpoint
        self.facts: dict[str, Any] = {
            "model": task.model_name,
            "dataset": task.dataset,
            "metric": task.metric,
            "chance_error": task.chance_error,
            "plan": dataclasses.asdict(plan),
            "wall_s": {},
        }
        self.rows: list[pd.DataFrame] = []

    def run(self) -> pd.DataFrame:
        """All phases on all engines: rows of `report.COLUMNS`."""
        import pandas as pd

        self.folder.mkdir(parents=True, exist_ok=True)
        model = self._digital()
        native = self._converted(model, "native")
        table = coverage(native)
        self.facts["analog_weights"] = int(table[table["where"] == "analog"].parameters.sum())
        self.facts["tiles"] = int(table.tiles.sum())
        if "direct" in self.settings.phases:
            self._timed("calibration", self._calibrated, native)
            self._sweeps("direct", model, native)
        if "hwa" in self.settings.phases:
            self._timed("hwa training", self._trained, model, native)
            self._sweeps("hwa", model, native)
        for engine in self.settings.engines:
            self._baseline(model, engine)
        return pd.concat(self.rows, ignore_index=True)[COLUMNS]

    def _say(self, text: str) -> None:
        self.console.print(f"[bold]{self.task.name}[/bold]  {text}", highlight=False)

    def _timed(self, name: str, work: Any, *args: Any) -> Any:
        began = time.monotonic()
        result = work(*args)
        self.facts["wall_s"][name] = round(time.monotonic() - began, 1)
        return result

    # --- models ---

    def _digital(self) -> nn.Module:
        if self.checkpoint is not None:
            self._say(f"digital model from {self.checkpoint}")
            self.facts["digital"] = "checkpoint"
            return self.task.load(self.checkpoint).to(self.settings.device)
        out = self.folder / "digital"
        self._say(f"digital training of {self.task.model_name} on {self.task.dataset}")
        model = self._timed(
            "digital training",
            functools.partial(
                digital.fit,
                self.task,
                out,
                seed=self.settings.seed,
                resume=out.exists(),
                device=self.settings.device.type,
                console=self.console,
            ),
        )
        self.facts["digital"] = json.loads((out / "info.json").read_text())
        return model.to(self.settings.device)  # type: ignore[no-any-return]

    def _converted(self, model: nn.Module, engine: str) -> nn.Module:
        return convert(
            model, self.settings.preset, engine=engine, exclude=list(self.task.exclude)
        ).eval()

    def _calibrated(self, native: nn.Module) -> None:
        if self.settings.preset.crossbar.input_range != "none":
            calibrate(native, self.task.calibration_batches(self.plan.calibration))

    def _trained(self, model: nn.Module, native: nn.Module) -> None:
        file = self.folder / "hwa.safetensors"
        recipe = recipe_for(
            self.settings.preset, self.task.recipe, self.plan, dict(self.settings.changes)
        )
        self.facts["recipe"] = {"name": recipe.name, **recipe.spec.values()}
        if file.exists():
            self._say("hardware-aware weights of an earlier run")
            self.facts["wall_s"]["hwa training"] = "earlier"
            load_weights(native, file)
            return
        self._say(f"hardware-aware training, recipe {recipe.name}, {self.plan.why or 'as it is'}")
        loader = self.task.train_loader(recipe.spec.batch_size, self.settings.seed)
        history = train(
            native,
            loader,
            self.task.loss,
            recipe=recipe,
            teacher=model if recipe.spec.distill_weight > 0 else None,
            optimizer=self._optimizer(native, recipe.spec.learning_rate),
            seed=self.settings.seed,
            max_batches=self.plan.hwa_batches,
            progress=self.console.is_terminal,
            cpu=self.settings.device.type == "cpu",
        )
        history.to_csv(self.folder / "hwa.csv", index=False)
        save_weights(native, file)

    def _optimizer(self, native: nn.Module, rate: float) -> torch.optim.Optimizer | None:
        if self.plan.optimizer == "sgd":
            return None
        return torch.optim.AdamW(native.parameters(), lr=rate, weight_decay=0.0)

    # --- measurements ---

    def _subset(self, engine: str) -> int | None:
        return self.plan.subset if engine == "native" else self.plan.slow_subset

    def _dataset(self, engine: str) -> str:
        subset = self._subset(engine)
        return self.task.dataset if subset is None else f"{self.task.dataset}, first {subset}"

    def _sweeps(self, phase: str, model: nn.Module, native: nn.Module) -> None:
        for engine in self.settings.engines:
            analog = native
            if engine != "native":
                analog = self._timed(f"convert {engine}", self._converted, model, engine)
                copy_trained(native, analog)
                analog.eval()
            chips = self.plan.chips if engine == "native" else self.plan.slow_chips
            self._say(
                f"{phase}, {engine}: {chips} chips x {len(self.settings.times)} times on "
                f"{self._dataset(engine)}"
            )
            part = self.folder / f"{phase}-{engine}.csv"
            table = self._timed(
                f"{phase} {engine}",
                functools.partial(
                    sweep,
                    analog,
                    functools.partial(_evaluate, self.task, self._subset(engine)),
                    self.settings.times,
                    chips=chips,
                    seed=self.settings.seed,
                    resume=part,
                    progress=self.console.is_terminal,
                ),
            )
            self._add(table, phase, engine)

    def _baseline(self, model: nn.Module, engine: str) -> None:
        """The digital model on the samples that the engine's chips were measured on."""
        import pandas as pd

        with torch.random.fork_rng():
            torch.manual_seed(rng.derive(self.settings.seed, "digital"))
            values = _evaluate(self.task, self._subset(engine), model)
        table = pd.DataFrame(
            [{"metric": k, "value": v, "seed": self.settings.seed} for k, v in values.items()]
        )
        self._add(table.assign(t_inference=None, chip=None), "digital", engine)

    def _add(self, table: pd.DataFrame, phase: str, engine: str) -> None:
        self.rows.append(
            table.assign(
                model=self.task.model_name,
                dataset=self._dataset(engine),
                phase=phase,
                engine=engine if phase != "digital" else "digital",
                preset=str(self.settings.preset) if phase != "digital" else "",
            )
        )


def _evaluate(task: Task, subset: int | None, model: nn.Module) -> dict[str, float]:
    return task.evaluate(model, subset)


def save_weights(model: nn.Module, file: Path) -> None:
    """A converted model's state dict as safetensors, whole or not at all."""
    tensors = {k: v.detach().cpu().clone().contiguous() for k, v in model.state_dict().items()}
    partial = file.with_name(file.name + ".partial")
    save_file(tensors, partial)
    os.replace(partial, file)


def load_weights(model: nn.Module, file: Path) -> None:
    """Back from `save_weights` into a model converted the same way.

    Raises:  CheckpointError where the file is damaged or of another model.
    """
    try:
        model.load_state_dict(load_file(file))
    except (SafetensorError, RuntimeError) as error:
        text = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"{file}: damaged, or weights of another model ({text})") from None
