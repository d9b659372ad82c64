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
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
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
    kept = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = kept


@dataclass(frozen=True)
class Setting:
    """What one layer is measured with. `ours`: NATIVE, or COMPILED (its compiled passes);
    `device`: where the native engine runs, aihwkit runs on the CPU."""

    times: tuple[float, ...]
    chips: int
    seed: int
    vectors: int = VECTORS
    reads: int = READS
    ours: str = NATIVE
    device: str = "cpu"

    @property
    def engines(self) -> tuple[str, str]:
        return self.ours, AIHWKIT

    def side(self, layer: Layer, preset: Preset, engine: str | None = None) -> Side:
        """A layer on one of the engines, by default ours."""
        engine = engine or self.ours
        return Side(layer, preset, engine, "cpu" if engine == AIHWKIT else self.device)


class Side:
    """One layer under one preset on one engine: NATIVE, COMPILED or AIHWKIT."""

    def __init__(self, layer: Layer, preset: Preset, engine: str, device: str = "cpu") -> None:
        self.layer, self.preset, self.engine, self.device = layer, preset, engine, device
        self.model = self._converted()

    def _converted(self) -> nn.Module:
        whole = nn.Sequential(self.layer.module).eval()
        theirs = self.engine == AIHWKIT
        model = convert(whole, self.preset, engine=AIHWKIT if theirs else NATIVE).to(self.device)
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
        (found,) = matrices_of(self.model if model is None else model).values()
        return found

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
class Measured:
    """Chips in front, then times."""

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
    side: Side,
    setting: Setting,
    advance: Callable[[], None] = lambda: None,
    what: str = "outputs",
) -> Measured:
    """Chips of one side, at every time, on the same inputs; `what`: "outputs" or "alpha" alone."""
    layer, seed = side.layer, setting.seed
    x = layer.part(IMAGES if layer.kind == "convolution" else setting.vectors, seed)
    exact = layer.module(x)
    reads = setting.reads if noisy(side.preset) else 1
    some = torch.randperm(exact.numel(), generator=stream(seed, "outputs", layer.name))[:OUTPUTS]
    found = Measured()
    with torch.random.fork_rng(devices=[]):
        for chip in range(setting.chips):
            names = ("crosscheck", side.engine, side.preset.name, layer.name, what, chip)
            torch.manual_seed(derive(seed, *names, "products"))
            side.chip(derive(seed, *names))
            before = side.size()
            rows: dict[str, list[Any]] = {name: [] for name in vars(found)}
            for t_s in setting.times:
                side.at(t_s)
                alpha = side.alpha()
                rows["alpha"].append(alpha.numpy().copy())
                true = before / side.size().clamp_min(1e-12)
                rows["bias"].append((alpha / true - 1.0).numpy().copy())
                if what == "outputs":
                    products = torch.stack([side.output(x) for _ in range(reads)])
                    for name, value in statistics(products, exact, some).items():
                        rows[name].append(value)
            for name, values in rows.items():
                found.add(name, values)
            advance()
    return found


def statistics(products: Tensor, exact: Tensor, some: Tensor) -> dict[str, Any]:
    """What one chip's products `[reads, inputs, ...]` say, one number or vector each.

    gain  slope on the exact product; error  relative L2; read  root mean square of the standard
    deviation between reads, over that of the exact product; shared  correlation between the noise
    of different inputs in one read.
    """
    y = products.double()
    wanted = exact.double()
    power = float(wanted.square().sum())
    mean = y.mean(0)
    found: dict[str, Any] = {
        "gain": float((mean * wanted).sum()) / power,
        "error": math.sqrt(float((y - wanted).square().sum()) / len(y) / power),
        "mean": mean.flatten()[some].numpy(),
    }
    if len(y) < 2:
        return {**found, "read": 0.0, "shared": 0.0, "read_variance": np.zeros(len(some))}
    variance = y.var(0)
    total = float(variance.sum())
    found["read"] = math.sqrt(total / power)
    found["read_variance"] = variance.flatten()[some].numpy()
    noise = (y - mean).flatten(2) if y.ndim > 3 else y - mean  # [reads, inputs, outputs]
    inputs = noise.shape[1]
    together = float(noise.sum(1).square().sum()) / (len(y) - 1)
    found["shared"] = 0.0
    if total > 0 and inputs > 1:
        found["shared"] = (together / total - 1.0) / (inputs - 1)
    return found
