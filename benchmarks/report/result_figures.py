"""Figures of results in long form: a metric against time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aimc_bridge import curves, drawing
from benchmarks.report import figures
from benchmarks.report.tables import (
    PHASES,
    analog_groups,
    names_in,
    several_trainings,
    times_of,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


def figure(
    results: pd.DataFrame, metric: str, path: str | Path, samples: Mapping[str, int] | None = None
) -> None:
    """Draw one model's metric against time, as PNG and as SVG.

    Every chip is a thin line, the mean over chips a thick one with its 95 % interval, and the
    digital model a dashed line with the interval of its samples. Engines have markers of their own.
    Results on a subset have a panel of their own, because their digital model has another value.

    Args:
        results: Rows of one model, `COLUMNS`.
        metric: The metric shown.
        path: The file, .png.
        samples: Data set -> number of its test samples.
    """
    parts = parts_of(results)
    drawn, axes = figures.new(1, len(parts), (4.6 * len(parts) + 2.6, 4.2))
    for axis, part in zip(axes[0], parts, strict=True):
        panel(axis, part, metric, samples)
    drawing.legend(drawn, axes[0])
    drawing.caption(drawn, caption_of(results, samples))
    figures.save(drawn, path)


def dashboard(
    models: Sequence[tuple[pd.DataFrame, str]],
    path: str | Path,
    samples: Mapping[str, int] | None = None,
) -> None:
    """Draw all models side by side, with subsets below, as PNG and as SVG.

    Args:
        models: The rows of each model, and its metric.
        path: The file, .png.
        samples: Data set -> number of its test samples.
    """
    import pandas as pd

    columns = [(parts_of(results), metric) for results, metric in models]
    height = max(len(parts) for parts, _ in columns)
    drawn, axes = figures.new(height, len(columns), (4.4 * len(columns) + 2.6, 4.0 * height))
    used = []
    for column, (parts, metric) in enumerate(columns):
        for row in range(height):
            if row < len(parts):
                panel(axes[row][column], parts[row], metric, samples)
                used.append(axes[row][column])
            else:
                axes[row][column].set_axis_off()
    drawing.legend(drawn, used)
    drawing.caption(drawn, caption_of(pd.concat([results for results, _ in models])))
    figures.save(drawn, path)


def parts_of(results: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the rows of each data set: "X" comes before "X, subset of 40".

    Args:
        results: Rows of one model, `COLUMNS`.
    """
    names = sorted(results.dataset.unique(), key=len)
    return [results[results.dataset == name] for name in names]


def curves_of(results: pd.DataFrame, metric: str) -> list[curves.Curve]:
    """Return the curve of each phase and engine, in percent unless it is a perplexity or a loss.

    Args:
        results: Rows of one model and data set, `COLUMNS`.
        metric: The metric shown.
    """
    found = []
    for (phase, engine, _), group in analog_groups(results[results.metric == metric]):
        rows = group[["chip", "t_inference"]].astype(float)
        rows = rows.assign(value=group["value"] * scale_of(metric))
        if "training_seed" in group:
            rows = rows.assign(unit=group["training_seed"])
        name = f"{names_in(results)[phase]}, {engine}"
        colour = PHASES.index(phase) - 1
        shape = 2 * colour + (engine != "native")
        found.append(curves.Curve(name, rows, colour, shape, f"{phase}-{engine}"))
    return found


def panel(
    axis: Axes,
    results: pd.DataFrame,
    metric: str,
    samples: Mapping[str, int] | None = None,
    mark: curves.Mark = curves.ignore,
) -> None:
    """Draw one model's metric on one data set against time.

    Args:
        axis: The axes.
        results: Rows of one model and data set, `COLUMNS`.
        metric: The metric shown.
        samples: Data set -> number of its test samples.
        mark: Is called with each artist; see `curves.Mark`.
    """
    dataset = str(results.dataset.iloc[0])
    shown = results[results.metric == metric]
    scale = scale_of(metric)
    digital = shown[shown.phase == "digital"].value
    if len(digital):
        count = (samples or {}).get(dataset) if curves.is_share(metric) else None
        curves.draw_digital(axis, float(digital.mean()), count, scale, mark)
    found = curves_of(results, metric)
    unit = "" if scale == 1 else " %"
    times = times_of(results)
    for index, curve in enumerate(found):
        curves.draw(axis, curve, index, len(found), times=times, mark=mark, unit=unit)
    if times:
        drawing.time_axis(axis, times)
    if metric == "perplexity" and shown.value.max() > 5 * shown.value.min():
        drawing.log_axis(axis)
    else:
        curves.widen(axis, scale, share=curves.is_share(metric))
    axis.set_ylabel(curves.heading(metric if scale == 1 else f"{metric}, %"))
    axis.set_title(f"{results.model.iloc[0]}\n{dataset}", fontsize=9)


def scale_of(metric: str) -> float:
    """Return the factor of a metric's values in figures: 100 for shares, which are in percent.

    Args:
        metric: The name of the metric.
    """
    return 1.0 if metric in ("perplexity", "loss") else 100.0


def caption_of(results: pd.DataFrame, samples: Mapping[str, int] | None = None) -> list[str]:
    """Return what stands under a figure of results: preset, chips, samples, what the bars are.

    Args:
        results: Rows, `COLUMNS`.
        samples: Data set -> number of its test samples.
    """
    chips = results[results.phase != "digital"]
    names = ", ".join(map(str, chips.preset.dropna().unique())) if "preset" in chips else ""
    parts = [f"preset {names}" if names else ""]
    counts = chips.groupby("engine").chip.nunique()
    parts += [f"{engine}: {n} chip{'' if n == 1 else 's'}" for engine, n in counts.items()]
    known = samples or {}
    sizes = sorted({known[name] for name in results.dataset.unique() if name in known})
    if sizes:
        parts.append(f"{' or '.join(f'{size:,}' for size in sizes)} test samples")
    several = several_trainings(chips)
    if len(chips) and (several or counts.max() > 1):
        over = "trainings" if several else "chips"
        if several and chips.groupby("phase").training_seed.nunique().min() < 2:
            over += " (of one training: chips)"
        parts.append(f"bars and bands: 95 % over {over}")
    if sizes:
        parts.append("grey band: 95 % over test samples")
    return parts
