"""Tables of results in long form.

Results have one row per model, phase, engine, time, chip and metric.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.a_star import normalised_accuracy
from benchmarks.report.intervals import ends, mean_interval

if TYPE_CHECKING:
    import pandas as pd

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


def names_in(results: pd.DataFrame) -> dict[str, str]:
    """Return phase -> name in tables and figures of some rows.

    Args:
        results: Rows of one model, `COLUMNS`; those of `rows_of` have names of their own.
    """
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
    for (phase, engine, data), group in analog_groups(shown):
        baseline = shown[(shown.phase == "digital") & (shown.dataset == data)].value
        row = {
            "phase": names_in(results)[phase],
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
        mean and (sample) sd of A* over the chips, low, high and over. Low and high are the 95 %
        interval of the mean: Student's t over chips, or over the means of trainings if the phase
        has several; "over" says which. Mean, sd, low and high are NaN if the digital model is at
        chance. A single value has neither sd nor interval (NaN), and equal values have no interval.
    """
    import pandas as pd

    errors = results[results.metric == "error"]
    rows = []
    for (phase, engine, data), group in analog_groups(errors):
        baseline = errors[(errors.phase == "digital") & (errors.dataset == data)]
        for t_s, now in group.groupby("t_inference"):
            row = {"phase": phase, "engine": engine, "data": data, "t_inference": t_s}
            row["chips"] = len(now)
            row["over"] = "trainings" if several_trainings(now) else "chips"
            try:
                stars = pd.Series(_stars(now, baseline, chance), index=now.index)
            except DataError:
                rows.append({**row, **dict.fromkeys(("mean", "sd", "low", "high"), math.nan)})
                continue
            size = 1.0 / (chance - float(baseline.value.mean()))  # an error of 1, in A*
            found = mean_interval(_units(stars, now), size)
            row |= {"mean": found.mean, "sd": float(stars.std())}
            rows.append({**row, "low": found.low, "high": found.high})
    return pd.DataFrame(rows)


def _units(stars: pd.Series[float], rows: pd.DataFrame) -> pd.Series[float]:
    """Return the values that an interval is over, one per chip or training.

    They are the chips if there is one training, else the means of the trainings.

    Args:
        stars: A* of each row.
        rows: The rows.
    """
    return stars.groupby(rows.training_seed).mean() if several_trainings(rows) else stars


def several_trainings(rows: pd.DataFrame) -> bool:
    """Return whether rows are of more than one training.

    Args:
        rows: Rows of one model.
    """
    return "training_seed" in rows and rows.training_seed.nunique() > 1


def a_star_summary(
    results: pd.DataFrame, chance: float, intervals: Iterable[Mapping[str, Any]] = ()
) -> pd.DataFrame:
    """Return `a_star` as text to read, with the rows and times of `summary`.

    Args:
        results: Rows of one model, with the rows of metric "error" among them.
        chance: The error of guessing, in [0, 1].
        intervals: Rows of `answer_intervals.intervals`, which take the place of the intervals of
            `a_star`; one with another mean is of other chips, and is left out.

    Returns:
        A DataFrame of text: phase, engine, data, one column per time ("mean ± sd % (low to high)"),
        and "interval over": what the intervals cover.
    """
    import pandas as pd

    rows: dict[tuple[str, str, str], dict[str, str]] = {}
    times = times_of(results)
    known = {
        (row["phase"], row["engine"], row["data"], row["t_inference"]): row
        for row in intervals
        if not row["minus"] and row["low"] is not None
    }
    for star in a_star(results, chance).to_dict("records"):
        place = (star["phase"], star["engine"], star["data"])
        named = {
            "phase": names_in(results)[star["phase"]],
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
        if interval(star["low"], star["high"]):
            row["interval over"] = star["over"]
            if better is not None:
                row["interval over"] = better["over"]
        row[f"A* {label(star['t_inference'])}"] = _star_text(star)
    return pd.DataFrame(rows.values())


def differences(
    intervals: Iterable[Mapping[str, Any]], names: Mapping[str, str] = PHASE_NAMES
) -> pd.DataFrame:
    """Return differences of A* between phases as text, in points, or no rows without any.

    Args:
        intervals: Rows of `answer_intervals.intervals`.
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
        row[label(entry["t_inference"])] = f"{mean:+.2f}{interval(low, high, '+')}"
    return pd.DataFrame(rows.values())


def _star_text(star: Mapping[Any, Any]) -> str:
    mean, sd, low, high = (100 * star[name] for name in ("mean", "sd", "low", "high"))
    if math.isnan(mean):
        return "undefined"
    if math.isnan(sd):
        return f"{mean:.2f} %"
    return f"{mean:.2f} ± {sd:.2f} %{interval(low, high)}"


def interval(low: float, high: float, sign: str = "") -> str:
    """Return an interval in brackets with a space before them, or "" if there is none.

    Args:
        low: The lower end; NaN if there is no interval.
        high: The upper end.
        sign: "+" writes the sign of positive ends, too.
    """
    both = ends(low, high, lambda end, digits: f"{end:{sign}.{digits}f}", 2)
    return f" ({both[0]} to {both[1]})" if both else ""


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


def analog_groups(rows: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
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


def markdown(table: pd.DataFrame) -> str:
    """Return a DataFrame of text as a GitHub table.

    Args:
        table: The DataFrame.
    """
    header = "| " + " | ".join(table.columns) + " |"
    rule = "| " + " | ".join("---" for _ in table.columns) + " |"
    lines = ["| " + " | ".join(str(v) for v in row) + " |" for row in table.to_numpy().tolist()]
    return "\n".join([header, rule, *lines])
