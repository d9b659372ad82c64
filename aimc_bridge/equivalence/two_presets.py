"""Two presets on the native engine: how much they differ, when, and why."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aimc_bridge.equivalence import device, device_laws
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import Samples
from aimc_bridge.equivalence.layer import ALPHA_MEAN, ERROR, GAIN, compare_outputs
from aimc_bridge.equivalence.measuring import ChipStatistics, Sampling, measure, noisy
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.equivalence.report import LEVELS, Findings, Row
from aimc_bridge.equivalence.statistics import Values, mean_test
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import Preset
from aimc_bridge.times import label

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TwoPresets:
    """Two presets, `first` and `second`, both on the native engine; a `Comparison`."""

    first: Preset
    second: Preset

    levels = LEVELS

    @property
    def names(self) -> tuple[str, str]:
        """The names of the presets."""
        return str(self.first), str(self.second)

    @property
    def presets(self) -> tuple[Preset, ...]:
        """Both presets."""
        return self.first, self.second

    @property
    def reference(self) -> str:
        """The name of the second preset."""
        return str(self.second)

    def device_reference(self) -> str:
        """Return the name of the second preset."""
        return self.reference

    def identity(self) -> dict[str, Any]:
        """Return both presets as plain data."""
        return {"preset": self.first.identity(), "against": self.second.identity()}

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Check nothing: the native engine runs every preset."""

    def samples_at(self, x: float, samples: int) -> int:
        """Return the samples at a target: the same for all."""
        return samples

    def draw(
        self, side: int, x: float, times: Sequence[float], samples: int, seed: int
    ) -> Iterator[Samples]:
        """Draw single devices and weights as the preset reads them, netted or not."""
        preset = self.presets[side]
        native = device_laws.Native(preset, preset.pcm.netting, seed, x, side)
        laws = [law_of(each.pcm) for each in self.presets]
        readings = any(law.tabulated or law.redrawn for law in laws)
        if not any(law.by_tile for law in laws):
            yield device.devices(native, x, times, samples, preset.pcm.full_scale_us, readings)
        yield device.weights(native, device.signed_targets(x), times, samples)

    def measure(
        self, side: int, layer: Layer, sampling: Sampling, advance: Callable[[], None]
    ) -> ChipStatistics:
        """Measure the chips of a layer under one preset."""
        preset = self.presets[side]
        if side == 1:  # another name: random streams of its own, if it is the first one again
            preset = dataclasses.replace(preset, name=f"{preset.name} (against)")
        return measure(sampling.layer_on(layer, preset), sampling, advance)

    def compare_layer(
        self,
        findings: Findings,
        layer: Layer,
        sampling: Sampling,
        first: ChipStatistics,
        second: ChipStatistics,
    ) -> None:
        """Compare outputs and mean factors, then the first preset with parts of the second."""
        noise = noisy(self.first) and noisy(self.second)
        compare_outputs(
            findings, layer, sampling.times, first, second, noise=noise, reference=self.reference
        )

        def add(quantity: str, t_s: float, a: Values, b: Values, margin: float) -> None:
            test = mean_test(a, b, margin)
            findings.rows.append(Row("layer", layer.name, quantity, t_s, test, self.reference))

        for index, t_s in enumerate(sampling.times):
            a, b = (side.column("alpha", index).mean(1) for side in (first, second))
            add("alpha mean", t_s, a, b, ALPHA_MEAN * abs(float(b.mean())))
        for part, mixed in self._mixed():
            statistics = measure(sampling.layer_on(layer, mixed), sampling)
            for index, t_s in enumerate(sampling.times):
                for name, field, share in (
                    ("MVM error", "error", ERROR),
                    ("gain mean", "gain", GAIN),
                ):
                    a, b = (side.column(field, index) for side in (first, statistics))
                    quantity = f"{name}, {part} of {self.second.name} alone"
                    add(quantity, t_s, a, b, max(share * abs(float(b.mean())), 1e-9))

    def _mixed(self) -> Iterator[tuple[str, Preset]]:
        """Yield each part in which the presets differ, and the first preset with that part."""
        for part in Preset.PARTS:
            if getattr(self.first, part) != getattr(self.second, part):
                changes: dict[str, Any] = {part: getattr(self.second, part)}
                name = f"{self.first.name}, {part} of the other"
                yield part, dataclasses.replace(self.first, **changes, name=name)

    def chips_needed(self, layer: Layer, sampling: Sampling) -> int | None:
        """Return None: how far two presets are apart is not known before."""
        return None

    def layer_cost(self, layer: Layer, sampling: Sampling) -> Cost | None:
        """Return None: a few chips tell."""
        return None

    def task_models(
        self,
        digital: nn.Module,
        native: Sequence[nn.Module],
        exclude: Any,
        native_engine: str,
        device: str,
    ) -> tuple[TaskModel, TaskModel]:
        """Return the model under both presets."""
        first, second = (
            TaskModel(f"side {side}", digital, native[side], preset, native_engine, exclude, device)
            for side, preset in enumerate(self.presets)
        )
        return first, second

    def causes(self) -> pd.DataFrame | None:
        """Return the fields that differ: part, field, one column per preset.

        A field that a preset does not have is "-".
        """
        import pandas as pd

        names = list(self.names)
        if names[0] == names[1]:
            names[1] += " (against)"
        rows = []
        for part in Preset.PARTS:
            specs = [getattr(preset, part) for preset in self.presets]
            values = [spec.values() for spec in specs]
            if part == "pcm":
                values = [{"law": s.law, **v} for s, v in zip(specs, values, strict=True)]
            for name in dict.fromkeys([*values[0], *values[1]]):
                pair = [v.get(name, "-") for v in values]
                if pair[0] != pair[1]:
                    rows.append([part, name, *pair])
        return pd.DataFrame(rows, columns=["part", "field", *names], dtype=object)

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Return one line per time: which part of the second preset brings how much error.

        It has the mean error of the layers under both presets, and under the first one with one
        part of the second.
        """
        lines = []
        rows = table[(table["level"] == "layer") & table["quantity"].str.startswith("MVM error")]
        for t_s, now in rows.groupby("t_inference"):
            whole = now[now["quantity"] == "MVM error"]
            errors = [
                f"{self.names[0]} {whole['first'].mean():.4f}",
                f"{self.names[1]} {whole['second'].mean():.4f}",
            ]
            mixed = now[now["quantity"] != "MVM error"]
            for quantity, part in mixed.groupby("quantity", sort=False):
                errors.append(f"{str(quantity).partition(', ')[2]} {part['second'].mean():.4f}")
            when = label(float(t_s))  # type: ignore[arg-type]
            lines.append(f"mean MVM error of the layers at {when}: {', '.join(errors)}")
        return lines
