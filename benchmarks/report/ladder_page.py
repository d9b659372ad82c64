"""The ladder as text and as a figure, and the files in a run's folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import curves, drawing, files
from aimc_bridge.csv_cells import as_csv
from aimc_bridge.times import label
from benchmarks.report import figures
from benchmarks.report.intervals import ends
from benchmarks.report.ladder_tables import (
    digital_of,
    flaws,
    layers,
    less_one,
    rungs_of,
    steps,
    times_of,
)
from benchmarks.report.tables import interval, markdown

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

ALPHA = 0.05
BARS = "bars: 95 % over chips; where none is seen, it is shorter than the mark, or the chips agree"

Studies = dict[str, dict[str, Any]]


# --- as text --------------------------------------------------------------------------------------


def _scale(metric: str) -> float:
    return 1.0 if metric in ("perplexity", "loss") else 100.0


def _digits(metric: str) -> int:
    return 3 if metric == "loss" else 2


def _number(value: float, metric: str) -> str:
    return f"{_scale(metric) * value:.{_digits(metric)}f}"


def _change(mean: float, low: float, high: float, metric: str) -> str:
    """Return a change as text, such as "+1.20 ± 0.30".

    One half width is enough, because a t interval is as wide to both sides. Narrow intervals get
    more digits.
    """
    middle, half = _scale(metric) * mean, _scale(metric) * (high - low) / 2
    if middle == 0.0 and math.isnan(half):  # of chips that all stay as they are
        return "0"
    both = ends(0.0, half, lambda end, digits: f"{end:.{digits}f}", _digits(metric))
    if both is None:
        return f"{middle:+.{_digits(metric)}f}".replace("-", "−")
    digits = len(both[1].partition(".")[2])
    return f"{middle:+.{digits}f} ± {both[1]}".replace("-", "−")


def ladder_text(table: pd.DataFrame, metric: str) -> str:
    """Return one metric's ladder: "mean (change ± half of its interval)" per cell.

    Changes are bold if Holm's p is below 0.05.

    Args:
        table: What `steps` returns.
        metric: The task's metric, or "mvm".
    """
    return markdown(ladder_table(table, metric, "**"))


def ladder_table(table: pd.DataFrame, metric: str, bold: str = "") -> pd.DataFrame:
    """Return one metric's ladder as a DataFrame of text; see `ladder_text`.

    Args:
        table: What `steps` returns.
        metric: The task's metric, or "mvm".
        bold: What stands around changes whose Holm's p is below 0.05.
    """
    import pandas as pd

    lines = []
    for (number, title), of_rung in table[table.metric == metric].groupby(["number", "title"]):
        line = {"": str(number), "rung": str(title)}
        for row in of_rung.to_dict("records"):
            text = _number(row["mean"], metric)
            if not math.isnan(row["change"]):
                step = _change(row["change"], row["change_low"], row["change_high"], metric)
                text += f" ({bold}{step}{bold})" if row["p_holm"] < ALPHA else f" ({step})"
            line[label(row["t_inference"])] = text
        lines.append(line)
    return pd.DataFrame(lines)


def flaws_text(table: pd.DataFrame, metric: str) -> str:
    """Return the table of the flaws for one metric.

    Args:
        table: What `flaws` returns.
        metric: The task's metric, or "loss".
    """
    import pandas as pd

    lines = []
    for row in table[table.metric == metric].to_dict("records"):
        step = _change(row["difference"], row["low"], row["high"], metric)
        ratio = "" if row["flawed_n"] < 2 else "0" if row["sd_ratio"] == 0 else "?"
        if not math.isnan(row["sd_ratio"]) and row["sd_ratio"] > 0:
            ratio = f"{row['sd_ratio']:.2f}{interval(row['ratio_low'], row['ratio_high'])}"
        sure = row["p"] < ALPHA
        digits = _digits(metric) + 1
        sds = [f"{_scale(metric) * row[f'{side}_sd']:.{digits}f}" for side in ("right", "flawed")]
        lines.append(
            {
                "flaw": row["flaw"],
                "physics": f"`{row['physics']}`",
                "right": f"{_number(row['right'], metric)} ({row['right_n']} chips)",
                "flawed": f"{_number(row['flawed'], metric)} ({row['flawed_n']})",
                "difference": f"**{step}**" if sure else step,
                "sd right": sds[0],
                "sd flawed": sds[1],
                "sd ratio": ratio if "oracle" not in row["flaw"] else "",
            }
        )
    return markdown(pd.DataFrame(lines))


def less_text(table: pd.DataFrame, metric: str) -> str:
    """Return the table of the cost of each part of the paper's model, for one metric.

    Args:
        table: What `less_one` returns.
        metric: The task's metric, or "loss".
    """
    import pandas as pd

    lines = []
    for row in table[table.metric == metric].to_dict("records"):
        step = _change(row["change"], row["low"], row["high"], metric)
        lines.append(
            {
                "`rasch2023`": row["row"],
                metric: _number(row["mean"], metric),
                "change": f"**{step}**" if row["p"] < ALPHA else step,
            }
        )
    return markdown(pd.DataFrame(lines))


def study_text(results: pd.DataFrame, facts: dict[str, Any], level: str = "##") -> str:
    """Return all tables of one task.

    Args:
        results: The rows of the task, `ladder_tables.COLUMNS`.
        facts: What is known of the study.
        level: The marks of its title.
    """
    metric = facts["metric"]
    last = label(times_of(results)[-1])
    table, flaw_table = steps(results, metric), flaws(results, metric)
    less = less_one(results, metric)
    chips = int(table.chips.iloc[0])
    unit, of = ("", "") if metric == "perplexity" else (", %", " %")
    digital = _number(digital_of(results, metric), metric)
    return "\n\n".join(
        [
            f"{level} {facts['model']}, {facts['dataset']}",
            f"{facts['samples']:,} test samples, {chips} chips, digital {metric} {digital}{of}. "
            f"{_ranges_text(facts['input_ranges'])} {metric.capitalize()}{unit}:",
            ladder_text(table, metric),
            "MVM error, %, mean over layers:",
            ladder_text(table, "mvm"),
            f"Flaws of the evaluation, {metric}{unit} at {last}:",
            flaws_text(flaw_table, metric),
            f"The standard model less one of its parts, {metric}{unit} at {last}:",
            less_text(less, metric),
        ]
    )


def _ranges_text(ranges: dict[str, Any]) -> str:
    """Return one sentence on where the input ranges come from.

    Args:
        ranges: The facts of a record on its input ranges.
    """
    how = f"method `{ranges['method']}`, {ranges['batches']} batches"
    text = f"Input ranges: {how}, from the inputs"
    percentile = ranges.get("out_percentile")  # older records lack it
    if percentile is None:
        return f"{text} alone."
    return f"{text} and raised until the ADC holds {percentile:g} % of a layer's outputs."


LEGEND = (
    "Each cell: mean over chips, and in brackets the change from the rung before with the half "
    "width of its 95 % interval, paired by chip; **bold** where the change is different from 0 "
    "after Holm's correction over the table. In the other tables bold is the plain 5 % level."
)


# --- the figure -----------------------------------------------------------------------------------


def figure(
    studies: list[tuple[pd.DataFrame, dict[str, Any]]],
    path: Path,
    mark: str = "",
    *,
    vector: bool = True,
) -> None:
    """Draw metric and MVM error against the rung: one column of panels per task.

    Each time has a line and a band, its interval.

    Args:
        studies: The rows and the facts of each task.
        path: The file, .png.
        mark: A text for the file's metadata.
        vector: Whether to write an SVG beside it.
    """
    size = (5.0 * len(studies) + 1.4, 8.4)
    drawn, axes = figures.new(2, len(studies), size, sharex="col")
    parts = []
    for column, (results, facts) in enumerate(studies):
        metric = facts["metric"]
        panel(axes[0][column], results, facts, metric)
        axes[0][column].set_title(f"{facts['model']}, {facts['dataset']}", fontsize=9)
        panel(axes[1][column], results, facts, "mvm")
        parts.append(f"{facts['model']}: {caption_of(results, facts)}")
    drawing.legend(drawn, axes.flat, "after programming")
    drawing.caption(drawn, ["; ".join(parts), BARS])
    figures.save(drawn, path, dpi=110, description=mark, vector=vector)


def caption_of(results: pd.DataFrame, facts: dict[str, Any]) -> str:
    """Return how many chips and samples a task's ladder has, as text.

    Args:
        results: The rows of the task, `ladder_tables.COLUMNS`.
        facts: What is known of the study.
    """
    chips = int(steps(results, facts["metric"]).chips.iloc[0])
    return f"{chips} chips, {facts['samples']:,} test samples"


def shape(index: int) -> tuple[str, str]:
    """Return the marker and the dashes of a time.

    Args:
        index: Its place among the times.
    """
    return (
        drawing.MARKERS[index % len(drawing.MARKERS)],
        drawing.DASHES[index % len(drawing.DASHES)],
    )


def panel(
    axis: Axes,
    results: pd.DataFrame,
    facts: dict[str, Any],
    metric: str,
    tip: curves.Mark = curves.ignore,
) -> None:
    """Draw a task's metric, or its MVM error, against the rung.

    Args:
        axis: The axes.
        results: The rows of the task, `ladder_tables.COLUMNS`.
        facts: What is known of the study.
        metric: The task's own metric, or "mvm".
        tip: Is called with each artist; see `curves.Mark`.
    """
    table = steps(results, facts["metric"])
    shown = table[table.metric == metric]
    times = sorted(shown.t_inference.unique())
    scale, unit = _scale(metric), "" if _scale(metric) == 1 else " %"
    if metric != "mvm":
        samples = facts["samples"] if metric in ("accuracy", "error") else None
        curves.draw_digital(axis, digital_of(results, metric), samples, scale, tip)
    rungs = rungs_of(results)
    for index, t_s in enumerate(times):
        at_time = shown[shown.t_inference == t_s]
        colour = drawing.shade(index, len(times))
        number = at_time.number.to_numpy()
        mean = scale * at_time["mean"].to_numpy()
        low, high = scale * at_time.low.to_numpy(), scale * at_time.high.to_numpy()
        key = label(float(t_s))
        marker, dash = shape(index)
        # side by side: on the first rungs all times have the same value
        place = number + 0.13 * (index - (len(times) - 1) / 2)
        bars = axis.errorbar(
            *(place, mean),
            yerr=(mean - low, high - mean),
            marker=marker,
            linestyle=dash,
            ms=4,
            lw=1.4,
            elinewidth=1.0,
            color=colour,
            label=key,
        )
        tip(bars.lines[0], key, "line", key)
        for artist in bars.lines[2]:
            tip(artist, key, "bar", "")
        if tip is curves.ignore:
            continue
        for (rung, _, title), at, middle, a, b in zip(rungs, place, mean, low, high, strict=True):
            (point,) = axis.plot([at], [middle], marker, ms=4, color=colour)
            tip(
                point,
                key,
                "point",
                f"{rung} {title}, {key}: {middle:.4g}{_ends(a, b)}{unit}",
            )
    if metric == "perplexity" and shown["mean"].max() > 2 * shown["mean"].min():
        drawing.log_axis(axis)
    elif metric != "mvm":
        curves.widen(axis, scale, share=curves.is_share(metric))
    name = "MVM error" if metric == "mvm" else metric
    axis.set_ylabel(curves.heading(name if scale == 1 else f"{name}, %"))
    axis.set_xticks(
        [number for number, _, _ in rungs],
        [f"{number} {title}" for number, _, title in rungs],
        rotation=55,
        ha="right",
        fontsize=8,
    )


def _ends(low: float, high: float) -> str:
    both = ends(low, high, lambda end, digits: f"{end:.{digits}g}", 4)
    return f" ({both[0]} to {both[1]})" if both else ""


# --- a run's folder -------------------------------------------------------------------------------


def save(out: Path, results: pd.DataFrame, studies: Studies, command: str) -> None:
    """Write the tables, summary.md and the figure of a run.

    The tables are results.csv, ladder.csv, layers.csv, flaws.csv and less-one.csv.

    Args:
        out: The folder.
        results: The rows of all tasks, `ladder_tables.COLUMNS`.
        studies: The facts of each task.
        command: The command line.
    """
    import pandas as pd

    by_name: dict[str, list[pd.DataFrame]] = {}
    text = ["# From the replication's physics to the paper's", f"`{command}`", LEGEND]
    panels = []
    for task, facts in studies.items():
        rows = results[results.task == task]
        metric = facts["metric"]
        for name, table in (
            ("ladder", steps(rows, metric)),
            ("layers", layers(rows)),
            ("flaws", flaws(rows, metric)),
            ("less-one", less_one(rows, metric)),
        ):
            by_name.setdefault(name, []).append(table.assign(task=task))
        text.append(study_text(rows, facts))
        panels.append((rows, facts))
    for name, tables in {"results": [results], **by_name}.items():
        text_of_table = as_csv(pd.concat(tables, ignore_index=True))
        files.write_text(out / f"{name}.csv", text_of_table)
    (out / "figures").mkdir(exist_ok=True)
    figure(panels, out / "figures" / "ladder.png")
    files.write_text(
        out / "summary.md", "\n\n".join([*text, "![ladder](figures/ladder.png)"]) + "\n"
    )
