"""Cost against size: seconds and peak memory, and how fast they grow.

The sizes are widths, tiles, batches, chips and times. Each family changes one size and keeps the
others. The exponent is the slope of log cost against log size over the largest sizes, because there
the fixed cost of a call weighs least. Widths go beyond 32 MB per tensor: from there on the C
library takes fresh pages for every tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from aimc_bridge import calibrate, convert, drift, program, sweep
from aimc_bridge.converted import matrices_of
from benchmarks.speed import sides
from benchmarks.speed.groups import TIMES, Setting
from benchmarks.speed.memory import added_by_stage, held_bytes
from benchmarks.speed.timing import Side, alternate, quartiles
from benchmarks.speed.works import FULL, TINY, Work

LINEAR = 1.1
"""An exponent up to this is linear growth or less, timing noise included."""


@dataclass(frozen=True)
class Ladder:
    """The sizes of every family.

    Attributes:
        side: Inputs and outputs of the layer in families that do not change them.
        widths: Outputs of the layer.
        tiles: Rows and columns of a tile.
        batches: Input vectors per batch.
        chips: Chips of a sweep.
        times: Times of a sweep.
        batch: Input vectors per batch in families that do not change them.
        rounds: Repeats of every size.
    """

    side: int
    widths: tuple[int, ...]
    tiles: tuple[int, ...]
    batches: tuple[int, ...]
    chips: tuple[int, ...]
    times: tuple[int, ...]
    batch: int
    rounds: int


LADDERS = {
    "full": Ladder(
        1024,
        (512, 1024, 2048, 4096, 8192, 16384, 32768),
        (1024, 512, 256, 128, 64),
        (32, 64, 128, 256, 512, 1024),
        (1, 2, 4, 8, 16),
        (1, 2, 4, 8),
        256,
        7,
    ),
    "quick": Ladder(
        512,
        (512, 1024, 2048, 4096),
        (512, 256, 128, 64),
        (64, 128, 256, 512),
        (1, 2, 4),
        (1, 2, 4),
        128,
        3,
    ),
    "tiny": Ladder(8, (8, 16, 32), (8, 4, 2), (2, 4, 8), (1, 2, 3), (1, 2, 3), 4, 2),
}


@dataclass
class Point:
    """One size of a family.

    Attributes:
        n: The size.
        seconds: The seconds of every repeat.
        peak: Peak memory of a run, bytes; None if it was not measured.
        held: Bytes that the model holds.
    """

    n: float
    seconds: list[float]
    peak: int | None
    held: int


@dataclass
class Curve:
    """One operation against one size.

    Attributes:
        family: What changes: "width", "tiles", "batch", "chips" or "times".
        operation: "forward", "program", "drift" or "sweep".
        points: One point per size.
    """

    family: str
    operation: str
    points: list[Point] = field(default_factory=list)

    def medians(self) -> list[float]:
        """Return the median seconds of every size."""
        return [quartiles(point.seconds)[1] for point in self.points]

    def costs(self) -> dict[str, list[float]]:
        """Return the costs that were measured at all sizes.

        Returns:
            A value per size for each of "time" (s), "peak memory" and, for operations that program,
            "memory held" (bytes).
        """
        costs = {"time": self.medians()}
        peaks = [float(point.peak) for point in self.points if point.peak is not None]
        if len(peaks) == len(self.points) and all(peaks):
            costs["peak memory"] = peaks
        if self.operation in ("program", "sweep"):
            costs["memory held"] = [float(point.held) for point in self.points]
        return costs

    def sizes(self) -> list[float]:
        """Return the sizes."""
        return [point.n for point in self.points]


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Return the slope of log cost against log size, over the largest three sizes.

    It is a least-squares fit.

    Args:
        sizes: The sizes, in ascending order.
        costs: The cost at each size.
    """
    xs = [math.log(size) for size in sizes[-3:]]
    ys = [math.log(cost) for cost in costs[-3:]]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    above = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return above / sum((a - x) ** 2 for a in xs)


def _layer(n_in: int, n_out: int, tile: int | None, batch: int, setting: Setting) -> Any:
    """Return a programmed analog layer, and an input for it."""
    preset = sides.ALL
    if tile is not None:
        preset = preset.change(max_rows=tile, max_columns=tile, why="growth: size of a tile")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(n_in, n_out, bias=False))
        x = torch.randn(batch, n_in)
    analog = convert(model, preset).to(setting.device).eval()
    x = x.to(setting.device)
    calibrate(analog, [x])
    program(analog, 0, draw_on=setting.draw_on)
    drift(analog, sides.HOUR)
    return analog, x


def _no_grad(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    def run() -> object:
        with torch.no_grad():
            return model(x)

    return run


def _layers(
    family: str, cases: Sequence[tuple[float, Any]], operations: Sequence[str], setting: Setting
) -> list[Curve]:
    """Measure one family of layers; all sizes of an operation are alternated.

    Args:
        family: The name of the family.
        cases: (size, (layer, its input)) of each size.
        operations: The operations: "forward", "program", "drift".
        setting: How to measure.

    Returns:
        One curve per operation.
    """
    rounds = LADDERS[setting.sizes.name].rounds
    curves = []
    for operation in operations:
        runs = []
        for n, (model, x) in cases:
            run: Callable[[], object] = _no_grad(model, x)
            if operation == "program":
                run = _program(model, setting)
            elif operation == "drift":
                run = _drift(model)
            runs.append(Side(f"{family} {n:g}, {operation}", run, warm=2))
        curve = Curve(family, operation)
        results = alternate(runs, rounds, setting.device, setting.say)
        for (n, (model, _)), measured in zip(cases, results, strict=True):
            seconds = [value for value in measured.seconds if value is not None]
            curve.points.append(Point(n, seconds, measured.peak, held_bytes(model)))
        curves.append(curve)
    return curves


def _program(model: nn.Module, setting: Setting) -> Callable[[], object]:
    return lambda: program(model, 1, draw_on=setting.draw_on)


def _drift(model: nn.Module) -> Callable[[], object]:
    return lambda: drift(model, sides.HOUR)


def _sweeps(family: str, sizes: Sequence[int], setting: Setting) -> Curve:
    ladder = LADDERS[setting.sizes.name]
    model, x = _layer(ladder.side, ladder.side, None, ladder.batch, setting)

    def evaluate(chip: nn.Module) -> float:
        with torch.no_grad():
            return float(chip(x).mean())

    def run(n: int) -> Callable[[], object]:
        chips, times = (n, 2) if family == "chips" else (1, n)
        return lambda: sweep(
            model, evaluate, TIMES[:times], chips, draw_on=setting.draw_on, progress=False
        )

    runs = [Side(f"{family} {n}, sweep", run(n)) for n in sizes]
    curve = Curve(family, "sweep")
    for n, measured in zip(
        sizes, alternate(runs, ladder.rounds, setting.device, setting.say), strict=True
    ):
        seconds = [value for value in measured.seconds if value is not None]
        curve.points.append(Point(n, seconds, measured.peak, held_bytes(model)))
    return curve


def growth(setting: Setting) -> list[Curve]:
    """Measure every family.

    The size of "width" is the number of outputs of one layer, which its weights are proportional
    to; the size of "tiles" is the number of tiles of one layer.

    Args:
        setting: How to measure.
    """
    ladder = LADDERS[setting.sizes.name]
    side, batch = ladder.side, ladder.batch
    operations = ("forward", "program", "drift")
    curves = []
    cases = [(float(w), _layer(side, w, None, batch, setting)) for w in ladder.widths]
    curves += _layers("width", cases, operations, setting)
    cases = [(0.0, _layer(side, side, tile, batch, setting)) for tile in ladder.tiles]
    cases = [(float(_tiles(pair[0])), pair) for _, pair in cases]
    curves += _layers("tiles", cases, operations, setting)
    cases = [(float(n), _layer(side, side, None, n, setting)) for n in ladder.batches]
    curves += _layers("batch", cases, ("forward",), setting)
    curves.append(_sweeps("chips", ladder.chips, setting))
    curves.append(_sweeps("times", ladder.times, setting))
    return curves


def _tiles(model: nn.Module) -> int:
    return sum(matrix.grid.tiles for matrix in matrices_of(model).values())


def holdings(setting: Setting) -> dict[str, dict[str, float]]:
    """Return the bytes that models hold beside their weights, on the CPU.

    Args:
        setting: How to measure, for the sizes.

    Returns:
        Model -> stage -> bytes added, as a multiple of the bytes of the weights on tiles.
    """
    from benchmarks.speed import works

    sizes = TINY if setting.sizes.name == "tiny" else FULL
    models: list[Work] = [works.wrn(sizes), works.lstm(sizes), works.bert(sizes, layers=1)]
    for work in models:
        work.size = min(work.size, 4)
    models[2].name += ", one layer"
    return {work.name: added_by_stage(work, sides.ALL) for work in models}
