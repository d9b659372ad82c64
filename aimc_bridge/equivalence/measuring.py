"""One layer on one engine: what its chips do with real inputs.

The sampling unit is the chip. On aihwkit the layer is converted again for every chip, because a
tile draws the noise of its products from a pool of Gaussians that is made when the tile is built.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aimc_bridge.chip import drift, program
from aimc_bridge.conversion import convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.engines.native import compiled
from aimc_bridge.engines.versions import installed
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.statistics import Values
from aimc_bridge.rng import alone, derive, stream
from aimc_bridge.spec import Preset

NATIVE, COMPILED, AIHWKIT = "native", "compiled", "aihwkit"
VECTORS, IMAGES, READS = 24, 2, 3  # inputs of a matrix, of a convolution; reads per chip
OUTPUTS = 512  # so many outputs are compared one by one


def reference_note() -> str:
    """Return the line of a summary that says which aihwkit was the reference."""
    return f"reference: aihwkit {installed('aihwkit')} with torch {installed('torch')}"


@contextmanager
def full_float32() -> Iterator[None]:
    """Run convolutions on a GPU without TF32, which rounds inputs and weights to 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Sampling:
    """The settings of the measurement of one layer.

    Attributes:
        times: Seconds after programming.
        chips: Chips of each side.
        seed: The seed of the cross-check.
        vectors: Input vectors; a convolution gets `IMAGES` images.
        reads: Products of each chip with the same inputs, if they differ.
        native_engine: NATIVE, or COMPILED for its compiled passes.
        device: Where the native engine runs; aihwkit runs on the CPU.
    """

    times: tuple[float, ...]
    chips: int
    seed: int
    vectors: int = VECTORS
    reads: int = READS
    native_engine: str = NATIVE
    device: str = "cpu"

    @property
    def engines(self) -> tuple[str, str]:
        """The engines of the two sides, native against aihwkit."""
        return self.native_engine, AIHWKIT

    def layer_on(self, layer: Layer, preset: Preset, engine: str | None = None) -> EngineLayer:
        """Put a layer on one of the engines.

        Args:
            layer: The layer.
            preset: The preset.
            engine: NATIVE, COMPILED or AIHWKIT; None is the native engine of this sampling.
        """
        engine = engine or self.native_engine
        return EngineLayer(layer, preset, engine, "cpu" if engine == AIHWKIT else self.device)


class EngineLayer:
    """One layer under one preset on one engine: NATIVE, COMPILED or AIHWKIT."""

    def __init__(self, layer: Layer, preset: Preset, engine: str, device: str = "cpu") -> None:
        """Convert the layer.

        Args:
            layer: The layer.
            preset: The preset.
            engine: NATIVE, COMPILED or AIHWKIT.
            device: Where the layer runs.
        """
        self.layer, self.preset, self.engine, self.device = layer, preset, engine, device
        self.model = self._converted()

    def _converted(self) -> nn.Module:
        """Return the layer converted, with its input ranges."""
        whole = nn.Sequential(self.layer.module).eval()
        engine = AIHWKIT if self.engine == AIHWKIT else NATIVE
        model = convert(whole, self.preset, engine=engine).to(self.device)
        if self.engine == COMPILED:
            compiled(model)
        ranges, matrix = self.layer.ranges, self.matrix(model)
        if ranges is not None and self.preset.crossbar.input_range != "none":
            tiles = (len(matrix.grid.rows), len(matrix.grid.columns))
            if tuple(ranges.shape) != tiles:  # another preset's tiles
                ranges = ranges.amax().expand(tiles)
            matrix.set_input_ranges(ranges.to(self.device))
        return model

    def matrix(self, model: nn.Module | None = None) -> Matrix:
        """Return the only weight matrix of the model."""
        (matrix,) = matrices_of(self.model if model is None else model).values()
        return matrix

    def chip(self, seed: int) -> None:
        """Program a chip; tiles of aihwkit are built again."""
        if self.engine == AIHWKIT:
            self.model = self._converted()
        program(self.model, seed)

    def at(self, t_s: float) -> None:
        """Let the chip drift to a time, in seconds after programming."""
        drift(self.model, t_s)

    def output(self, x: Tensor) -> Tensor:
        """Return one product for each of the inputs, shape (inputs, ...), on the CPU."""
        with full_float32():
            y: Tensor = self.model(x.to(self.device))
        return y.cpu()

    def alpha(self) -> Tensor:
        """Return the compensation factor of each tile, the mean over its columns."""
        matrix = self.matrix()
        return matrix.grid.reduce_columns(matrix.alpha(), "mean").flatten().cpu()

    def size(self) -> Tensor:
        """Return the mean |w| that each tile holds, of normalised weights."""
        matrix = self.matrix()
        scale = matrix.column_scale() * matrix.learned_scale()
        held = matrix.effective_weight() / matrix.grid.expand_columns(scale)
        return matrix.grid.tile_mean(held.abs()).flatten().cpu()


@dataclass
class ChipStatistics:
    """Statistics of a layer's chips on one side.

    Each statistic is a list with one entry per chip, a list with one value per time.

    Attributes:
        gain: Slope of the outputs on the exact outputs.
        error: Relative L2 error.
        read: Standard deviation between reads, over the root mean square of the exact outputs.
        shared: Correlation between the noise of different inputs in one read.
        mean: Mean over reads of some outputs.
        read_variance: Variance over reads of these outputs.
        alpha: Compensation factor of each tile.
        bias: How far the factor is from the true ratio of |w|, relative, of each tile.
    """

    gain: list[list[float]] = field(default_factory=list)
    error: list[list[float]] = field(default_factory=list)
    read: list[list[float]] = field(default_factory=list)
    shared: list[list[float]] = field(default_factory=list)
    mean: list[list[Values]] = field(default_factory=list)
    read_variance: list[list[Values]] = field(default_factory=list)
    alpha: list[list[Values]] = field(default_factory=list)
    bias: list[list[Values]] = field(default_factory=list)

    def add(self, name: str, values: list[Any]) -> None:
        """Add one chip's values of a statistic, one per time."""
        getattr(self, name).append(values)

    def column(self, name: str, time: int) -> Values:
        """Return a statistic of all chips at one time, shape (chips, ...)."""
        return np.array([chip[time] for chip in getattr(self, name)], dtype=np.float64)


def noisy(preset: Preset) -> bool:
    """Return whether two products of one chip with the same inputs differ."""
    return preset.crossbar.out_noise > 0 or preset.crossbar.w_noise > 0


@torch.no_grad()
def measure(
    engine_layer: EngineLayer,
    sampling: Sampling,
    advance: Callable[[], None] = lambda: None,
    what: str = "outputs",
) -> ChipStatistics:
    """Program chips of one side and measure them at every time, on the same inputs.

    Args:
        engine_layer: The layer on one engine.
        sampling: Times, chips, seed, inputs and reads.
        advance: Called after every chip.
        what: "outputs" for all statistics, "alpha" for compensation factors alone.
    """
    layer, preset, seed = engine_layer.layer, engine_layer.preset, sampling.seed
    x = sampled_inputs(layer, sampling)
    exact = layer.module(x)
    reads = sampling.reads if noisy(preset) else 1
    places = sampled_outputs(layer, exact, seed)
    statistics = ChipStatistics()
    with alone(), torch.random.fork_rng(devices=[]):
        for chip in range(sampling.chips):
            names = ("crosscheck", engine_layer.engine, preset.name, layer.name, what, chip)
            torch.manual_seed(derive(seed, *names, "products"))
            engine_layer.chip(derive(seed, *names))
            before = engine_layer.size()
            by_time: dict[str, list[Any]] = {name: [] for name in vars(statistics)}
            for t_s in sampling.times:
                engine_layer.at(t_s)
                alpha = engine_layer.alpha()
                by_time["alpha"].append(alpha.numpy().copy())
                true = before / engine_layer.size().clamp_min(1e-12)
                by_time["bias"].append((alpha / true - 1.0).numpy().copy())
                if what == "outputs":
                    products = torch.stack([engine_layer.output(x) for _ in range(reads)])
                    for name, value in product_statistics(products, exact, places).items():
                        by_time[name].append(value)
            for name, values in by_time.items():
                statistics.add(name, values)
            advance()
    return statistics


def sampled_inputs(layer: Layer, sampling: Sampling) -> Tensor:
    """Return the inputs that a layer is measured on, the same for both sides."""
    return layer.part(IMAGES if layer.kind == "convolution" else sampling.vectors, sampling.seed)


def sampled_outputs(layer: Layer, exact: Tensor, seed: int) -> Tensor:
    """Return the places of at most `OUTPUTS` outputs, which are compared one by one."""
    draws = stream(seed, "outputs", layer.name)
    return torch.randperm(exact.numel(), generator=draws)[:OUTPUTS]


def product_statistics(products: Tensor, exact: Tensor, places: Tensor) -> dict[str, Any]:
    """Return the statistics of one chip at one time.

    Args:
        products: The chip's products, shape (reads, inputs, ...).
        exact: The exact products, shape (inputs, ...).
        places: Places of the outputs that are compared one by one.

    Returns:
        The statistics of outputs by name, see `ChipStatistics`: one number or vector each.
    """
    y = products.double()
    wanted = exact.double()
    power = float(wanted.square().sum())
    mean = y.mean(0)
    values: dict[str, Any] = {
        "gain": float((mean * wanted).sum()) / power,
        "error": math.sqrt(float((y - wanted).square().sum()) / len(y) / power),
        "mean": mean.flatten()[places].numpy(),
    }
    if len(y) < 2:
        return {**values, "read": 0.0, "shared": 0.0, "read_variance": np.zeros(len(places))}
    variance = y.var(0)
    total = float(variance.sum())
    values["read"] = math.sqrt(total / power)
    values["read_variance"] = variance.flatten()[places].numpy()
    noise = (y - mean).flatten(2) if y.ndim > 3 else y - mean  # [reads, inputs, outputs]
    inputs = noise.shape[1]
    together = float(noise.sum(1).square().sum()) / (len(y) - 1)
    values["shared"] = 0.0
    if total > 0 and inputs > 1:
        values["shared"] = (together / total - 1.0) / (inputs - 1)
    return values
