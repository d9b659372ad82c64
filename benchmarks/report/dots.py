"""Points with intervals, one line per name: changes, errors of layers, factors of layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from aimc_bridge import curves, drawing
from benchmarks.report.intervals import ends

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Dot(NamedTuple):
    """A value with its interval.

    Attributes:
        name: The name of its line.
        value: The value.
        low: The lower end of its interval; NaN if there is none.
        high: The upper end of its interval; NaN if there is none.
    """

    name: str
    value: float
    low: float = math.nan
    high: float = math.nan


def colour(index: int) -> int:
    """Return the number of a series' colour in `drawing.COLOURS`.

    Args:
        index: The place of the series.
    """
    return index % len(drawing.COLOURS)


def marker(index: int) -> str:
    """Return the marker of a series.

    Args:
        index: The place of the series.
    """
    return drawing.MARKERS[index % len(drawing.MARKERS)]


def draw(
    axis: Axes,
    dots: Sequence[Dot],
    *,
    name: str = "",
    index: int = 0,
    count: int = 1,
    key: str = "",
    unit: str = "",
    mark: curves.Mark = curves.ignore,
) -> None:
    """Draw values as points with their intervals, one line per name.

    Args:
        axis: The axes. The first dot is the lowest line, unless the y axis is turned round.
        dots: The values.
        name: The name of the series in the legend; "" for none.
        index: The place of this series among those of these axes, which stand side by side.
        count: The number of these series.
        key: A short name of the series, for `mark`.
        unit: The unit of the values, for `mark`.
        mark: Is called with each artist; see `curves.Mark`.
    """
    paint, shape = drawing.COLOURS[colour(index)], marker(index)
    shift = 0.6 * ((index + 0.5) / count - 0.5)
    for place, dot in enumerate(dots):
        both = ends(dot.low, dot.high, lambda end, digits: f"{end:.{digits}g}", 3)
        if both:
            (bar,) = axis.plot([dot.low, dot.high], [place + shift] * 2, color=paint, lw=1.6)
            mark(bar, key, "bar", "")
        (point,) = axis.plot([dot.value], [place + shift], shape, color=paint, markersize=5)
        if name and not place:
            point.set_label(name)
        interval = f" ({both[0]} to {both[1]})" if both else ""
        first = f"{dot.name}, {name}" if name else dot.name
        mark(point, key, "point", f"{first}: {dot.value:.4g}{interval}{unit}")
    axis.set_yticks(range(len(dots)), [dot.name for dot in dots])
