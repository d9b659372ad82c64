"""The report of a user's own sweeps: what `aimc_bridge.sweep` returned, or the files it wrote.

A table has a row per chip, time and metric, as `aimc_bridge.plot` takes it. The report has the
figure of `plot`, one part per metric, and what the tables alone can say: means with their
intervals, the change with time, the distance from the digital model, and A*.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aimc_bridge import curves, files, plotting, sweep_files
from aimc_bridge.csv_cells import unescaped
from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.times import label
from benchmarks import machine
from benchmarks.report import figures, intervals
from benchmarks.report.html import page, parts
from benchmarks.report.html.inline import drawn
from benchmarks.report.html.page import Chart, Page, Section, Series, Table
from benchmarks.report.sweep_sentences import Scale, scale_of, sentences, values_of

if TYPE_CHECKING:
    import pandas as pd

    from aimc_bridge.plotting import Swept

_A_STAR = (
    "A* = (value - chance) / (digital - chance): 100 % is the digital model, 0 % is guessing. The "
    "95 % interval is that of the mean over chips; it says nothing about other test samples."
)
_COVERS = (
    "Intervals are Student's t at 95 % over chips. They say what other chips would give, and "
    "nothing about other test samples or other trainings."
)


# --- tables ---------------------------------------------------------------------------------------


def read(paths: Sequence[str | os.PathLike[str]]) -> dict[str, pd.DataFrame]:
    """Read tables of sweeps from CSV files.

    A file is one that `sweep(..., resume="sweep.csv")` wrote, whose checksums are then looked at,
    or any other CSV with the columns chip, t_inference (s), metric and value.

    Args:
        paths: The files.

    Returns:
        The tables by the names of the files without their suffix, or by the whole paths if two
        files have the same name.

    Raises:
        DataError: If a file is missing or damaged, or no table of a sweep.
    """
    places = list(map(Path, paths))
    names = [place.stem for place in places]
    if len(set(names)) < len(names):
        names = [str(place) for place in places]
    if len(set(names)) < len(names):
        raise UsageError(f"the tables {', '.join(names)}: one is named twice; name each once")
    return {name: _table(place) for name, place in zip(names, places, strict=True)}


def _table(path: Path) -> pd.DataFrame:
    import pandas as pd

    try:
        files.check_file(path)
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; name the CSV file of a sweep") from None
    except ValueError as error:  # also errors of pandas' parser, and of text that is not UTF-8
        raise DataError(f"{path}: not a CSV file, or damaged ({error})") from None
    if "check" in table.columns:
        try:
            rows = sweep_files.read_file(path).rows
        except DataError as error:
            problem = sweep_files.problem_of(error)
            raise DataError(f"{problem}; copy the file again, or sweep again") from None
        return _finite(path, pd.DataFrame(rows, columns=sweep_files.COLUMNS))
    if {"phase", "engine"} & set(table.columns):
        raise DataError(
            f"{path} is the results.csv of a run, which has several models in one table; name the "
            "run's folder"
        )
    missing = [name for name in plotting.NEEDED if name not in table.columns]
    if missing:
        raise DataError(
            f"{path} has no column {', '.join(missing)}; allowed: a table of sweep, with a row per "
            f"chip, time and metric and the columns {', '.join(plotting.NEEDED)}"
        )
    kinds = {"chip": int, "seed": int, "t_inference": float, "value": float}
    for name in table.columns.intersection(list(kinds)):
        # not pandas' own reading, which would round some values
        table[name] = [
            _number(path, row, name, cell, kinds[name]) for row, cell in enumerate(table[name], 1)
        ]
    return _finite(path, table.assign(metric=table["metric"].map(unescaped)))


def _number(path: Path, row: int, name: str, cell: str, kind: type[int] | type[float]) -> float:
    """Return the number in a cell; raise DataError, which names the row, if it holds none."""
    try:
        return kind(cell)
    except ValueError:
        what = f"{name} {cell!r}" if cell else f"no {name} (an empty cell: NaN in pandas)"
        allowed = "a whole number" if kind is int else "a number"
        raise DataError(
            f"{path}: row {row} below the header has {what}; {allowed} is needed"
        ) from None


def _finite(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table; raise DataError if it has no rows, or a value that no figure can show."""
    if table.empty:
        raise DataError(f"{path} has no rows below the header; name a sweep that has chips")
    for name in ("t_inference", "value"):
        for row, value in enumerate(table[name], 1):
            if not math.isfinite(value):
                raise DataError(
                    f"{path}: row {row} below the header has {name} {value}; a finite number is "
                    "needed"
                )
    return table


# --- files ----------------------------------------------------------------------------------------


def write(
    path: str | os.PathLike[str],
    table: pd.DataFrame | Mapping[str, pd.DataFrame],
    digital: float | Mapping[str, float] | None = None,
    *,
    samples: int | None = None,
    chance: float | Mapping[str, float] | None = None,
    lower_is_better: bool | None = None,
    caption: str = "",
) -> Path:
    """Write the report of sweeps as one HTML file that loads nothing from a network.

    Args:
        path: The file, such as "report.html".
        table: A table of `sweep`, or several by their names, such as
            {"direct": before, "hardware-aware": after}.
        digital: The digital model's value; a dict if there are several metrics.
        samples: Number of test samples of an accuracy or an error rate in [0, 1].
        chance: The metric's value for guessing, such as 0.1 for the accuracy of ten classes; a dict
            if there are several metrics. With it and `digital` the report has A*.
        lower_is_better: The direction; see `aimc_bridge.plot`.
        caption: What the tables are of, such as the preset's name.

    Returns:
        The file.

    Raises:
        UsageError: As `aimc_bridge.plot`, or if `chance` is the digital model's value, or is given
            without it.
    """
    swept = plotting.checked(
        table, digital, samples=samples, lower_is_better=lower_is_better, caption=caption
    )
    place = Path(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    return page.write(of_tables(swept, chances_of(swept, chance)), place)


def write_folder(folder: Path, swept: Swept, chances: Mapping[str, float], command: str) -> None:
    """Write report.html, and the figure as PNG and SVG into figures/.

    Args:
        folder: The folder; it is made if it does not exist.
        swept: The tables.
        chances: The value of each metric for guessing, as far as it is known.
        command: The command that writes them again.
    """
    (folder / "figures").mkdir(parents=True, exist_ok=True)
    figure = plotting.draw(swept)
    figures.save(figure, folder / "figures" / "sweep.png")
    page.write(of_tables(swept, chances, command), folder / page.FILE)


def chances_of(swept: Swept, chance: float | Mapping[str, float] | None) -> dict[str, float]:
    """Return the value of each metric for guessing.

    Args:
        swept: The tables.
        chance: One number for the metric, or a dict.

    Raises:
        UsageError: If it names no metric of the tables, if the digital model's value is missing, or
            if the digital model is no better than guessing.
    """
    found = plotting.by_metric("chance", chance, swept.metrics)
    for metric, value in found.items():
        if metric not in swept.digital:
            raise UsageError(
                f"chance {value:g} of {metric}: A* needs the digital model's value too"
            )
        better = swept.digital[metric] - value
        lower = curves.lower_is_better(metric, swept.lower_is_better)
        if better == 0 or (lower is not None and (better > 0) == lower):
            raise UsageError(
                f"chance {value:g} of {metric}: the digital model, {swept.digital[metric]:g}, is "
                "no better than guessing, so A* means nothing"
            )
    return found


# --- the page -------------------------------------------------------------------------------------


def of_tables(swept: Swept, chances: Mapping[str, float], command: str = "") -> Page:
    """Return the report of sweeps.

    Args:
        swept: The tables.
        chances: The value of each metric for guessing, as far as it is known.
        command: The command that writes it again; "" for none.
    """
    times = sorted({float(t) for rows in swept.tables.values() for t in rows["t_inference"]})
    last = label(times[-1])
    when = f"{last} after programming"
    if len(times) > 1:
        when = f"between {label(times[0])} and {last} after programming"
    answer = [text for metric in swept.metrics for text in sentences(swept, metric)]
    sections = [_of_metric(swept, metric, chances) for metric in swept.metrics]
    names = ", ".join(filter(None, swept.tables))
    return Page(
        f"Sweep{'s' if len(swept.tables) > 1 else ''}{': ' + names if names else ''}",
        f"What do these chips give {when}"
        f"{', and how far is it from the digital model' if swept.digital else ''}?",
        tuple(answer),
        [*sections, _repeat(swept, command)],
        swept.caption,
    )


def _of_metric(swept: Swept, metric: str, chances: Mapping[str, float]) -> Section:
    prefix = f"metric{list(swept.metrics).index(metric)}-"
    svg = drawn(
        parts.SIZE,
        prefix,
        lambda axis, marks: plotting.panel(axis, swept, metric, marks),
        f"{metric} against time after programming",
    )
    found = plotting.curves_of(swept, metric)
    series = [Series("digital", "digital", "--ink", dash="--")] if metric in swept.digital else []
    series += [
        dataclasses.replace(each, name=each.name or "mean of chips") for each in parts.named(found)
    ]
    chart = Chart(
        svg,
        curves.heading(metric, swept.lower_is_better),
        ", ".join(filter(None, plotting.caption_of(swept))),
        [*series, parts.CHIPS],
    )
    keys = [curve.key for curve in found for _ in values_of(swept, curve.name, metric)]
    words = [_COVERS]
    shown = [_means(swept, metric, keys)]
    if metric in chances:
        words.append(f"{_A_STAR} Here chance is {scale_of(swept, metric)(chances[metric])}.")
        shown.append(_stars(swept, metric, chances[metric], keys))
    return Section(metric, words, [chart], shown)


def _means(swept: Swept, metric: str, keys: Sequence[str]) -> Table:
    """Return the table of means, with a row per table of a sweep and time."""
    scale = scale_of(swept, metric)
    digital = swept.digital.get(metric)
    rows = []
    for name in swept.tables:
        for t_s, values in values_of(swept, name, metric):
            mean = intervals.mean_interval(values, scale.whole)
            sd = "" if len(values) < 2 else f"{scale.size(float(values.std()))}{scale.points}"
            row = [name, label(t_s), str(len(values)), scale(mean.mean), sd]
            row.append(_ends(scale, mean))
            if digital is not None:
                row.append(f"{scale.step(mean.mean - digital)}{scale.points}")
            rows.append(row[0 if any(swept.tables) else 1 :])
    columns = ["table", "time", "chips", "mean", "standard deviation", "95 % interval"]
    columns += ["less digital"] if digital is not None else []
    return Table(columns[0 if any(swept.tables) else 1 :], rows, metric, keys)


def _stars(swept: Swept, metric: str, chance: float, keys: Sequence[str]) -> Table:
    """Return the table of A*, with a row per table of a sweep and time."""
    scale, digital = Scale(share=True), swept.digital[metric]
    whole = scale_of(swept, metric).whole
    rows = []
    for name in swept.tables:
        for t_s, values in values_of(swept, name, metric):
            lead = digital - chance
            star = intervals.mean_interval((values - chance) / lead, whole / abs(lead))
            row = [name, label(t_s), scale(star.mean), _ends(scale, star)]
            rows.append(row[0 if any(swept.tables) else 1 :])
    columns = ["table", "time", "A*", "95 % interval"]
    return Table(columns[0 if any(swept.tables) else 1 :], rows, "A*", keys)


def _ends(scale: Scale, interval: intervals.Interval) -> str:
    ends = intervals.ends(interval.low, interval.high, scale.level, 0)
    return f"{ends[0]}{scale.percent} to {ends[1]}{scale.percent}" if ends else ""


def _repeat(swept: Swept, command: str) -> Section:
    """Return what of the sweeps can be repeated, and with what this report was made."""
    facts = []
    for name, rows in swept.tables.items():
        if "seed" in rows:
            seeds = sorted(map(int, rows["seed"].unique()))
            whole = seeds == list(range(seeds[0], seeds[-1] + 1))
            text = (
                f"{seeds[0]} to {seeds[-1]}"
                if whole and len(seeds) > 1
                else ", ".join(map(str, seeds))
            )
            facts.append(["seeds of chips", name, text])
    facts += [["version, of the report", *pair] for pair in machine.versions().items()]
    words = [
        "A preset, a seed and a time decide a chip: the same seeds, the same model and the same "
        "preset give the same chips. A table of a sweep does not say which model and preset it is "
        "of; the caption is there for that."
    ]
    return Section(
        "How to repeat", words, tables=[Table(["", "name", "value"], facts)], code=command
    )
