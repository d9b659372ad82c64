"""One layer on one engine: its chips, measured on real inputs.

A chip is the sampling unit. On aihwkit the layer is converted anew for every chip: its tiles draw
product noise from a pool of Gaussians made when they are built.
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
from aimc_bridge.engines.base import Matrix, matrices_of
from aimc_bridge.engines.native import compiled
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.statistics import Values
from aimc_bridge.rng import derive, stream
from aimc_bridge.spec import Preset

NATIVE, COMPILED, AIHWKIT = "native", "compiled", "aihwkit"
VECTORS, IMAGES, READS = 24, 2, 3
OUTPUTS = 512  # whose means and variances are compared one by one


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions on a GPU without TF32, which rounds inputs and weights to 10 bits."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@dataclass(frozen=True)
class Sampling:
    """What one layer is measured with. `native_engine`: NATIVE, or COMPILED (its compiled passes);
    `device`: where the native engine runs, aihwkit runs on the CPU."""

    times: tuple[float, ...]
    chips: int
    seed: int
    vectors: int = VECTORS
    reads: int = READS
    native_engine: str = NATIVE
    device: str = "cpu"

    @property
    def engines(self) -> tuple[str, str]:
        return self.native_engine, AIHWKIT

    def layer_on(self, layer: Layer, preset: Preset, engine: str | None = None) -> EngineLayer:
        """A layer on one of the engines, by default the native one."""
        engine = engine or self.native_engine
        return EngineLayer(layer, preset, engine, "cpu" if engine == AIHWKIT else self.device)


class EngineLayer:
    """One layer under one preset on one engine: NATIVE, COMPILED or AIHWKIT."""

    def __init__(self, layer: Layer, preset: Preset, engine: str, device: str = "cpu") -> None:
        self.layer, self.preset, self.engine, self.device = layer, preset, engine, device
        self.model = self._converted()

    def _converted(self) -> nn.Module:
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
        (matrix,) = matrices_of(self.model if model is None else model).values()
        return matrix

    def chip(self, seed: int) -> None:
        """Program a chip; aihwkit's tiles are built anew."""
        if self.engine == AIHWKIT:
            self.model = self._converted()
        program(self.model, seed)

    def at(self, t_s: float) -> None:
        drift(self.model, t_s)

    def output(self, x: Tensor) -> Tensor:
        """One product for each of the inputs, `[inputs, ...]`."""
        with full_float32():
            y: Tensor = self.model(x.to(self.device))
        return y.cpu()

    def alpha(self) -> Tensor:
        """By tile, `[tiles]`: the mean over its columns."""
        matrix = self.matrix()
        return matrix.grid.reduce_columns(matrix.alpha(), "mean").flatten().cpu()

    def size(self) -> Tensor:
        """Mean |w| of what is held, normalised, by tile, `[tiles]`."""
        matrix = self.matrix()
        scale = matrix.column_scale() * matrix.learned_scale()
        held = matrix.effective_weight() / matrix.grid.expand_columns(scale)
        return matrix.grid.tile_mean(held.abs()).flatten().cpu()


@dataclass
class ChipStatistics:
    """Statistics of one layer on one side: of each, a list per chip with one value per time."""

    gain: list[list[float]] = field(default_factory=list)
    error: list[list[float]] = field(default_factory=list)
    read: list[list[float]] = field(default_factory=list)
    shared: list[list[float]] = field(default_factory=list)
    mean: list[list[Values]] = field(default_factory=list)
    read_variance: list[list[Values]] = field(default_factory=list)
    alpha: list[list[Values]] = field(default_factory=list)
    bias: list[list[Values]] = field(default_factory=list)

    def add(self, name: str, values: list[Any]) -> None:
        getattr(self, name).append(values)

    def column(self, name: str, time: int) -> Values:
        """All chips at one time, `[chips, ...]`."""
        return np.array([chip[time] for chip in getattr(self, name)], dtype=np.float64)


def noisy(preset: Preset) -> bool:
    """Whether two products of one chip differ."""
    return preset.crossbar.out_noise > 0 or preset.crossbar.w_noise > 0


@torch.no_grad()
def measure(
    engine_layer: EngineLayer,
    sampling: Sampling,
    advance: Callable[[], None] = lambda: None,
    what: str = "outputs",
) -> ChipStatistics:
    """Chips of one side, at every time, on the same inputs; `what`: "outputs" or "alpha" alone."""
    layer, preset, seed = engine_layer.layer, engine_layer.preset, sampling.seed
    x = sampled_inputs(layer, sampling)
    exact = layer.module(x)
    reads = sampling.reads if noisy(preset) else 1
    places = sampled_outputs(layer, exact, seed)
    statistics = ChipStatistics()
    with torch.random.fork_rng(devices=[]):
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
    """The inputs that a layer is measured on, the same for both sides."""
    return layer.part(IMAGES if layer.kind == "convolution" else sampling.vectors, sampling.seed)


def sampled_outputs(layer: Layer, exact: Tensor, seed: int) -> Tensor:
    """Places of at most OUTPUTS elements of the outputs, for comparisons one by one."""
    draws = stream(seed, "outputs", layer.name)
    return torch.randperm(exact.numel(), generator=draws)[:OUTPUTS]


def product_statistics(products: Tensor, exact: Tensor, places: Tensor) -> dict[str, Any]:
    """What one chip's products `[reads, inputs, ...]` say, one number or vector each.

    gain  slope on the exact product; error  relative L2; read  root mean square of the standard
    deviation between reads, over that of the exact product; shared  correlation between the noise
    of different inputs in one read.
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
