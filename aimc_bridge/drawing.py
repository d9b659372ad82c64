"""Figures without matplotlib's global state: no pyplot, no backend, no style that stays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from aimc_bridge.times import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
"""Colours that colour-blind readers tell apart (Okabe and Ito), the yellow one left out."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def new(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Figure, Any]:
    """Make a figure with a grid of panels.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        size: Width and height, inches.
        **options: More arguments of `Figure.subplots`, such as sharex=True.

    Returns:
        The figure, and an array of its axes, shape (rows, columns).
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def time_axis(axis: Axes, times: Iterable[float]) -> None:
    """Make the horizontal axis one of times after programming, on a logarithmic scale.

    A time of 0 has its place too, to the left of the first decade.

    Args:
        axis: The axes.
        times: The times that get a tick, seconds; one or more.
    """
    shown = sorted(set(map(float, times)))
    first = min((t for t in shown if t > 0), default=1.0)
    axis.set_xscale("symlog", linthresh=first)
    axis.set_xticks(shown, [label(t) for t in shown])
    axis.xaxis.set_minor_locator(_no_ticks())
    left = -0.3 * first if shown[0] == 0 else first / 2
    axis.set_xlim(left, max(shown[-1], first) * 2)
    axis.set_xlabel("time after programming")


def _no_ticks() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()
