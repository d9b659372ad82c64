"""The one style of all figures, without matplotlib's global state.

No pyplot, no backend, no style that stays: every setting is one of a figure or of an artist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import files
from aimc_bridge.times import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#c04a00", "#00795a", "#a6478a", "#8a6200", "#5a5fc7", "#5f5f5f")
"""Colours that colour-blind readers tell apart, after Okabe and Ito.

Each is dark enough on white (a contrast of 4.5 or more). On other pages, such as a dark one, a
report replaces them by their hexadecimal text.
"""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", "--", "-.", ":")
INK, MUTED, GRID = "#1f1f1f", "#555555", "#d4d4d4"
SCALE = ("#4292c6", "#2171b5", "#08519c", "#08306b")
"""Lightness that orders, such as for times: readable in black and white too."""


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

    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for axis in axes.flat:
        tidy(axis)
    return figure, axes


def tidy(axis: Axes) -> None:
    """Give axes the style of the project: a light grid, and a frame on two sides.

    Args:
        axis: The axes.
    """
    axis.set_facecolor("white")
    axis.set_axisbelow(True)
    axis.grid(color=GRID, lw=0.6)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axis.spines[side].set_color(MUTED)
    axis.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=8)
    axis.xaxis.label.set(color=INK, fontsize=9)
    axis.yaxis.label.set(color=INK, fontsize=9)
    axis.title.set(color=INK, fontsize=9)


def time_axis(axis: Axes, times: Iterable[float]) -> None:
    """Make the horizontal axis one of times after programming, on a logarithmic scale.

    A time of 0 has its place too, to the left of the first decade.

    Args:
        axis: The axes.
        times: The times that get a tick, seconds; one or more.
    """
    from matplotlib.ticker import NullLocator

    shown = sorted(set(map(float, times)))
    first = min((t for t in shown if t > 0), default=1.0)
    beside = 10 ** _beside(shown)
    axis.set_xscale("symlog", linthresh=first)
    axis.set_xticks(shown, [label(t) for t in shown])
    axis.xaxis.set_minor_locator(NullLocator())
    left = -0.3 * first if shown[0] == 0 else first / beside
    axis.set_xlim(left, max(shown[-1], first) * beside)
    axis.set_xlabel("time after programming")


def log_axis(axis: Axes) -> None:
    """Make the vertical axis logarithmic, with some ticks in plain numbers.

    Between one and two decades it has ticks at 1, 2 and 5 times the powers of ten, else at these
    alone; on less than one decade at all whole multiples.

    Args:
        axis: The axes, after everything is drawn.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    low, high = axis.get_ylim()
    decades = math.log10(high / low)
    every = (1.0,) if decades > 2.5 else (1.0, 2.0, 5.0) if decades > 0.8 else range(1, 10)
    axis.yaxis.set_major_locator(LogLocator(10.0, subs=list(every), numticks=12))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def apart(times: Iterable[float], count: int) -> float:
    """Return how far two curves stand apart on a `time_axis`, so that their bars do not overlap.

    Curves stand side by side at each time: about the width of a marker apart, as long as all of
    them stay nearer to their own time than to the next one, and within the axes.

    Args:
        times: All times of the axes, seconds; one or more.
        count: The number of curves.

    Returns:
        The distance in decades of time.
    """
    shown = sorted(set(map(float, times)))
    places = sorted({_place(t, shown) for t in shown})
    gap = min((b - a for a, b in zip(places, places[1:], strict=False)), default=math.inf)
    room = 0.25 if shown[0] == 0 else 0.85 * _beside(shown)
    width = places[-1] - places[0] + 2 * _beside(shown)
    return min(0.022 * width, 0.5 * gap / count, 2 * room / max(1, count - 1))


def _beside(times: Sequence[float]) -> float:
    """Return the decades to the left of the first time and to the right of the last one."""
    places = [_place(t, times) for t in times]
    return max(0.3, 0.08 * (max(places) - min(places)))


def _place(t_s: float, times: Sequence[float]) -> float:
    """Return the place of a time on a `time_axis` in decades; that of 0 is one before the first."""
    first = min((t for t in times if t > 0), default=1.0)
    return math.log10(t_s / first) if t_s > 0 else -1.0


def widen(axis: Axes, least: float) -> None:
    """Widen a y axis that would blow up a small difference.

    Args:
        axis: The axes, after everything is drawn.
        least: The smallest span of the y axis, in its own units.
    """
    low, high = axis.get_ylim()
    if high - low < least:
        middle = (low + high) / 2
        axis.set_ylim(middle - least / 2, middle + least / 2)


def legend(figure: Figure, axes: Sequence[Axes], title: str | None = None) -> None:
    """Put one legend of all panels beside them, where it hides no data.

    Args:
        figure: The figure.
        axes: Its panels; what has the same label in several stands in the legend once.
        title: What the legend lists.
    """
    entries: dict[str, Any] = {}
    for axis in axes:
        for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
            entries.setdefault(name, handle)
    if entries:
        figure.legend(
            entries.values(),
            entries.keys(),
            loc="outside right upper",
            frameon=False,
            fontsize=8,
            labelcolor=INK,
            title=title,
            title_fontsize=8,
            alignment="left",
        )


def caption(figure: Figure, parts: Iterable[str]) -> None:
    """Write a line under a figure that says what was drawn, and how much of it.

    A long line is broken to the width of the figure.

    Args:
        figure: The figure.
        parts: The parts of the line, such as "preset rasch2023" and "25 chips"; empty ones are left
            out.
    """
    import textwrap

    line = ", ".join(filter(None, parts))
    width = max(30, int(figure.get_figwidth() * 16))
    figure.supxlabel("\n".join(textwrap.wrap(line, width)), fontsize=8, color=MUTED)


def shade(index: int, count: int) -> str:
    """Return a colour of an ordered scale, from light to dark.

    Args:
        index: The place in the scale, from 0 on.
        count: How many colours are needed.
    """
    return SCALE[round(index * (len(SCALE) - 1) / max(1, count - 1))]


def save(
    figure: Figure,
    path: str | Path,
    dpi: int = 150,
    description: str | None = None,
    *,
    vector: bool = True,
) -> None:
    """Write a figure as PNG, and as SVG beside it, each whole or not at all.

    Args:
        figure: The figure.
        path: The file, .png.
        dpi: Pixels per inch.
        description: A text for the PNG's metadata; it tells what the figure was drawn from.
        vector: Whether to write the SVG too.
    """
    metadata = None if description is None else {"Description": description}
    with files.replacing(path) as temporary:
        figure.savefig(temporary, dpi=dpi, metadata=metadata)
    if vector:
        import matplotlib

        # the same figure gives the same file: no date, no random names in it
        with (
            files.replacing(Path(path).with_suffix(".svg")) as temporary,
            matplotlib.rc_context({"svg.hashsalt": "aimc-bridge"}),
        ):
            figure.savefig(temporary, format="svg", metadata={"Date": None})
