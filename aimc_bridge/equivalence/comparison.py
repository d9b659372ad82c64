"""The interface of all comparisons, and the functions that compare one target or one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from aimc_bridge.equivalence import device
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import Samples
from aimc_bridge.equivalence.measuring import ChipStatistics, Sampling
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.equivalence.report import Findings
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import Preset

if TYPE_CHECKING:
    import pandas as pd


class Comparison(Protocol):
    """Two sides that are compared: side 0, the first, and side 1, the second.

    There are four: `TwoEngines` under one preset, `TwoPresets` on the native engine, a `CustomLaw`
    against aihwkit's, and `AgainstLightning`. Another reference is one more class with these
    methods. A comparison can be sent to other processes; it holds no model.
    """

    @property
    def names(self) -> tuple[str, str]:
        """The names of the two sides in a report."""
        ...

    @property
    def presets(self) -> tuple[Preset, ...]:
        """The presets under which the native engine runs: one, or one per side."""
        ...

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels at which the two sides can be compared."""
        ...

    @property
    def reference(self) -> str:
        """The name of the second side in the rows of layers and of the task."""
        ...

    def device_reference(self) -> str:
        """Return what the second side is in the rows of devices."""
        ...

    def identity(self) -> dict[str, Any]:
        """Return plain data that tells this comparison from others, for a resume."""
        ...

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Check that both sides can run on a device and with a data type.

        Raises:
            CapabilityError: If one of them cannot.
        """
        ...

    def samples_at(self, x: float, samples: int) -> int:
        """Return how many devices are drawn at a target, if `samples` are asked for."""
        ...

    def draw(
        self, side: int, x: float, times: Sequence[float], samples: int, seed: int
    ) -> Iterator[Samples]:
        """Draw devices and weights of one target.

        Args:
            side: 0 or 1.
            x: The target over g_max.
            times: Seconds after programming, ascending.
            samples: Devices per cell.
            seed: The seed of the cross-check.

        Yields:
            Samples by cell, in groups; both sides yield as many groups, in the same order.
        """
        ...

    def measure(
        self, side: int, layer: Layer, sampling: Sampling, advance: Callable[[], None]
    ) -> ChipStatistics:
        """Measure the chips of a layer on one side.

        Args:
            side: 0 or 1.
            layer: The layer.
            sampling: Times, chips and seed.
            advance: Called after every chip.
        """
        ...

    def compare_layer(
        self,
        findings: Findings,
        layer: Layer,
        sampling: Sampling,
        first: ChipStatistics,
        second: ChipStatistics,
    ) -> None:
        """Compare what was measured of a layer, and whatever else belongs to it.

        Args:
            findings: Where the rows are added.
            layer: The layer.
            sampling: What the layer was measured with.
            first: The chips of side 0.
            second: The chips of side 1.
        """
        ...

    def chips_needed(self, layer: Layer, sampling: Sampling) -> int | None:
        """Return how many chips decide every row of a layer; None if nothing can tell."""
        ...

    def layer_cost(self, layer: Layer, sampling: Sampling) -> Cost | None:
        """Return what a layer will cost; None if only a trial can tell."""
        ...

    def task_models(
        self,
        digital: nn.Module,
        native: Sequence[nn.Module],
        exclude: Any,
        native_engine: str,
        device: str,
    ) -> tuple[TaskModel, TaskModel]:
        """Return the model on both sides.

        Args:
            digital: The digital model.
            native: Its calibrated native conversions, one per preset of `presets`.
            exclude: Modules that stay digital.
            native_engine: NATIVE or COMPILED.
            device: Where the native engine runs.
        """
        ...

    def causes(self) -> pd.DataFrame | None:
        """Return in what the two sides differ by design, if that can be listed."""
        ...

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Return lines for the summary that explain a table of verdicts."""
        ...


def device_findings(
    comparison: Comparison,
    x: float,
    times: Sequence[float],
    samples: int,
    seed: int,
    margins: Mapping[str, float] = device.MARGINS,
) -> Findings:
    """Compare all cells of devices and weights with one target.

    Args:
        comparison: The two sides.
        x: The target over g_max.
        times: Seconds after programming, ascending.
        samples: Devices per cell.
        seed: The seed of the cross-check.
        margins: Those of means and of standard deviations, as shares.

    Returns:
        One row per cell, quantity and time.
    """
    findings = Findings()
    samples = comparison.samples_at(x, samples)
    reference = comparison.device_reference()
    groups = (comparison.draw(side, x, times, samples, seed) for side in (0, 1))
    tables = [preset.name for preset in comparison.presets if law_of(preset.pcm).tabulated]
    shapes = not tables or len(comparison.presets) == 1  # against itself, a table has shapes too
    for first, second in zip(*groups, strict=True):
        device.compare(findings, first, second, reference, shapes, margins)
    return findings


def layer_findings(
    comparison: Comparison,
    layer: Layer,
    sampling: Sampling,
    advance: Callable[[], None] = lambda: None,
) -> Findings:
    """Compare one layer.

    Args:
        comparison: The two sides.
        layer: The layer.
        sampling: Times, chips and seed.
        advance: Called after every chip of the two sides' main measurement.

    Returns:
        One row per quantity and time.
    """
    findings = Findings()
    first, second = (comparison.measure(side, layer, sampling, advance) for side in (0, 1))
    comparison.compare_layer(findings, layer, sampling, first, second)
    return findings
