"""A user's physics against aihwkit's: devices, and layers behind an ideal periphery."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from aimc_bridge.conversion import convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.engines.base import engine as find_engine
from aimc_bridge.equivalence import device
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import Samples
from aimc_bridge.equivalence.device_laws import TileLaws, Tiles, reference_laws
from aimc_bridge.equivalence.layer import compare_outputs
from aimc_bridge.equivalence.measuring import (
    AIHWKIT,
    ChipStatistics,
    Sampling,
    product_statistics,
    reference_note,
    sampled_inputs,
    sampled_outputs,
)
from aimc_bridge.equivalence.prediction import Cost
from aimc_bridge.equivalence.report import Findings
from aimc_bridge.equivalence.task import TaskModel
from aimc_bridge.errors import UsageError
from aimc_bridge.physics.own import checked_weights
from aimc_bridge.rng import stream
from aimc_bridge.spec import Preset

if TYPE_CHECKING:
    import pandas as pd


class Physics(Protocol):
    """The two functions that a user writes: one programs weights, one reads them later.

    Weights have the shape (out, in) and are scaled to [-1, 1]. All random numbers must come from
    `generator`, which is torch's and on the CPU.
    """

    def program(self, weights: Tensor, generator: torch.Generator) -> Any:
        """Program the weights of a tile and return whatever `read` needs."""
        ...

    def read(self, state: Any, t_inference: float, generator: torch.Generator) -> Tensor:
        """Return the weights at a time, in seconds after programming."""
        ...


def checked(physics: object) -> Physics:
    """Check that an object has the two functions, and return it.

    Raises:
        UsageError: If one is missing.
    """
    missing = [name for name in ("program", "read") if not callable(getattr(physics, name, None))]
    if missing:
        raise UsageError(
            f"physics is a {type(physics).__name__} without {' and '.join(missing)}; allowed: an "
            "object with program(weights, generator) -> state and "
            "read(state, t_inference, generator) -> weights"
        )
    return cast(Physics, physics)


def name_of(physics: object) -> str:
    """Return what a report calls a physics: the name of its class or module."""
    kind = physics if isinstance(physics, type) else type(physics)
    name = kind.__name__
    return getattr(physics, "__name__", name) if name == "module" else name


class Custom:
    """The laws of weights of a user's physics."""

    def __init__(self, physics: Physics, seed: int, *names: object) -> None:
        """Prepare the laws.

        Args:
            physics: The user's object.
            seed: The seed of the cross-check.
            *names: Name the stream of random numbers.
        """
        self.physics = physics
        self.draws = stream(seed, "crosscheck", "physics", *names)

    def drawing(self) -> AbstractContextManager[Any]:
        """Return the context in which random numbers are drawn."""
        return nullcontext()

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        """Program tiles and read them; how they are as programmed is not known."""
        for _ in range(count):
            state = self.physics.program(weight.clone(), self.draws)
            yield None, [self._read(state, t_s, weight) for t_s in times]

    def _read(self, state: Any, t_s: float, weight: Tensor) -> Tensor:
        """Read a tile with the targets `weight`, and check what the user's function returns."""
        weights = self.physics.read(state, t_s, self.draws)
        return checked_weights(weights, tuple(weight.shape), weight, "physics.read", t_s)


@dataclass(frozen=True)
class CustomLaw:
    """A user's physics against aihwkit's laws of `preset`; a `Comparison`.

    Layers are compared behind an ideal periphery: their tiles hold what each physics reads, while
    inputs, products and outputs are exact.
    """

    physics: Physics
    preset: Preset

    levels = ("device", "layer")
    reference = AIHWKIT

    @property
    def names(self) -> tuple[str, str]:
        """The name of the user's physics, and aihwkit."""
        return name_of(self.physics), AIHWKIT

    @property
    def presets(self) -> tuple[Preset, ...]:
        """The preset."""
        return (self.preset,)

    def device_reference(self) -> str:
        """Return what runs `preset`: "aihwkit", or "closed form"."""
        return reference_laws(self.preset, 0)[1]

    def identity(self) -> dict[str, Any]:
        """Return the preset as plain data, and the name of the physics."""
        return {"preset": self.preset.identity(), "physics": name_of(self.physics)}

    def check(self, device: torch.device, dtype: torch.dtype) -> None:
        """Check that aihwkit can run the preset; the user's physics runs anywhere."""
        find_engine(AIHWKIT).check(self.preset, device, dtype)

    def samples_at(self, x: float, samples: int) -> int:
        """Return the samples at a target: twice as many for 0."""
        return device.more_samples(x, samples)

    def draw(
        self, side: int, x: float, times: Sequence[float], samples: int, seed: int
    ) -> Iterator[Samples]:
        """Draw weights of one target, both signs; a user's physics has no single devices."""
        laws: TileLaws
        if side == 0:
            laws = Custom(self.physics, seed, x)
        else:
            laws, _ = reference_laws(self.preset, seed, x, "weights")
        yield device.weights(laws, device.signed_targets(x), times, samples)

    @torch.no_grad()
    def measure(
        self, side: int, layer: Layer, sampling: Sampling, advance: Callable[[], None]
    ) -> ChipStatistics:
        """Measure the layer with weights as one physics reads them."""
        laws: TileLaws
        if side == 0:
            laws = Custom(self.physics, sampling.seed, layer.name)
        else:
            laws, _ = reference_laws(self.preset, sampling.seed, layer.name)
        matrix = _matrix(layer, self.preset)
        scale = matrix.grid.expand_columns(matrix.column_scale())
        x = sampled_inputs(layer, sampling)
        exact = layer.module(x)
        places = sampled_outputs(layer, exact, sampling.seed)
        weight = layer.module.get_parameter("weight")
        trained = weight.detach().clone()
        statistics = ChipStatistics()
        try:
            with laws.drawing():
                for _ in range(sampling.chips):
                    by_time: dict[str, list[Any]] = {name: [] for name in ("gain", "error", "mean")}
                    for held in _one_chip(laws, matrix, sampling.times):
                        weight.copy_((held * scale).view_as(weight))
                        values = product_statistics(layer.module(x).unsqueeze(0), exact, places)
                        for name, of_times in by_time.items():
                            of_times.append(values[name])
                    for name, of_times in by_time.items():
                        statistics.add(name, of_times)
                    advance()
        finally:
            weight.copy_(trained)
        return statistics

    def compare_layer(
        self,
        findings: Findings,
        layer: Layer,
        sampling: Sampling,
        first: ChipStatistics,
        second: ChipStatistics,
    ) -> None:
        """Compare the outputs."""
        compare_outputs(findings, layer, sampling.times, first, second, noise=False)

    def chips_needed(self, layer: Layer, sampling: Sampling) -> int | None:
        """Return None: how a user's chips spread is not known before."""
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
        """Refuse the task level.

        Raises:
            UsageError: Always: a user's physics holds weights, it runs no model.
        """
        raise UsageError(f"physics has no task level: it holds weights only; levels={self.levels}")

    def causes(self) -> pd.DataFrame | None:
        """Return None: what a user's physics is made of is not known."""
        return None

    def notes(self, table: pd.DataFrame) -> list[str]:
        """Return which aihwkit it was; the table speaks for itself."""
        return [reference_note()]


def _one_chip(laws: TileLaws, matrix: Matrix, times: Sequence[float]) -> list[Tensor]:
    """Program a matrix tile by tile and return its normalised weights at each time."""
    weight = matrix.normalised_weight()
    held = [torch.zeros_like(weight) for _ in times]
    for rows in matrix.grid.row_slices():
        for columns in matrix.grid.column_slices():
            tile = weight[columns, rows].contiguous()
            largest = tile.abs().max().clamp_min(1e-30)
            ((_, later),) = laws.tiles(tile / largest, 1, times)
            for whole, now in zip(held, later, strict=True):
                whole[columns, rows] = now.to(whole) * largest
    return held


def _matrix(layer: Layer, preset: Preset) -> Matrix:
    """Return the layer's matrix on the preset's tiles."""
    model = convert(torch.nn.Sequential(layer.module), preset)
    (matrix,) = matrices_of(model).values()
    return matrix
