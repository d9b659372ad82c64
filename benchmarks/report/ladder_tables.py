"""The ladder in numbers: levels, paired changes and flaws, with intervals."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.equivalence.statistics import holm
from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.report.intervals import (
    Interval,
    change,
    independent_change,
    mean_interval,
    sd_ratio,
)
from benchmarks.report.record import read_csv
from benchmarks.studies.ladder.rungs import LADDER, TOP

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ["task", "model", "row", "metric", "t_inference", "chip", "seed", "value"]
PHYSICS = {"replication": "scalar_drift", "paper": "rasch2023"}


def read_results(path: Path) -> pd.DataFrame:
    """Read the rows of a results.csv.

    Args:
        path: The file.

    Returns:
        A table with `COLUMNS`.

    Raises:
        DataError: If the file is missing or damaged.
    """
    import pandas as pd

    rows = read_csv(path, COLUMNS, COLUMNS[:4])
    numbers = dict.fromkeys(COLUMNS[4:], float)
    return pd.DataFrame(rows, columns=COLUMNS).astype(numbers)


def values_of(results: pd.DataFrame, row: str, metric: str, t_s: float) -> pd.Series[float]:
    """Return the values of a row at a time, by chip.

    Args:
        results: Rows of one task, `COLUMNS`.
        row: The row of the ladder.
        metric: The metric.
        t_s: The time in seconds.

    Raises:
        DataError: If there are none.
    """
    rows = results[(results.row == row) & (results.metric == metric) & (results.t_inference == t_s)]
    if rows.empty:
        raise DataError(f"no {metric} of {row!r} at {label(t_s)} among the results")
    return rows.set_index("chip").value.sort_index()


def digital_of(results: pd.DataFrame, metric: str) -> float:
    """Return the digital model's value on the same samples.

    Args:
        results: Rows of one task, `COLUMNS`.
        metric: The metric.
    """
    return float(results[(results.row == "digital") & (results.metric == metric)].value.iloc[0])


def times_of(results: pd.DataFrame) -> list[float]:
    """Return the times of the ladder, in seconds, ascending.

    Args:
        results: Rows of one task, `COLUMNS`.
    """
    first = results[results.row == LADDER[0].key]
    return sorted(float(t_s) for t_s in first.t_inference.unique())


def rungs_of(results: pd.DataFrame) -> list[tuple[int, str, str]]:
    """Return number, key and title of the rungs: all of `LADDER`, and a preset on top of them.

    Args:
        results: Rows of one task, `COLUMNS`.
    """
    rungs = [(rung.number, rung.key, rung.title) for rung in LADDER]
    tops = [row for row in results.row.unique() if str(row).startswith(TOP)]
    return rungs + [(len(LADDER) + i, row, row) for i, row in enumerate(tops, 1)]


def steps(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the ladder of one task: one row per rung, metric and time.

    Args:
        results: Rows of one task, `COLUMNS`.
        metric: The task's own metric; "mvm" comes with it.

    Returns:
        A table with the columns number, row, title, metric, t_inference, chips; the mean over chips
        and its t interval; the change from the rung before, paired by chip, and its t interval; p
        and p_holm (Holm over all changes of the metric). Intervals are at 95 %, each for itself.

    Raises:
        DataError: If a rung lacks values, or has other chips than the rung before.
    """
    import pandas as pd

    tables: list[pd.DataFrame] = []
    for name in (metric, "mvm"):
        rows: list[dict[str, Any]] = []
        for t_s in times_of(results):
            before: pd.Series[float] | None = None
            for number, key, title in rungs_of(results):
                now = values_of(results, key, name, t_s)
                level = mean_interval(now.to_numpy())
                step = Interval(math.nan, math.nan, math.nan, math.nan)
                if before is not None:
                    if not before.index.equals(now.index):
                        raise DataError(f"{key!r} has other chips than the rung before")
                    step = change(before.to_numpy(), now.to_numpy())
                before = now
                rows.append(
                    {
                        "number": number,
                        "row": key,
                        "title": title,
                        "metric": name,
                        "t_inference": t_s,
                        "chips": len(now),
                        "mean": level.mean,
                        "low": level.low,
                        "high": level.high,
                        "change": step.mean,
                        "change_low": step.low,
                        "change_high": step.high,
                        "p": step.p,
                    }
                )
        table = pd.DataFrame(rows)
        tested = table.p.notna()
        table["p_holm"] = math.nan
        table.loc[tested, "p_holm"] = holm(table.loc[tested, "p"].to_numpy())
        tables.append(table.sort_values(["number", "t_inference"]))
    return pd.concat(tables, ignore_index=True)


def layers(results: pd.DataFrame) -> pd.DataFrame:
    """Return the MVM error of each layer.

    Args:
        results: Rows of one task, `COLUMNS`.

    Returns:
        A table with the columns row (of the ladder), layer, t_inference, mean and sd over chips,
        and chips.
    """
    errors = results[results.metric.str.startswith("mvm ")]
    grouped = errors.groupby(["row", "metric", "t_inference"], sort=False).value
    table = grouped.agg(["mean", "std", "count"]).reset_index()
    table["metric"] = table.metric.str.removeprefix("mvm ")
    return table.rename(columns={"metric": "layer", "std": "sd", "count": "chips"})


def flaws(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the flaws of the replication's evaluation at the last time, one per row.

    Each flaw is compared with the right way: with chips, or with compensation as measured.
    Differences are flawed minus right, with Welch's interval. For the compensation they are paired
    by chip. For one chip there is no interval, because its mean is that chip's luck. sd_ratio is
    flawed over right, with the F interval.

    Args:
        results: Rows of one task, `COLUMNS`.
        metric: The task's own metric; "loss" comes with it.

    Raises:
        DataError: If values are missing.
    """
    import pandas as pd

    last = times_of(results)[-1]
    rows = []

    def add(flaw: str, physics: str, right: Any, flawed: Any, step: Interval, many: bool) -> None:
        spread = Interval(math.nan, math.nan, math.nan, math.nan)
        if many:
            spread = sd_ratio(right, flawed)
        rows.append(
            {
                "flaw": flaw,
                "physics": physics,
                "metric": name,
                "t_inference": last,
                "right_n": len(right),
                "right": float(right.mean()),
                "right_sd": float(right.std(ddof=1)),
                "flawed_n": len(flawed),
                "flawed": float(flawed.mean()),
                "flawed_sd": float(flawed.std(ddof=1)) if len(flawed) > 1 else 0.0,
                "difference": step.mean,
                "low": step.low,
                "high": step.high,
                "p": step.p,
                "sd_ratio": spread.mean,
                "ratio_low": spread.low,
                "ratio_high": spread.high,
            }
        )

    for name in (metric, "loss"):
        for side, physics in PHYSICS.items():
            chips = values_of(results, f"{side} chips", name, last).to_numpy()
            for how, flaw in (
                ("redrawn", "noise drawn anew at each batch"),
                ("reread", "one chip again and again"),
            ):
                flawed = values_of(results, f"{side} {how}", name, last).to_numpy()
                step = independent_change(chips, flawed)
                if how == "reread":
                    step = Interval(step.mean, math.nan, math.nan, math.nan)
                add(flaw, physics, chips, flawed, step, True)
            clean = digital_of(results, name)
            step = mean_interval(clean - chips)
            digital = pd.Series([clean]).to_numpy()
            add("no noise in the evaluation", physics, chips, digital, step, False)
        pairs = {"scalar_drift": ("measured", "scalar"), "rasch2023": ("tiles", "oracle")}
        for physics, (right, wrong) in pairs.items():
            measured = values_of(results, right, name, last)
            oracle = values_of(results, wrong, name, last)
            step = change(measured.to_numpy(), oracle.to_numpy())
            flaw = "oracle compensation instead of measured"
            add(flaw, physics, measured.to_numpy(), oracle.to_numpy(), step, False)
    return pd.DataFrame(rows)


def less_one(results: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the values of the paper's standard model without one of its parts.

    They are at the last time, and changes are paired by chip.

    Args:
        results: Rows of one task, `COLUMNS`.
        metric: The task's own metric; "loss" comes with it.

    Returns:
        One row per part and metric: mean, change, its interval and p.

    Raises:
        DataError: If values are missing.
    """
    import pandas as pd

    last = times_of(results)[-1]
    rows = []
    for name in (metric, "loss"):
        whole = values_of(results, "tiles", name, last)
        for row in dict.fromkeys(results.row[results.row.str.startswith("without ")]):
            now = values_of(results, row, name, last)
            step = change(whole.to_numpy(), now.to_numpy())
            rows.append(
                {
                    "row": row,
                    "metric": name,
                    "t_inference": last,
                    "chips": len(now),
                    "mean": float(now.mean()),
                    "change": step.mean,
                    "low": step.low,
                    "high": step.high,
                    "p": step.p,
                }
            )
    return pd.DataFrame(rows)
