"""Curves against time after programming: chips, their mean with its interval, the digital line."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aimc_bridge import drawing
from aimc_bridge.times import label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Mark = Callable[[Any, str, str, str], None]
"""Takes an artist, the key of its curve, its role and a text; a report makes a tooltip of it.

The roles are "chip", "point", "line", "bar" and "band".
"""
_LOWER = ("error", "loss", "perplexity")  # metrics whose name says that lower is better
LEAST = 0.02  # the y axis of a share spans two points at least: noise must not look like a fall
# What equal values may differ by, a share of their size. A mean of float32 accuracies of batches is
# rounded by some 1e-7 of it; one answer of the largest test set (245,000 words) is 4e-6.
ROUNDING = 1e-6
RIM = 0.02  # of the y axis: half the height of a marker


@dataclass(frozen=True)
class Curve:
    """The chips of one setting, measured at several times.

    Attributes:
        name: The name in the legend.
        rows: A table with the columns chip, t_inference (s) and value. A column "unit" says what
            the interval is over; without it, that is the chip.
        colour: The number of its colour in `drawing.COLOURS`.
        shape: The number of its marker and dashes; None is the same number.
        key: A short name for `Mark`.
    """

    name: str
    rows: pd.DataFrame
    colour: int = 0
    shape: int | None = None
    key: str = ""

    @property
    def marker(self) -> str:
        """Return its marker, as matplotlib names it."""
        return drawing.MARKERS[self._shape % len(drawing.MARKERS)]

    @property
    def dash(self) -> str:
        """Return its dashes, as matplotlib names them."""
        return drawing.DASHES[self._shape % len(drawing.DASHES)]

    @property
    def _shape(self) -> int:
        return self.colour if self.shape is None else self.shape


def ignore(artist: Any, key: str, role: str, text: str) -> None:
    """Mark nothing."""


def agree(values: Any, size: float = 0.0) -> bool:
    """Return whether all values are equal, except for the rounding of float32.

    Values without spread give no interval: they do not say how far others would lie apart.

    Args:
        values: One number per chip, an array.
        size: The size of the numbers that the values were calculated from, if it is larger than
            they are: the rounding is that of these numbers. It is 1 for a small error that is 1
            minus an accuracy.
    """
    import numpy as np

    return bool(np.ptp(values) <= ROUNDING * max(size, float(np.abs(values).max())))


def half_width(values: Any) -> float:
    """Return half the width of Student's t interval of a mean at 95 %.

    Args:
        values: One number per chip, an array.

    Returns:
        Half the width, in the unit of the values; NaN for a single chip, and for chips that agree.
    """
    import numpy as np
    from scipy import stats

    count = len(values)
    if count < 2 or agree(values):
        return math.nan
    return float(stats.t.ppf(0.975, count - 1) * np.std(values, ddof=1) / math.sqrt(count))


def draw(
    axis: Axes,
    curve: Curve,
    index: int = 0,
    count: int = 1,
    *,
    times: Iterable[float] | None = None,
    mark: Mark = ignore,
    unit: str = "",
) -> None:
    """Draw each chip of a curve as a thin line, the mean as a thick one, its interval as a band.

    Args:
        axis: The axes; `drawing.time_axis` comes after the last curve.
        curve: The curve.
        index: Its place among the curves of these axes, which stand side by side.
        count: The number of these curves.
        times: All times of these axes, s; None takes those of the curve.
        mark: Is called with each artist.
        unit: The unit of the values, for `mark`.
    """
    rows = curve.rows
    colour = drawing.COLOURS[curve.colour % len(drawing.COLOURS)]
    marker, dash = curve.marker, curve.dash
    all_times = sorted(set(map(float, rows["t_inference"] if times is None else times)))
    decades = drawing.apart(all_times, count) * (index - (count - 1) / 2)
    first = min((t for t in all_times if t > 0), default=1.0)
    # a time of 0 stands one decade before the first one, and so does what is beside it
    place = {t: t * 10**decades if t > 0 else decades * first for t in all_times}
    for _, part in rows.groupby([name for name in ("unit", "chip") if name in rows]):
        line = part.sort_values("t_inference")
        (thin,) = axis.plot(
            line["t_inference"].map(place), line["value"], color=colour, lw=0.6, alpha=0.35
        )
        number = int(line["chip"].iloc[0])
        ends = line["value"].tolist()
        mark(
            thin,
            curve.key,
            "chip",
            f"{curve.name}: chip {number}, {ends[0]:.4g} to {ends[-1]:.4g}{unit}",
        )
    seen, means, halves = [], [], []
    for t_s in sorted(rows["t_inference"].unique().tolist()):
        group = rows[rows["t_inference"] == t_s]
        values = group["value"] if "unit" not in group else group.groupby("unit")["value"].mean()
        if "unit" in group and group["unit"].nunique() < 2:
            values = group["value"]
        seen.append(float(t_s))
        means.append(float(values.mean()))
        halves.append(half_width(values.to_numpy()))
    x = [place[t] for t in seen]
    known = not all(map(math.isnan, halves))
    bars = axis.errorbar(
        *(x, means),
        yerr=halves if known else None,
        fmt=marker,
        linestyle=dash,
        color=colour,
        lw=1.8,
        elinewidth=1.2,
        markersize=5,
        capsize=3,
        label=curve.name or "mean of chips, 95 %",
    )
    mark(bars.lines[0], curve.key, "line", curve.name)
    for artist in (*bars.lines[1], *bars.lines[2]):
        mark(artist, curve.key, "bar", "")
    if known:
        low, high = ([m + sign * h for m, h in zip(means, halves, strict=True)] for sign in (-1, 1))
        band = axis.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
        mark(band, curve.key, "band", "")
    if mark is ignore:
        return
    for t_s, at, mean, half in zip(seen, x, means, halves, strict=True):
        # a point of its own over the line's, which alone can carry a text
        (point,) = axis.plot([at], [mean], marker, color=colour, markersize=5)
        spread = "" if math.isnan(half) else f" ± {half:.2g}"
        mark(point, curve.key, "point", f"{curve.name}, {label(t_s)}: {mean:.4g}{spread}{unit}")


def draw_digital(
    axis: Axes, value: float, samples: int | None = None, scale: float = 1.0, mark: Mark = ignore
) -> None:
    """Draw the digital model's line; a share of samples has its sampling band.

    The band is the 95 % interval of a share of that many samples (Wilson).

    Args:
        axis: The axes.
        value: The digital model's value.
        samples: The number of test samples of a share in [0, 1]; None for no band.
        scale: Factor of everything drawn, such as 100 for percent.
        mark: Is called with each artist.
    """
    line = axis.axhline(scale * value, color=drawing.INK, lw=1.2, ls="--", label="digital")
    if samples is not None and 0.0 <= value <= 1.0:
        from scipy import stats

        test = stats.binomtest(round(value * samples), samples)
        interval = test.proportion_ci(0.95, method="wilson")
        ends = (scale * interval.low, scale * interval.high)
        band = axis.axhspan(*ends, color=drawing.INK, alpha=0.07, lw=0)
        text = f"95 % of {samples:,} samples: {ends[0]:.4g} to {ends[1]:.4g}"
        mark(band, "digital", "band", text)
    mark(line, "digital", "line", f"digital: {scale * value:.4g}")


def heading(metric: str, lower: bool | None = None) -> str:
    """Return a metric's name with its direction, such as "loss (lower is better)".

    Args:
        metric: The name.
        lower: The direction. None takes it from the name: "accuracy" in it means that higher is
            better; "error", "loss" and "perplexity" that lower is; others get no direction.
    """
    lower = lower_is_better(metric, lower)
    if lower is None:
        return metric
    return f"{metric} ({'lower' if lower else 'higher'} is better)"


def lower_is_better(metric: str, lower: bool | None = None) -> bool | None:
    """Return the direction of a metric; None if it is not known.

    Args:
        metric: The name.
        lower: The direction if it is known; else the name decides, as in `heading`.
    """
    if lower is not None:
        return lower
    words = metric.lower()
    if "accuracy" in words:
        return False
    return True if any(word in words for word in _LOWER) else None


def is_share(metric: str) -> bool:
    """Return whether a metric is a share of samples, which cannot be below 0 or above 100 %.

    Args:
        metric: The name.
    """
    return metric.lower() in ("accuracy", "error")


def widen(axis: Axes, scale: float = 1.0, *, share: bool = False) -> None:
    """Widen a y axis that would blow up a difference of less than two points.

    Args:
        axis: The axes, after everything is drawn.
        scale: The value of 100 % on this axis: 1 for shares, 100 for percent.
        share: Whether the axis shows shares: it then ends at 0 and at 100 %, with room for half a
            marker. An interval of a mean that goes further is cut there.
    """
    low, high = axis.get_ylim()
    least = LEAST * max(scale, abs(low), abs(high))
    drawing.widen(axis, least)
    if share:
        low, high = axis.get_ylim()
        bottom, top = max(low, 0.0), min(high, scale)
        rim = RIM * max(top - bottom, least)
        if top < high:
            bottom, top = min(bottom, scale - least), top + rim
        if bottom > low:
            bottom, top = bottom - rim, max(top, least)
        axis.set_ylim(bottom, top)


def chips_text(rows: pd.DataFrame) -> str:
    """Return how many chips there are, as text, such as "1 chip" or "25 chips".

    Args:
        rows: A table with a column chip.
    """
    count = int(rows["chip"].nunique())
    return f"{count} chip{'' if count == 1 else 's'}"
