"""Tables and figures from results in long form: a row a model, phase, engine, time, chip."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import DataError
from aimc_bridge.times import label
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
"""Metrics whose smaller values are the better ones."""
PHASES = ("digital", "direct", "control", "hwa")
_PHASE_NAMES = {
    "digital": "digital",
    "direct": "direct conversion",
    "control": "control, trained without noise",
    "hwa": "hardware-aware",
}
_STYLES = {
    ("direct", "native"): {"color": "tab:orange", "linestyle": "-", "marker": "o"},
    ("direct", "aihwkit"): {"color": "tab:orange", "linestyle": "--", "marker": "s"},
    ("control", "native"): {"color": "tab:green", "linestyle": "-", "marker": "o"},
    ("control", "aihwkit"): {"color": "tab:green", "linestyle": "--", "marker": "s"},
    ("hwa", "native"): {"color": "tab:blue", "linestyle": "-", "marker": "o"},
    ("hwa", "aihwkit"): {"color": "tab:blue", "linestyle": "--", "marker": "s"},
}


def normalised_accuracy(error: float, digital: float, chance: float) -> float:
    """A* = 1 - (err - err_FP) / (err_chance - err_FP). Source: rasch2023.

    Args:    error, digital, chance  errors in [0, 1]: analog, digital model, guessing.
    Raises:  DataError where the digital model is no better than guessing: A* means nothing.
    """
    if not digital < chance:
        raise DataError(
            f"A*: the digital error {digital:.4f} is not below chance {chance:.4f}; "
            "train the digital model first"
        )
    return 1.0 - (error - digital) / (chance - digital)


def summary(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """One model's table: a row a phase and engine, a column a time.

    Args:    results  rows of one model, `COLUMNS`.    metric  the headline metric: of "perplexity",
             "error", "word error" and "loss" less is better, of all others more.
    Returns: DataFrame of text: phase, engine, data, chips, the digital model on the same samples, a
             column a time ("mean ± sd over chips"), drift loss (first time to last, of the means;
             "gain" where the last is better).
    """
    import pandas as pd

    shown = results[results.metric == metric]
    times = times_of(results)
    rows = []
    for (phase, engine, data), group in _analog_groups(shown):
        baseline = shown[(shown.phase == "digital") & (shown.dataset == data)].value
        row = {
            "phase": _PHASE_NAMES[phase],
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
    """How many trainings the chips are of, each: "" for one."""
    count = group.training_seed.nunique() if "training_seed" in group else 1
    return f" x {count} trainings" if count > 1 else ""


def a_star(results: pd.DataFrame, chance: float) -> pd.DataFrame:
    """One model's A* in numbers: a row a phase, engine, part of the data and time.

    Args:    results  rows of one model, those of metric "error" among them.
             chance  error of guessing, in [0, 1].
    Returns: DataFrame: phase, engine, data, t_inference (s), chips (of all trainings), mean and
             (sample) sd of A* over them, low and high: the 95 % interval of the mean, Student's t
             over chips, or over the means of trainings where there are several. All are NaN where
             the digital model is at chance; one value alone has neither sd nor interval (NaN).
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
    """What an interval is over: chips of one training, else the trainings."""
    if "training_seed" not in rows or rows.training_seed.nunique() < 2:
        return stars
    return stars.groupby(rows.training_seed).mean()


def a_star_summary(results: pd.DataFrame, chance: float) -> pd.DataFrame:
    """`a_star` for reading: rows and times as `summary` has them.

    Returns: DataFrame of text: phase, engine, data, a column a time ("mean ± sd % (low to high)").
    """
    import pandas as pd

    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    times = times_of(results)
    for star in a_star(results, chance).to_dict("records"):
        place = (star["phase"], star["engine"], star["data"])
        named = {
            "phase": _PHASE_NAMES[star["phase"]],
            "engine": star["engine"],
            "data": star["data"],
        }
        row = rows.setdefault(place, named | {f"A* {label(t_s)}": "" for t_s in times})
        row[f"A* {label(star['t_inference'])}"] = _star_text(star)
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
    """A* of each row, against the digital model of the same training where there are several."""
    if "training_seed" not in rows:
        error = float(digital.value.mean())
        return [normalised_accuracy(float(e), error, chance) for e in rows.value]
    errors = digital.groupby("training_seed").value.mean().to_dict()
    pairs = zip(rows.value, rows.training_seed, strict=True)
    return [normalised_accuracy(float(e), float(errors[seed]), chance) for e, seed in pairs]


def times_of(results: pd.DataFrame) -> list[float]:
    """The times of inference in the results, seconds, ascending."""
    return sorted(float(t_s) for t_s in results.t_inference.dropna().unique())


def _analog_groups(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """((phase, engine, dataset), rows) without the digital model, phases in their order."""
    groups = rows[rows.phase != "digital"].groupby(["phase", "engine", "dataset"], sort=False)
    pairs = [((str(p), str(e), str(d)), group) for (p, e, d), group in groups]
    return sorted(pairs, key=lambda item: PHASES.index(item[0][0]))


def _loss(first: float, last: float, metric: str) -> str:
    change = last - first if metric in _LOWER else first - last
    text = f"{change:.2f}" if metric == "perplexity" else f"{100 * change:.2f} points"
    return text if change >= 0 else f"{text} (gain)"


def number(value: float, metric: str) -> str:
    """A perplexity as it is, everything else in percent."""
    return f"{value:.2f}" if metric == "perplexity" else f"{100 * value:.2f} %"


def spread(values: list[float], metric: str) -> str:
    """Mean and sample standard deviation over chips; one chip has no spread."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return number(mean, metric)
    scale, unit = (1.0, "") if metric == "perplexity" else (100.0, " %")
    return f"{scale * mean:.2f} ± {scale * statistics.stdev(values):.2f}{unit}"


def figure(results: pd.DataFrame, metric: str, path: str | Path) -> None:
    """One model's metric against time: mean over chips, every chip as a dot, digital as a line.

    Results on a subset have a panel of their own: its digital model is another number.
    """
    parts = _parts(results)
    drawing, axes = figures.new(1, len(parts), (6.4 * len(parts), 4.2))
    for panel, part in zip(axes[0], parts, strict=True):
        _draw(panel, part, metric)
    figures.save(drawing, path)


def dashboard(models: Sequence[tuple[pd.DataFrame, str]], path: str | Path) -> None:
    """All models side by side, subsets below; `models` holds (rows of one model, its metric)."""
    columns = [(_parts(results), metric) for results, metric in models]
    height = max(len(parts) for parts, _ in columns)
    drawing, axes = figures.new(height, len(columns), (5.2 * len(columns), 4.4 * height))
    for column, (parts, metric) in enumerate(columns):
        for row in range(height):
            if row < len(parts):
                _draw(axes[row][column], parts[row], metric)
            else:
                axes[row][column].set_axis_off()
    figures.save(drawing, path)


def _parts(results: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of each data set: the whole ("X") before its subsets ("X, subset of 40")."""
    names = sorted(results.dataset.unique(), key=len)
    return [results[results.dataset == name] for name in names]


def _draw(axes: Axes, results: pd.DataFrame, metric: str) -> None:
    shown = results[results.metric == metric]
    scale = 1.0 if metric == "perplexity" else 100.0
    digital = shown[shown.phase == "digital"].value
    if len(digital):
        axes.axhline(digital.mean() * scale, color="black", linewidth=1, label="digital")
    for (phase, engine, _), group in _analog_groups(shown):
        mean = group.groupby("t_inference").value.mean() * scale
        style = _STYLES[phase, engine]
        name = f"{_PHASE_NAMES[phase]}, {engine}"
        axes.plot(mean.index, mean.to_numpy(), label=name, **style)  # type: ignore[arg-type]
        axes.scatter(group.t_inference, group.value * scale, s=9, alpha=0.3, color=style["color"])
    times = times_of(results)
    if times:
        # symmetrical: a time of 0 has its place too
        axes.set_xscale("symlog", linthresh=min([t_s for t_s in times if t_s > 0] or [1.0]))
        axes.set_xticks(times, [label(t_s) for t_s in times])
        axes.minorticks_off()
    if metric == "perplexity" and shown.value.max() > 5 * shown.value.min():
        axes.set_yscale("log")
    axes.set_xlabel("time after programming")
    axes.set_ylabel(metric if metric == "perplexity" else f"{metric}, %")
    axes.set_title(f"{results.model.iloc[0]}\n{results.dataset.iloc[0]}", fontsize=10)
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)


def markdown(table: pd.DataFrame) -> str:
    """A GitHub table of a DataFrame of text."""
    header = "| " + " | ".join(table.columns) + " |"
    rule = "| " + " | ".join("---" for _ in table.columns) + " |"
    lines = ["| " + " | ".join(str(v) for v in row) + " |" for row in table.to_numpy().tolist()]
    return "\n".join([header, rule, *lines])
