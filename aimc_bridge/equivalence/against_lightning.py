"""The native engine against aihwkit-lightning, layer by layer, in what both of them model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import nn

from aimc_bridge.equivalence import lightning_side, prediction
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import Samples
from aimc_bridge.equivalence.layer import compare_outputs
from aimc_bridge.equivalence.lightning_quantities import (
    WEIGHT_SD,
    clipping,
    exactly,
    gaussian_recipe,
    learning,
    started,
)
from aimc_bridge.equivalence.lightning_side import LIGHTNING, LightningLayer
from aimc_bridge.equivalence.measuring import (
    NATIVE,
    ChipStatistics,
    Sampling,
    noisy,
    product_statistics,
    sampled_inputs,
    sampled_outputs,
)
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.equivalence.report import Findings, Report
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.errors import CapabilityError
from aimc_bridge.rng import alone, derive
from aimc_bridge.spec import Preset
from aimc_bridge.training import noisy_weight

if TYPE_CHECKING:
    import pandas as pd

DRAWS = 192  # at least so many of each side; they cost little

DEFINED = f"{LIGHTNING}, defined otherwise"
"""The reference of rows that may differ although both sides do what they promise."""
_OF_NOISE = (
    "MVM error",
    "output mean",
    "output sd",
    "output variance by output",
    "read sd",
    "read variance by output",
)
_BEHIND_ADC = "gradient of inputs inside, ADC on"
_OF_RANGES = ("input range, from data", "gradient of input ranges", "input range, learned")


@dataclass(frozen=True)
class AgainstLightning:
    """The native engine and aihwkit-lightning, both under `preset`; a `Comparison`.

    aihwkit-lightning has no chips. The sampling unit is one draw of the noise, and no time applies.
    """

    preset: Preset

    names = (NATIVE, LIGHTNING)
    levels = ("layer",)
    reference = LIGHTNING

    @property
    def presets(self) -> tuple[Preset, ...]:
        """The preset."""
        return (self.preset,)

    @cached_property
    def common(self) -> Preset:
        """The preset without what aihwkit-lightning does not have."""
        off = {name: _absent(self.preset)[name] for name in self.left_out}
        return self.preset.change(why="cross-check", drift_compensation="none", **off)

    @property
    def left_out(self) -> list[str]:
        """The effects of the preset's crossbar that aihwkit-lightning does not have."""
        off, crossbar = _absent(self.preset), self.preset.crossbar
        return [name for name, value in off.items() if getattr(crossbar, name) != value]

    @cached_property
    def _quiet(self) -> Preset:
        """The common preset without output noise."""
        return self.common.change(why="cross-check", out_noise=0.0)

    def device_reference(self) -> str:
        """Return "lightning"; it has no devices, and there is no such level."""
        return LIGHTNING

    def identity(self) -> dict[str, Any]:
        """Return the preset and the version of aihwkit-lightning as plain data."""
        return {
            "preset": self.preset.identity(),
            "reference": [LIGHTNING, version("aihwkit-lightning")],
        }

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Check that aihwkit-lightning can run the preset.

        Raises:
            CapabilityError: If it cannot.
            VersionError: If it cannot be used here.
        """
        lightning_side.check(self.preset)

    def samples_at(self, x: float, samples: int) -> int:
        """Return the samples at a target, of which there is none."""
        return samples

    def draw(
        self, side: int, x: float, times: Sequence[float], samples: int, seed: int
    ) -> Iterator[Samples]:
        """Raise CapabilityError: aihwkit-lightning has no devices."""
        _refuse("device")

    def measure(
        self, side: int, layer: Layer, sampling: Sampling, advance: Callable[[], None]
    ) -> ChipStatistics:
        """Measure draws of the noise that products have in training mode, without weight noise."""
        return self._measured(side, layer, sampling, self.common, 0.0, advance)

    def compare_layer(
        self,
        findings: Findings,
        layer: Layer,
        sampling: Sampling,
        first: ChipStatistics,
        second: ChipStatistics,
    ) -> None:
        """Compare outputs, injected weight noise, converters by themselves, and what learns."""
        _outputs(findings, layer, "", first, second, noisy(self.common))
        if noisy(self.common) and len(layer.grid.rows) > 1:
            # it divides the noise of a slice by the root of the number of slices
            _defined_otherwise(findings, _OF_NOISE)
        if self.preset.crossbar.weight_scaling == "layer" and layer.grid.tiles > 1:
            # it takes the largest weight of each slice, not of the layer
            _defined_otherwise(findings, _OF_NOISE)
        quiet = self._quiet
        a, b = (
            self._measured(side, layer, sampling, quiet, WEIGHT_SD, lambda: None) for side in (0, 1)
        )
        _outputs(findings, layer, "weight noise: ", a, b, noise=False)
        exactly(findings, layer, quiet, sampling)
        clipping(findings, layer, quiet, sampling)
        if quiet.crossbar.input_range != "none":
            started(findings, layer, quiet, sampling)
            smooth = quiet.change(why="cross-check", adc_bits=None)
            learning(findings, layer, smooth, sampling)
            if quiet.crossbar.adc_bits is not None:
                behind = Findings()
                learning(behind, layer, quiet, sampling)
                findings.rows += [
                    dataclasses.replace(row, quantity=_BEHIND_ADC)
                    for row in behind.rows
                    if row.quantity == "gradient of inputs inside"
                ]
            # There, an input that the range clips gets no gradient, and an output on the last step
            # of the ADC does not count as clipped.
            _defined_otherwise(findings, ("gradient of clipped inputs", _BEHIND_ADC))
            if layer.kind == "convolution" or len(layer.grid.columns) > 1:
                # it looks at patches, and has one range per row of tiles
                _defined_otherwise(findings, _OF_RANGES)

    def _measured(
        self,
        side: int,
        layer: Layer,
        sampling: Sampling,
        preset: Preset,
        weight_noise: float,
        advance: Callable[[], None],
    ) -> ChipStatistics:
        """Measure draws of the noise on one side, of products or of weights."""
        x = sampled_inputs(layer, sampling)
        exact = layer.module(x)
        places = sampled_outputs(layer, exact, sampling.seed)
        reads = sampling.reads if noisy(preset) else 1
        native = sampling.layer_on(layer, preset)
        lightning = LightningLayer(layer, preset.crossbar, layer.ranges, weight_noise=weight_noise)
        spec = gaussian_recipe(preset, gaussian_sd=WEIGHT_SD)
        statistics = ChipStatistics()
        with alone(), torch.random.fork_rng(devices=[]), torch.no_grad():
            for draw in range(sampling.chips):
                names = ("crosscheck", self.names[side], layer.name, weight_noise > 0, draw)
                torch.manual_seed(derive(sampling.seed, *names))
                if side == 1:
                    products = [lightning.output(x) for _ in range(reads)]
                else:
                    matrix = native.matrix()
                    if weight_noise > 0:
                        matrix.inject(noisy_weight(matrix, spec, 1.0, sampling.seed, names))
                    products = [native.output(x) for _ in range(reads)]
                    matrix.inject(None)
                values = product_statistics(torch.stack(products), exact, places)
                for name, value in values.items():
                    statistics.add(name, [value])
                advance()
        return statistics

    def chips_needed(self, layer: Layer, sampling: Sampling) -> int | None:
        """Return the draws that a pilot of the native engine finds to be needed."""
        pilot = dataclasses.replace(
            sampling, chips=prediction.PILOT, seed=derive(sampling.seed, "pilot")
        )
        wanted = [float(DRAWS)]
        for weight_noise in (0.0, WEIGHT_SD):
            preset = self._quiet if weight_noise > 0 else self.common
            measured = self._measured(0, layer, pilot, preset, weight_noise, lambda: None)
            wanted += prediction.means_need(measured, noisy(preset))
        return min(math.ceil(max(wanted)), prediction.MOST_CHIPS)

    def layer_cost(self, layer: Layer, sampling: Sampling) -> Cost | None:
        """Return None: a few draws tell."""
        return None

    def task_models(
        self,
        digital: nn.Module,
        native: Sequence[nn.Module],
        exclude: Any,
        native_engine: str,
        device: str,
    ) -> tuple[TaskModel, TaskModel]:
        """Raise CapabilityError: without chips there is no task level."""
        _refuse("task")

    def causes(self) -> pd.DataFrame | None:
        """Return None: the preset is the same."""
        return None

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Return what was left out, and why rows differ that do so by definition."""
        lines = [
            f"reference: aihwkit-lightning {version('aihwkit-lightning')} in training mode, the "
            "only one in which it has noise; the sampling unit is a draw of the noise"
        ]
        absent = ", ".join([*self.left_out, "chips"])
        lines.append(f"not in aihwkit-lightning, and off on both sides: {absent}")
        count = int(((table["verdict"] == "different") & (table["reference"] == DEFINED)).sum())
        if count:
            lines.append(
                f"{count} different rows are of quantities that aihwkit-lightning defines in "
                f"another way (reference: {DEFINED}); docs/lightning.md explains them"
            )
        return lines


def _absent(preset: Preset) -> dict[str, Any]:
    """Return the fields of a crossbar that aihwkit-lightning lacks, with their values for off."""
    return {"w_noise": 0.0, "ir_drop": 0.0, **preset.crossbar.optional()}


def without_definitions(report: Report) -> Report:
    """Return a report without the rows that aihwkit-lightning defines in another way.

    Args:
        report: The report of a comparison with aihwkit-lightning.
    """
    defined = report.table["reference"] == DEFINED
    return dataclasses.replace(report, table=report.table[~defined].reset_index(drop=True))


def _refuse(level: str) -> NoReturn:
    raise CapabilityError(
        f"aihwkit-lightning has no {level} level: it has neither devices nor chips; allowed: "
        "levels='layer'"
    )


def _outputs(
    findings: Findings,
    layer: Layer,
    prefix: str,
    first: ChipStatistics,
    second: ChipStatistics,
    noise: bool,
) -> None:
    """Compare outputs with the statistics of chips."""
    found = Findings()
    compare_outputs(found, layer, (math.nan,), first, second, noise=noise, reference=LIGHTNING)
    findings.rows += [
        dataclasses.replace(row, quantity=f"{prefix}{row.quantity}") for row in found.rows
    ]


def _defined_otherwise(findings: Findings, quantities: Sequence[str]) -> None:
    """Mark rows of some quantities, which aihwkit-lightning defines in another way."""
    findings.rows = [
        dataclasses.replace(row, reference=DEFINED) if row.quantity in quantities else row
        for row in findings.rows
    ]
