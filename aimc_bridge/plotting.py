"""The figure of a sweep: a metric against time, with the chips behind it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from aimc_bridge import curves, drawing
from aimc_bridge.arguments import flag, integer, number
from aimc_bridge.errors import UsageError, shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Value = TypeVar("Value")

_NEEDED = ("chip", "t_inference", "metric", "value")


def plot(
    table: pd.DataFrame | Mapping[str, pd.DataFrame],
    digital: float | Mapping[str, float] | None = None,
    *,
    samples: int | None = None,
    lower_is_better: bool | None = None,
    caption: str = "",
) -> Figure:
    """Draw what `sweep` returned: each metric against time, with a 95 % band over chips.

    Each chip is a thin line, the mean over chips a thick one. The band is Student's t interval of
    that mean; it covers the spread of chips and nothing else: neither the test samples nor the
    training. No global state of matplotlib is changed. Save the figure with
    `figure.savefig("drift.png")`, or as .svg or .pdf; a notebook shows it.

    Args:
        table: A table of `sweep`, or several by their names, such as
            {"direct": before, "hardware-aware": after}.
        digital: The digital model's value, drawn as a dashed line; a dict if there are several
            metrics.
        samples: Number of test samples of an accuracy or an error rate in [0, 1]. The digital line
            gets the 95 % interval of a share of that many samples (Wilson) as its band.
        lower_is_better: The direction, written at the axis. None takes it from the metric's name:
            "error", "loss" and "perplexity" in it mean that lower is better, "accuracy" that higher
            is; other names get no direction.
        caption: A line under the figure, such as the preset's name.

    Returns:
        The figure, with one panel per metric.

    Raises:
        UsageError: If a table is empty or lacks a column of `sweep`, if a value is not finite, if
            `digital` names another metric, or if `samples` is given without a digital share in
            [0, 1].
    """
    tables = dict(table) if isinstance(table, Mapping) else {"": table}
    if lower_is_better is not None:
        lower_is_better = flag("lower_is_better (or None)", lower_is_better)
    if not isinstance(caption, str):
        raise UsageError(f"caption={shown(caption)}; allowed: a text")
    if not tables:
        raise UsageError("plot: no table; pass what sweep returned")
    for name, rows in tables.items():
        _check(name, rows)
    metrics = list(dict.fromkeys(m for rows in tables.values() for m in rows["metric"]))
    lines = _by_metric(digital, metrics)
    if samples is not None:
        samples = _sample_count(samples, lines)
    figure, axes = drawing.new(1, len(metrics), (5.6 * len(metrics) + 1.6, 4.2))
    times = {float(t) for rows in tables.values() for t in rows["t_inference"]}
    for axis, metric in zip(axes[0], metrics, strict=True):
        for index, (name, rows) in enumerate(tables.items()):
            part = rows[rows["metric"] == metric]
            if not part.empty:  # another table may have this metric alone
                curve = curves.Curve(name, part[["chip", "t_inference", "value"]], index)
                curves.draw(axis, curve, index, len(tables), times=times)
        if metric in lines:
            curves.draw_digital(axis, lines[metric], samples)
        drawing.time_axis(axis, times)
        axis.set_ylabel(curves.heading(str(metric), lower_is_better))
        curves.widen(axis)
    drawing.legend(figure, axes[0])
    drawing.caption(figure, _caption(tables, samples, caption))
    return figure


def _check(name: str, rows: Any) -> None:
    """Raise UsageError unless a table is one of `sweep`."""
    import numpy as np
    import pandas as pd

    what = f"plot: table {shown(name)}" if name else "plot: the table"
    if not isinstance(rows, pd.DataFrame):
        raise UsageError(f"{what} is a {type(rows).__name__}; allowed: what sweep returned")
    missing = [column for column in _NEEDED if column not in rows.columns]
    if missing:
        raise UsageError(f"{what} has no column {', '.join(missing)}; allowed: what sweep returned")
    if rows.empty:
        raise UsageError(f"{what} has no rows; allowed: what sweep returned")
    values = pd.to_numeric(rows["value"], errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise UsageError(f"{what} has values that are not finite; look at them before you draw")


def _by_metric(digital: float | Mapping[str, float] | None, metrics: list[str]) -> dict[str, float]:
    """Return the digital model's values by metric."""
    if digital is None:
        return {}
    named = dict(digital) if isinstance(digital, Mapping) else dict.fromkeys(metrics[:1], digital)
    if not isinstance(digital, Mapping) and len(metrics) > 1:
        raise UsageError(
            f"plot: digital = {shown(digital)} for {len(metrics)} metrics; pass a dict with a "
            f"value for each: {', '.join(map(str, metrics))}"
        )
    unknown = [name for name in named if name not in metrics]
    if unknown:
        raise UsageError(
            f"plot: digital names {', '.join(map(_word, unknown))}; the table has "
            f"{', '.join(map(str, metrics))}"
        )
    return {name: number(f"plot: digital {_word(name)}", value) for name, value in named.items()}


def _word(name: object) -> str:
    """Return a name as it is; what is no text, as a message shows it."""
    return name if isinstance(name, str) else shown(name)


def _sample_count(samples: object, lines: dict[str, float]) -> int:
    """Return the samples; raise UsageError unless an interval of their share can be drawn."""
    count = integer("plot: samples", samples, least=1, most=2**53)
    if not any(0.0 <= value <= 1.0 for value in lines.values()):
        raise UsageError("plot: samples without a digital share in [0, 1], whose band they give")
    return count


def _caption(tables: Mapping[str, pd.DataFrame], samples: int | None, caption: str) -> list[str]:
    """Return the parts of the line under the figure: what was drawn, and how much of it."""
    counts = sorted({int(rows["chip"].nunique()) for rows in tables.values()})
    chips = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [caption, f"{chips} chip{'' if counts[-1] == 1 else 's'}"]
    if samples is not None:
        parts.append(f"{samples:,} test samples")
    if counts[-1] > 1:
        parts.append("band and bars: 95 % over chips")
    return parts
