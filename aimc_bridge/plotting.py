"""The figure of a sweep: a metric against time, with the chips behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aimc_bridge import curves, drawing
from aimc_bridge.arguments import flag, integer, number
from aimc_bridge.errors import UsageError, shown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDED = ("chip", "t_inference", "metric", "value")
"""The columns of a table that are drawn."""


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
    return draw(
        checked(table, digital, samples=samples, lower_is_better=lower_is_better, caption=caption)
    )


def draw(swept: Swept) -> Figure:
    """Return the figure of `plot`.

    Args:
        swept: The tables, from `checked`.
    """
    figure, axes = drawing.new(1, len(swept.metrics), (5.6 * len(swept.metrics) + 1.6, 4.2))
    for axis, metric in zip(axes[0], swept.metrics, strict=True):
        panel(axis, swept, metric)
    drawing.legend(figure, axes[0])
    drawing.caption(figure, caption_of(swept))
    return figure


@dataclass(frozen=True)
class Swept:
    """Tables of sweeps that are shown together, and what is shown beside them.

    Attributes:
        tables: The tables by their names.
        metrics: The metrics of all tables, in their order.
        digital: The digital model's value by metric, as far as it is known.
        samples: Number of test samples; None if it is not known.
        lower_is_better: The direction of all metrics; None takes it from their names.
        caption: What the tables are of.
    """

    tables: Mapping[str, pd.DataFrame]
    metrics: Sequence[str]
    digital: Mapping[str, float]
    samples: int | None
    lower_is_better: bool | None
    caption: str


def checked(
    table: pd.DataFrame | Mapping[str, pd.DataFrame],
    digital: float | Mapping[str, float] | None = None,
    *,
    samples: int | None = None,
    lower_is_better: bool | None = None,
    caption: str = "",
) -> Swept:
    """Return the arguments of `plot`, checked; see there.

    Args:
        table: As in `plot`.
        digital: As in `plot`.
        samples: As in `plot`.
        lower_is_better: As in `plot`.
        caption: As in `plot`.

    Raises:
        UsageError: As `plot`.
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
    lines = by_metric("digital", digital, metrics)
    if samples is not None:
        samples = _sample_count(samples, lines)
    return Swept(tables, metrics, lines, samples, lower_is_better, caption)


def curves_of(swept: Swept, metric: str) -> list[curves.Curve]:
    """Return the curve of each table that has a metric.

    Args:
        swept: The tables.
        metric: The metric.
    """
    found = []
    for index, (name, rows) in enumerate(swept.tables.items()):
        part = rows[rows["metric"] == metric]
        if not part.empty:  # another table may have this metric alone
            columns = part[["chip", "t_inference", "value"]]
            found.append(curves.Curve(name, columns, index, key=f"table{index}"))
    return found


def panel(axis: Axes, swept: Swept, metric: str, mark: curves.Mark = curves.ignore) -> None:
    """Draw one metric of all tables against time.

    Args:
        axis: The axes.
        swept: The tables.
        metric: The metric.
        mark: Is called with each artist; see `curves.Mark`.
    """
    times = {float(t) for rows in swept.tables.values() for t in rows["t_inference"]}
    for curve in curves_of(swept, metric):
        curves.draw(axis, curve, curve.colour, len(swept.tables), times=times, mark=mark)
    if metric in swept.digital:
        curves.draw_digital(axis, swept.digital[metric], swept.samples, mark=mark)
    drawing.time_axis(axis, times)
    axis.set_ylabel(curves.heading(str(metric), swept.lower_is_better))
    largest = max(
        float(rows["value"].max())
        for rows in (table[table["metric"] == metric] for table in swept.tables.values())
        if not rows.empty
    )
    share = curves.is_share(str(metric)) and largest <= 100.0
    curves.widen(axis, 100.0 if share and largest > 1.0 else 1.0, share=share)


def _check(name: str, rows: Any) -> None:
    """Raise UsageError unless a table is one of `sweep`."""
    import numpy as np
    import pandas as pd

    what = f"plot: table {shown(name)}" if name else "plot: the table"
    if not isinstance(rows, pd.DataFrame):
        raise UsageError(f"{what} is a {type(rows).__name__}; allowed: what sweep returned")
    missing = [column for column in NEEDED if column not in rows.columns]
    if missing:
        raise UsageError(f"{what} has no column {', '.join(missing)}; allowed: what sweep returned")
    if rows.empty:
        raise UsageError(f"{what} has no rows; allowed: what sweep returned")
    values = pd.to_numeric(rows["value"], errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(values).all():
        raise UsageError(f"{what} has values that are not finite; look at them before you draw")


def by_metric(
    what: str, given: float | Mapping[str, float] | None, metrics: Sequence[str]
) -> dict[str, float]:
    """Return a number for each metric, as far as it is given.

    Args:
        what: The name of the argument, such as "digital".
        given: One number if there is one metric, or a dict.
        metrics: The metrics.

    Raises:
        UsageError: If one number is given for several metrics, if a name is none of the metrics, or
            if a value is not finite.
    """
    if given is None:
        return {}
    named = dict(given) if isinstance(given, Mapping) else dict.fromkeys(metrics[:1], given)
    if not isinstance(given, Mapping) and len(metrics) > 1:
        raise UsageError(
            f"plot: {what} = {shown(given)} for {len(metrics)} metrics; pass a dict with a "
            f"value for each: {', '.join(map(str, metrics))}"
        )
    unknown = [name for name in named if name not in metrics]
    if unknown:
        raise UsageError(
            f"plot: {what} names {', '.join(map(_word, unknown))}; the table has "
            f"{', '.join(map(str, metrics))}"
        )
    return {name: number(f"plot: {what} {_word(name)}", value) for name, value in named.items()}


def _word(name: object) -> str:
    """Return a name as it is; what is no text, as a message shows it."""
    return name if isinstance(name, str) else shown(name)


def _sample_count(samples: object, lines: dict[str, float]) -> int:
    """Return the samples; raise UsageError unless an interval of their share can be drawn."""
    count = integer("plot: samples", samples, least=1, most=2**53)
    if not any(0.0 <= value <= 1.0 for value in lines.values()):
        raise UsageError("plot: samples without a digital share in [0, 1], whose band they give")
    return count


def caption_of(swept: Swept) -> list[str]:
    """Return the parts of the line under the figure: what was drawn, and how much of it.

    Args:
        swept: The tables.
    """
    counts = sorted({int(rows["chip"].nunique()) for rows in swept.tables.values()})
    chips = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    parts = [swept.caption, f"{chips} chip{'' if counts[-1] == 1 else 's'}"]
    if swept.samples is not None:
        parts.append(f"{swept.samples:,} test samples")
    if counts[-1] > 1:
        parts.append("band and bars: 95 % over chips")
    return parts
