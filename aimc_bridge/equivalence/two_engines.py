"""Two engines under one preset: the native engine against aihwkit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.equivalence import device, device_laws, periphery, prediction, variation
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import Samples
from aimc_bridge.equivalence.layer import (
    KNOWN,
    MEASURED,
    compare_alpha,
    compare_known_alpha,
    compare_outputs,
)
from aimc_bridge.equivalence.measuring import (
    AIHWKIT,
    ChipStatistics,
    Sampling,
    measure,
    noisy,
    reference_note,
)
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.equivalence.report import LEVELS, Findings
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import Preset

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class TwoEngines:
    """The native engine and aihwkit, both under `preset`; a `Comparison`."""

    preset: Preset

    names = ("native", AIHWKIT)
    levels = LEVELS
    reference = AIHWKIT

    @property
    def presets(self) -> tuple[Preset, ...]:
        """The preset."""
        return (self.preset,)

    def device_reference(self) -> str:
        """Return "aihwkit", or "closed form" if aihwkit has no such device."""
        return device_laws.reference_laws(self.preset, 0)[1]

    def identity(self) -> dict[str, Any]:
        """Return the preset as plain data."""
        return {"preset": self.preset.identity()}

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Check that aihwkit can run the preset; without a working aihwkit: VersionError."""
        find_engine(AIHWKIT).check(self.preset, device, dtype)

    def samples_at(self, x: float, samples: int) -> int:
        """Return the samples at a target: twice as many for 0."""
        return device.more_samples(x, samples)

    def draw(
        self, side: int, x: float, times: Sequence[float], samples: int, seed: int
    ) -> Iterator[Samples]:
        """Draw single devices, netted weights, and weights whose devices are read one by one."""
        pcm, law = self.preset.pcm, law_of(self.preset.pcm)
        signed = device.signed_targets(x)
        g_max_us = pcm.g_max_us if pcm.pairs else pcm.full_scale_us
        readings = law.tabulated or law.redrawn
        netted = not (law.redrawn and pcm.pairs) and pcm.reference != "column"
        if side == 0:
            native = device_laws.Native(self.preset, True, seed, x)
            yield device.devices(native, x, times, samples, g_max_us, readings)
            if netted:
                native = device_laws.Native(self.preset, True, seed, x, "weights")
                yield device.weights(native, signed, times, samples)
            if pcm.pairs:
                native = device_laws.Native(self.preset, False, seed, x, "pairs")
                yield device.weights(native, signed, times, samples, device.kind_of(pcm))
        else:
            laws, _ = device_laws.reference_laws(self.preset, seed, x)
            yield device.devices(laws, x, times, samples, g_max_us, readings)
            if netted:
                yield device.weights(laws, signed, times, samples)
            if pcm.pairs:
                yield device.pairs(laws, signed, times, samples, pcm)

    def measure(
        self, side: int, layer: Layer, sampling: Sampling, advance: Callable[[], None]
    ) -> ChipStatistics:
        """Measure the chips of a layer on one engine."""
        engine = sampling.engines[side]
        return measure(sampling.layer_on(layer, self.preset, engine), sampling, advance)

    def compare_layer(
        self,
        findings: Findings,
        layer: Layer,
        sampling: Sampling,
        first: ChipStatistics,
        second: ChipStatistics,
    ) -> None:
        """Compare outputs, every kind of compensation factor, and the periphery by itself."""
        times, noise = sampling.times, noisy(self.preset)
        compare_outputs(findings, layer, times, first, second, noise=noise)
        kind = self.preset.compensation.drift_compensation
        if kind in MEASURED:
            compare_alpha(findings, layer, times, first, second, kind)
        for other in MEASURED:
            if other != kind:
                changed = self.preset.change(why="cross-check", drift_compensation=other)
                a, b = (
                    measure(sampling.layer_on(layer, changed, engine), sampling, what="alpha")
                    for engine in sampling.engines
                )
                compare_alpha(findings, layer, times, a, b, other)
        for other in KNOWN:
            compare_known_alpha(findings, layer, self.preset, sampling, other)
        periphery.clipping(findings, layer, self.preset, sampling)
        periphery.ir_drop(findings, layer, self.preset, sampling)
        periphery.exactly(findings, layer, self.preset, sampling)
        variation.drawn(findings, layer, self.preset, sampling)
        variation.noise_by_output(findings, periphery.first_tile(layer), self.preset, sampling)

    def chips_needed(self, layer: Layer, sampling: Sampling) -> int | None:
        """Return the chips that a pilot of the native engine finds to be needed."""
        return prediction.chips_needed(layer, self.preset, sampling)

    def layer_cost(self, layer: Layer, sampling: Sampling) -> Cost | None:
        """Return what a layer will cost, from one chip on each engine."""
        return prediction.layer_cost(layer, self.preset, sampling)

    def task_models(
        self,
        digital: nn.Module,
        native: Sequence[nn.Module],
        exclude: Any,
        native_engine: str,
        device: str,
    ) -> tuple[TaskModel, TaskModel]:
        """Return the model on both engines."""
        first, second = (
            TaskModel(engine, digital, native[0], self.preset, engine, exclude, device)
            for engine in (native_engine, AIHWKIT)
        )
        return first, second

    def causes(self) -> pd.DataFrame | None:
        """Return None: by design nothing differs."""
        return None

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Return which aihwkit it was; the table speaks for itself."""
        return [reference_note()]
