"""The sentences of a report on sweeps: on each table, then on each against the first one."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from aimc_bridge import curves
from aimc_bridge.times import label
from benchmarks.report import intervals
from benchmarks.report.intervals import Interval

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

    from aimc_bridge.plotting import Swept

_WITHOUT = "so without an interval"


class Scale:
    """How the values of a metric are written: shares in percent, others as they are.

    Attributes:
        percent: What stands after a value.
        points: What stands after a difference.
        whole: 1 for shares, which are rounded as 1 is; 0 for others, which are rounded by their
            own size. See `curves.agree`.
    """

    def __init__(self, *, share: bool) -> None:
        """Choose how values are written.

        Args:
            share: Whether they are shares.
        """
        self._share = share
        self.percent = " %" if share else ""
        self.points = " points" if share else ""
        self.whole = 1.0 if share else 0.0

    def __call__(self, value: float) -> str:
        """Return a value with its unit."""
        return f"{self.level(value)}{self.percent}"

    def level(self, value: float, more: int = 0) -> str:
        """Return a value without its unit.

        Args:
            value: The value.
            more: How many digits more than usual it gets.
        """
        return f"{100 * value:.{2 + more}f}" if self._share else f"{value:.{4 + more}g}"

    def step(self, value: float, more: int = 0) -> str:
        """Return a difference with its sign; see `level`."""
        return f"{100 * value:+.{2 + more}f}" if self._share else f"{value:+.{3 + more}g}"

    def size(self, value: float, more: int = 0) -> str:
        """Return the size of a difference; see `level`."""
        return f"{100 * value:.{2 + more}f}" if self._share else f"{value:.{3 + more}g}"


def scale_of(swept: Swept, metric: str) -> Scale:
    """Return how values are written: accuracies and errors within [0, 1] are shares.

    Args:
        swept: The tables.
        metric: The metric.
    """
    values = [v for rows in swept.tables.values() for v in rows[rows["metric"] == metric]["value"]]
    values += [swept.digital[metric]] if metric in swept.digital else []
    named = any(word in metric.lower() for word in ("accuracy", "error"))
    return Scale(share=named and all(0.0 <= value <= 1.0 for value in values))


def values_of(swept: Swept, name: str, metric: str) -> list[tuple[float, pd.Series[float]]]:
    """Return (time, values by chip) of a table, in the order of time.

    Args:
        swept: The tables.
        name: The name of the table.
        metric: The metric.
    """
    rows = swept.tables[name]
    rows = rows[rows["metric"] == metric]
    groups = rows.groupby("t_inference", sort=True)
    return [(float(t_s), part.set_index("chip")["value"]) for t_s, part in groups]  # type: ignore[arg-type]


def sentences(swept: Swept, metric: str) -> list[str]:
    """Return the sentences on one metric: each table, then tables against the first one.

    Args:
        swept: The tables.
        metric: The metric.
    """
    scale = scale_of(swept, metric)
    lower = curves.lower_is_better(metric, swept.lower_is_better)
    told = []
    ends: dict[str, tuple[float, pd.Series[float]]] = {}
    for name in swept.tables:
        values = values_of(swept, name, metric)
        if not values:
            continue
        (first_s, first), (last_s, last) = values[0], values[-1]
        ends[name] = values[-1]
        start = f"{name}: {metric}" if name else metric[:1].upper() + metric[1:]
        at = [f"{scale(first.mean())} {label(first_s)} after programming"]
        if len(values) > 1:
            at.append(f"{scale(last.mean())} {label(last_s)} after it")
        over = f"mean of {len(last)} chips" if len(last) > 1 else "one chip"
        text = f"{start} is {' and '.join(at)} ({over})"
        if len(values) > 1 and max(len(first), len(last)) > 1:
            places = (f"at {label(first_s)}", f"at {label(last_s)}")
            change, why = _change(first, last, places, scale.whole)
            text += f": {_told(change, why, scale, lower)}"
        text += "."
        if metric in swept.digital:
            text += f" The digital model has {scale(swept.digital[metric])}."
        told.append(text)
    for name in list(ends)[1:]:
        told.append(_compared(next(iter(ends)), name, ends, scale))
    return told


def _compared(
    base: str, name: str, ends: dict[str, tuple[float, pd.Series[float]]], scale: Scale
) -> str:
    """Return the sentence on a table against the first one, at the last time of both.

    Args:
        base: The name of the first table.
        name: The name of the other one.
        ends: The last time of each table, and its values then.
        scale: How values are written.
    """
    (base_s, before), (last_s, after) = ends[base], ends[name]
    if base_s != last_s:
        return (
            f"{name} ends {label(last_s)} after programming and {base} {label(base_s)} after it, "
            "so they are not compared."
        )
    change, why = _change(before, after, (f"of {base}", f"of {name}"), scale.whole)
    unsure = ", no sure difference" if change.low <= 0 <= change.high else ""
    what = f"{name} less {base}, {label(last_s)} after programming"
    return f"{what}: {_difference(change, why, scale)}{unsure}."


def _change(
    before: pd.Series[float], after: pd.Series[float], places: tuple[str, str], whole: float
) -> tuple[Interval, str]:
    """Return a difference of means, and why it has no interval ("" if it has one).

    The same chips are compared one by one; other chips as two samples.

    Args:
        before: One value per chip.
        after: The same.
        places: What the chips of both are called, such as "at 1s" or "of direct".
        whole: See `Scale`.
    """
    if len(before) > 1 and before.index.is_unique and set(before.index) == set(after.index):
        change = intervals.change(before, after.loc[before.index], whole)
        return change, f"equal on all chips, {_WITHOUT}" if math.isnan(change.low) else ""
    sides = list(zip(places, (before, after), strict=True))
    if single := [place for place, values in sides if len(values) < 2]:
        change = Interval(float(after.mean() - before.mean()), math.nan, math.nan, math.nan)
        return change, f"a single chip {' and '.join(single)}, {_WITHOUT}"
    equal = [place for place, values in sides if curves.agree(values, whole)]
    why = f"all chips {' and '.join(equal)} agree, {_WITHOUT}" if equal else ""
    return intervals.independent_change(before, after, whole), why


def _told(change: Interval, why: str, scale: Scale, lower: bool | None) -> str:
    """Return in words what a change with time is: a loss, a gain, a change, or neither."""
    if change.mean == 0 and why:
        return _difference(change, why, scale)
    if change.low <= 0 <= change.high:
        return f"{_difference(change, why, scale)}, no sure change"
    if lower is None:
        return f"a change of {_difference(change, why, scale)}"
    worse = (change.mean > 0) == lower
    low, high = sorted((abs(change.low), abs(change.high)))
    shown = _interval(low, high, scale.size) or why
    size = scale.size(abs(change.mean))
    return f"a {'loss' if worse else 'gain'} of {size}{scale.points} ({shown})"


def _difference(change: Interval, why: str, scale: Scale) -> str:
    shown = _interval(change.low, change.high, scale.step) or why
    return f"{scale.step(change.mean)}{scale.points} ({shown})"


def _interval(low: float, high: float, write: Callable[[float, int], str]) -> str:
    """Return an interval in words, or "" if there is none."""
    ends = intervals.ends(low, high, write, 0)
    return f"95 % interval {ends[0]} to {ends[1]}, over chips" if ends else ""
