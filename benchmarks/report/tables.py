"""Tables and figures of results in long form.

Results have one row per model, phase, engine, time, chip and metric.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import curves, drawing
from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.a_star import normalised_accuracy
from benchmarks.report import figures
from benchmarks.report.intervals import mean_interval

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

COLUMNS = [
    "model",
    "dataset",
    "metric",
    "phase",
    "engine",
    "preset",
    "t_inference",
    "chip",
    "seed",
    "value",
]
_LOWER = ("perplexity", "error", "word error", "loss")
"""Metrics for which less is better."""
PHASES = ("digital", "direct", "finetune", "control", "hwa")
PHASE_NAMES = {
    "digital": "digital",
    "direct": "direct conversion",
    "finetune": "fine-tuned without a chip",
    "control": "control, the same training without noise",
    "hwa": "hardware-aware",
}
UNCHECKED = (
    "a training with noise and drop-connect off; whether it is otherwise that of the "
    "hardware-aware model is not known"
)
"""The fact "control" of a study whose --trained model does not say how it was trained."""
_NAMES = "names"


def names_of(study: Mapping[str, Any]) -> dict[str, str]:
    """Return phase -> name in tables; a control is called the same training only if it is.

    Args:
        study: The facts about a task.
    """
    if study.get("control") == UNCHECKED:
        return PHASE_NAMES | {"control": "control, a training without noise"}
    return PHASE_NAMES


def rows_of(results: pd.DataFrame, study: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows of one model; tables and figures of them have the names of `names_of`.

    Args:
        results: Rows, `COLUMNS`.
        study: The facts about its task.
    """
    rows: pd.DataFrame = results[results.model == study["model"]]
    rows.attrs = {_NAMES: names_of(study)}
    return rows


def _names(results: pd.DataFrame) -> dict[str, str]:
    names: dict[str, str] = results.attrs.get(_NAMES, PHASE_NAMES)
    return names


def summary(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return one model's table: one row per phase and engine, one column per time.

    Args:
        results: Rows of one model, `COLUMNS`.
        metric: The metric shown. Less is better for "perplexity", "error", "word error" and "loss",
            more is better for all others.

    Returns:
        A DataFrame of text: phase, engine, data, chips, the digital model on the same samples, one
        column per time ("mean ± sd over chips"), and the drift loss. This is the change of the
        means from the first time to the last; "gain" says that the last is better.
    """
    import pandas as pd

    shown = results[results.metric == metric]
    times = times_of(results)
    rows = []
    for (phase, engine, data), group in _analog_groups(shown):
        baseline = shown[(shown.phase == "digital") & (shown.dataset == data)].value
        row = {
            "phase": _names(results)[phase],
            "engine": engine,
            "data": data,
            "chips": str(group.chip.nunique()) + _trainings(group),
            "digital": number(baseline.mean(), metric) if len(baseline) else "?",
        }
        for t_s in times:
            row[label(t_s)] = spread(group[group.t_inference == t_s].value.tolist(), metric)
        if len(times) > 1:
            mean = group.groupby("t_inference").value.mean()
            row["drift loss"] = _loss(mean.iloc[0], mean.iloc[-1], metric)
        rows.append(row)
    return pd.DataFrame(rows)


def _trainings(group: pd.DataFrame) -> str:
    """Return " x N trainings" if the chips are of several trainings, else ""."""
    count = group.training_seed.nunique() if "training_seed" in group else 1
    return f" x {count} trainings" if count > 1 else ""


def a_star(results: pd.DataFrame, chance: float) -> pd.DataFrame:
    """Return one model's A* in numbers, for each phase, engine, data set and time.

    Args:
        results: Rows of one model, with the rows of metric "error" among them.
        chance: The error of guessing, in [0, 1].

    Returns:
        A DataFrame with the columns phase, engine, data, t_inference (s), chips (of all trainings),
        mean and (sample) sd of A* over the chips, low and high. Low and high are the 95 % interval
        of the mean: Student's t over chips, or over the means of trainings if there are several.
        All of these are NaN if the digital model is at chance. A single value has neither sd nor
        interval (NaN).
    """
    import pandas as pd

    errors = results[results.metric == "error"]
    rows = []
    for (phase, engine, data), group in _analog_groups(errors):
        baseline = errors[(errors.phase == "digital") & (errors.dataset == data)]
        for t_s, now in group.groupby("t_inference"):
            row = {"phase": phase, "engine": engine, "data": data, "t_inference": t_s}
            row["chips"] = len(now)
            try:
                stars = pd.Series(_stars(now, baseline, chance), index=now.index)
            except DataError:
                rows.append({**row, **dict.fromkeys(("mean", "sd", "low", "high"), math.nan)})
                continue
            interval = mean_interval(_units(stars, now))
            row |= {"mean": interval.mean, "sd": float(stars.std())}
            rows.append({**row, "low": interval.low, "high": interval.high})
    return pd.DataFrame(rows)


def _units(stars: pd.Series[float], rows: pd.DataFrame) -> pd.Series[float]:
    """Return the values that an interval is over, one per chip or training.

    They are the chips if there is one training, else the means of the trainings.

    Args:
        stars: A* of each row.
        rows: The rows.
    """
    if "training_seed" not in rows or rows.training_seed.nunique() < 2:
        return stars
    return stars.groupby(rows.training_seed).mean()


def a_star_summary(
    results: pd.DataFrame, chance: float, intervals: Iterable[Mapping[str, Any]] = ()
) -> pd.DataFrame:
    """Return `a_star` as text to read, with the rows and times of `summary`.

    Args:
        results: Rows of one model, with the rows of metric "error" among them.
        chance: The error of guessing, in [0, 1].
        intervals: Rows of `answers.intervals`, which take the place of the intervals of `a_star`;
            one with another mean is of other chips, and is left out.

    Returns:
        A DataFrame of text: phase, engine, data, one column per time ("mean ± sd % (low to high)"),
        and "interval over": what the intervals cover.
    """
    import pandas as pd

    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    times = times_of(results)
    several = "training_seed" in results and results.training_seed.nunique() > 1
    known = {
        (row["phase"], row["engine"], row["data"], row["t_inference"]): row
        for row in intervals
        if not row["minus"] and row["low"] is not None
    }
    for star in a_star(results, chance).to_dict("records"):
        place = (star["phase"], star["engine"], star["data"])
        named = {
            "phase": _names(results)[star["phase"]],
            "engine": star["engine"],
            "data": star["data"],
        }
        empty = {f"A* {label(t_s)}": "" for t_s in times} | {"interval over": ""}
        row = rows.setdefault(place, named | empty)
        better = known.get((*place, star["t_inference"]))
        if better is not None and not math.isclose(better["mean"], star["mean"], abs_tol=1e-6):
            better = None
        if better is not None:
            star = {**star, "low": better["low"], "high": better["high"]}
        if not math.isnan(star["low"]):
            row["interval over"] = "trainings" if several else "chips"
            if better is not None:
                row["interval over"] = better["over"]
        row[f"A* {label(star['t_inference'])}"] = _star_text(star)
    return pd.DataFrame(rows.values())


def differences(
    intervals: Iterable[Mapping[str, Any]], names: Mapping[str, str] = PHASE_NAMES
) -> pd.DataFrame:
    """Return differences of A* between phases as text, in points, or no rows without any.

    Args:
        intervals: Rows of `answers.intervals`.
        names: Phase -> name.

    Returns:
        A DataFrame of text: phase, minus, engine, data, one column per time ("mean (low to high)"),
        and "interval over".
    """
    import pandas as pd

    rows: dict[tuple[str, ...], dict[str, str]] = {}
    shown = [row for row in intervals if row["minus"] and row["low"] is not None]
    times = sorted({row["t_inference"] for row in shown})
    for entry in shown:
        place = (entry["phase"], entry["minus"], entry["engine"], entry["data"])
        row = rows.setdefault(
            place,
            {
                "phase": names[entry["phase"]],
                "minus": names[entry["minus"]],
                "engine": entry["engine"],
                "data": entry["data"],
                **{label(t_s): "" for t_s in times},
                "interval over": entry["over"],
            },
        )
        mean, low, high = (100 * entry[name] for name in ("mean", "low", "high"))
        row[label(entry["t_inference"])] = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
    return pd.DataFrame(rows.values())


def _star_text(star: Mapping[Any, Any]) -> str:
    mean, sd, low, high = (100 * star[name] for name in ("mean", "sd", "low", "high"))
    if math.isnan(mean):
        return "undefined"
    if math.isnan(sd):
        return f"{mean:.2f} %"
    interval = "" if math.isnan(low) else f" ({low:.2f} to {high:.2f})"
    return f"{mean:.2f} ± {sd:.2f} %{interval}"


def _stars(rows: pd.DataFrame, digital: pd.DataFrame, chance: float) -> list[float]:
    """Return A* of each row.

    If there are several trainings, each row is compared with the digital model of its own training.
    """
    if "training_seed" not in rows:
        error = float(digital.value.mean())
        return [normalised_accuracy(float(e), error, chance) for e in rows.value]
    errors = digital.groupby("training_seed").value.mean().to_dict()
    pairs = zip(rows.value, rows.training_seed, strict=True)
    return [normalised_accuracy(float(e), float(errors[seed]), chance) for e, seed in pairs]


def times_of(results: pd.DataFrame) -> list[float]:
    """Return the times of inference in the results, in seconds, ascending.

    Args:
        results: Rows, `COLUMNS`.
    """
    return sorted(float(t_s) for t_s in results.t_inference.dropna().unique())


def _analog_groups(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Return ((phase, engine, dataset), rows) of each group, phases in their order.

    The digital model is left out.
    """
    groups = rows[rows.phase != "digital"].groupby(["phase", "engine", "dataset"], sort=False)
    pairs = [((str(p), str(e), str(d)), group) for (p, e, d), group in groups]
    return sorted(pairs, key=lambda item: PHASES.index(item[0][0]))


def _loss(first: float, last: float, metric: str) -> str:
    change = last - first if metric in _LOWER else first - last
    text = f"{change:.2f}" if metric == "perplexity" else f"{100 * change:.2f} points"
    return text if change >= 0 else f"{text} (gain)"


def number(value: float, metric: str) -> str:
    """Return a value as text: a perplexity as it is, everything else in percent.

    Args:
        value: The value, a share of 1 unless it is a perplexity.
        metric: The name of the metric.
    """
    return f"{value:.2f}" if metric == "perplexity" else f"{100 * value:.2f} %"


def spread(values: list[float], metric: str) -> str:
    """Return mean and sample standard deviation over chips as text.

    A single chip has no spread.

    Args:
        values: One value per chip.
        metric: The name of the metric.
    """
    if not values:
        return ""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return number(mean, metric)
    scale, unit = (1.0, "") if metric == "perplexity" else (100.0, " %")
    return f"{scale * mean:.2f} ± {scale * statistics.stdev(values):.2f}{unit}"


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
    for (phase, engine, _), group in _analog_groups(results[results.metric == metric]):
        rows = group[["chip", "t_inference"]].astype(float)
        rows = rows.assign(value=group["value"] * scale_of(metric))
        if "training_seed" in group:
            rows = rows.assign(unit=group["training_seed"])
        name = f"{_names(results)[phase]}, {engine}"
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
    several = "training_seed" in chips and chips.training_seed.nunique() > 1
    if len(chips) and (several or counts.max() > 1):
        parts.append(f"bars and bands: 95 % over {'trainings' if several else 'chips'}")
    if sizes:
        parts.append("grey band: 95 % over test samples")
    return parts


def markdown(table: pd.DataFrame) -> str:
    """Return a DataFrame of text as a GitHub table.

    Args:
        table: The DataFrame.
    """
    header = "| " + " | ".join(table.columns) + " |"
    rule = "| " + " | ".join("---" for _ in table.columns) + " |"
    lines = ["| " + " | ".join(str(v) for v in row) + " |" for row in table.to_numpy().tolist()]
    return "\n".join([header, rule, *lines])
