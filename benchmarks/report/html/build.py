"""The reports of runs, ablations, ladders and cross-checks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import drawing
from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.report import conclusions, result_figures, tables
from benchmarks.report.html import parts
from benchmarks.report.html.inline import Marks, as_svg, drawn
from benchmarks.report.html.page import Chart, Page, Section, Series, Table

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

A_STAR = (
    "A* = 1 - (err - err_digital) / (err_chance - err_digital): 100 % is the digital model on the "
    "same samples, 0 % is guessing. The 95 % interval is that of the mean over the chips; the last "
    "column says what it covers. An interval over chips alone says nothing about other test "
    "samples or other trainings."
)
_TO_RECORD = "a new python -m benchmarks.run"
_CHECK = (
    "A run compares no engine with another one. python -m benchmarks.crosscheck does, and writes "
    "a report of its own."
)


# --- runs -----------------------------------------------------------------------------------------


def of_run(folder: Path, results: pd.DataFrame, about: Mapping[str, Any]) -> Page:
    """Return the report of a run.

    Args:
        folder: The `--out` of the run.
        results: Its rows, `tables.COLUMNS`.
        about: The contents of its run.json.
    """
    studies = about["studies"]
    sections = []
    for task, study in studies.items():
        rows = tables.rows_of(results, study)
        sections.append(_of_model(task, rows, study))
    sections += [
        parts.coverage(studies, _TO_RECORD),
        parts.layers(studies, _TO_RECORD),
        Section("Cross-check", [_CHECK]),
    ]
    cost = parts.cost(studies)
    sections += [cost] if cost else []
    sections.append(parts.repeat(about))
    question = conclusions.question(results, about["arguments"]["preset"])
    title = f"Run {folder.resolve().name}"
    return Page(title, question, _answer(results, about), sections, about["command"])


def _answer(results: pd.DataFrame, about: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the sentences that the terminal and summary.md have too."""
    found = conclusions.conclude(results, about["studies"])
    return tuple(each.text for each in found) or ("Nothing was measured on a chip.",)


def _of_model(task: str, rows: pd.DataFrame, study: Mapping[str, Any]) -> Section:
    metric = study["metric"]
    charts = []
    for number, part in enumerate(result_figures.parts_of(rows)):
        charts.append(_against_time(f"{task}-{number}-", part, metric, study["samples"]))
    known = study.get("intervals", ())
    stars = tables.a_star_summary(rows, study["chance_error"], known)
    summary = tables.summary(rows, metric)
    keys = [_key(row, tables.names_of(study)) for row in summary.to_dict("records")]
    shown = [
        Table.of(summary, f"{metric}, mean ± standard deviation over chips", keys),
        Table.of(stars, "A*, mean ± standard deviation, and 95 % interval of the mean", keys),
    ]
    if metric == "perplexity" and (rows.metric == "error").any():
        shown.insert(1, Table.of(tables.summary(rows, "error"), "word error", keys))
    differences = tables.differences(known, tables.names_of(study))
    if not differences.empty:
        shown.append(Table.of(differences, "A* of one phase less that of another, points"))
    title = f"{study['model']}, {study['dataset']}"
    return Section(title, [A_STAR], charts, shown)


def _key(row: Mapping[Any, Any], names: Mapping[str, str]) -> str:
    """Return the series of a row of a table, as in `result_figures.curves_of`."""
    phases = {name: phase for phase, name in names.items()}
    return f"{phases[row['phase']]}-{row['engine']}"


def _against_time(
    prefix: str, rows: pd.DataFrame, metric: str, samples: Mapping[str, int]
) -> Chart:
    dataset = str(rows.dataset.iloc[0])
    found = result_figures.curves_of(rows, metric)
    svg = drawn(
        parts.SIZE,
        prefix,
        lambda axis, marks: result_figures.panel(axis, rows, metric, samples, marks),
        f"{rows.model.iloc[0]}: {metric} against time after programming",
    )
    digital = Series("digital", "digital", "--ink", dash="--")
    caption = ", ".join(filter(None, result_figures.caption_of(rows, samples)))
    series = [digital, *parts.named(found), parts.CHIPS]
    return Chart(svg, f"{metric} on {dataset}", caption, series)


def of_runs(folders: Sequence[tuple[Path, pd.DataFrame, Mapping[str, Any]]]) -> Page:
    """Return the report that compares several runs.

    Args:
        folders: Folder, rows and run.json of each run.
    """
    import pandas as pd

    lines, sections, told = [], [], []
    for folder, results, about in folders:
        told += [f"{folder}: {text}" for text in _answer(results, about)]
        for study in about["studies"].values():
            rows = tables.rows_of(results, study)
            stars = tables.a_star_summary(rows, study["chance_error"], study.get("intervals", ()))
            for line in stars.to_dict("records"):
                place = {"run": str(folder), "preset": about["arguments"]["preset"]}
                lines.append(
                    {**place, "model": study["model"], **{str(k): v for k, v in line.items()}}
                )
    table = Table.of(pd.DataFrame(lines).fillna(""), "A*, mean ± standard deviation")
    sections.append(Section("All runs", [A_STAR], tables=[table]))
    for number, (folder, results, about) in enumerate(folders):
        for task, study in about["studies"].items():
            rows = tables.rows_of(results, study)
            section = _of_model(f"{number}-{task}", rows, study)
            sections.append(
                Section(f"{folder}: {section.title}", (), section.charts, section.tables)
            )
        again = parts.repeat(about)
        sections.append(
            Section(f"{folder}: how to repeat", again.words, tables=again.tables, code=again.code)
        )
    return Page(f"{len(folders)} runs", "How do these runs differ?", tuple(told), sections)


# --- ablations ------------------------------------------------------------------------------------


def of_ablation(folder: Path, results: pd.DataFrame, about: Mapping[str, Any]) -> Page:
    """Return the report of an ablation.

    Args:
        folder: The `--out` of the ablation.
        results: Its rows, `ablation.COLUMNS`.
        about: The contents of its run.json.
    """
    from benchmarks.report import ablation

    facts = ablation.facts_of(about)
    table = ablation.changes(results, facts["chance_error"])
    base = str(table.variant.iloc[0])
    caption = ", ".join(filter(None, ablation.caption_of(results, about)))
    others = table[table.variant != base]
    size = (parts.SIZE[0], 1.2 + 0.3 * max(1, others.variant.nunique()))
    charts = []
    for number, t_s in enumerate(sorted(table.t_inference.unique())):
        draw = functools.partial(_changes, table, float(t_s))
        svg = drawn(size, f"change{number}-", draw, "changes of A* per variant")
        charts.append(Chart(svg, f"{label(float(t_s))} after programming", caption))
    last = others[others.t_inference == table.t_inference.max()]
    sure = last[(last.change_low > 0) | (last.change_high < 0)]
    changed = "; ".join(
        f"{row.variant} {100 * row.change:+.2f} points" for row in sure.itertuples()
    )
    told = f"At the last time {len(sure)} of {len(last)} changes are larger than their intervals"
    sections = [
        Section("Changes", [A_STAR], charts, [Table.of(ablation.text_of(table), "A* and changes")])
    ]
    cost = parts.cost(about["studies"])
    sections += [cost] if cost else []
    return Page(
        f"Ablation of {facts['model']}",
        f"Which parts of the recipe {facts['recipe']['name']} change A* against {base!r}?",
        (f"{told}{': ' + changed if changed else ''}.",),
        [*sections, parts.repeat(about)],
        about["command"],
    )


_LADDER = (
    "Each cell: mean over chips, and in brackets the change from the rung before with the half "
    "width of its 95 % interval, paired by chip."
)


def _changes(table: pd.DataFrame, t_s: float, axis: Axes, marks: Marks) -> None:
    from benchmarks.report import ablation

    ablation.panel(axis, table, t_s, marks)
    axis.invert_yaxis()


# --- ladders --------------------------------------------------------------------------------------


def of_ladder(folder: Path, results: pd.DataFrame, about: Mapping[str, Any]) -> Page:
    """Return the report of a ladder.

    Args:
        folder: The `--out` of the ladder.
        results: The rows of all tasks, `ladder_tables.COLUMNS`.
        about: The contents of its run.json.
    """
    from benchmarks.report import ladder_page
    from benchmarks.report.ladder_tables import digital_of, steps, times_of

    sections, told = [], []
    for task, facts in about["studies"].items():
        rows, metric = results[results.task == task], facts["metric"]
        table = steps(rows, metric)
        when = times_of(rows)[-1]
        ends = table[(table.metric == metric) & (table.t_inference == when)]
        first, last = (ends.iloc[place] for place in (0, -1))
        scale = result_figures.scale_of(metric)
        unit = "" if scale == 1 else " %"
        digital = scale * digital_of(rows, metric)
        told.append(
            f"{facts['model']}, {label(when)} after programming: {metric} is "
            f"{scale * first['mean']:.2f}{unit} on the first rung ({first['title']}) and "
            f"{scale * last['mean']:.2f}{unit} on the last one ({last['title']}); the digital "
            f"model has {digital:.2f}{unit}."
        )
        charts = []
        for name in (metric, "mvm"):
            draw = functools.partial(_climb, rows, facts, name)
            svg = drawn((parts.SIZE[0], 4.4), f"{task}-{name}-", draw, f"{name} against the rung")
            times = list(map(label, times_of(rows)))
            series = [
                Series(
                    *(when, when, _shade(index, len(times))),
                    *ladder_page.shape(index),
                )
                for index, when in enumerate(times)
            ]
            title = "MVM error, mean over layers" if name == "mvm" else metric
            size = ladder_page.caption_of(rows, facts)
            charts.append(Chart(svg, title, f"{size}, {ladder_page.BARS}", series))
        texts = [
            Table.of(ladder_page.ladder_table(table, name), title)
            for name, title in ((metric, metric), ("mvm", "MVM error, %"))
        ]
        title = f"{facts['model']}, {facts['dataset']}"
        sections.append(Section(title, [_LADDER], charts, texts))
    cost = parts.cost(about["studies"])
    sections += [cost] if cost else []
    return Page(
        "Ladder",
        "What does each step from the replication's physics to the paper's change?",
        tuple(told),
        [*sections, parts.repeat(about)],
        about["command"],
    )


def _climb(rows: pd.DataFrame, facts: dict[str, Any], name: str, axis: Axes, marks: Marks) -> None:
    from benchmarks.report import ladder_page

    ladder_page.panel(axis, rows, facts, name, marks)


def _shade(index: int, count: int) -> str:
    return f"--t{drawing.SCALE.index(drawing.shade(index, count))}"


# --- cross-checks ---------------------------------------------------------------------------------


def of_crosscheck(folder: Path, about: Mapping[str, Any]) -> Page:
    """Return the report of a cross-check.

    Args:
        folder: The `--out` of the cross-check.
        about: The contents of its crosscheck.json.
    """
    from benchmarks.report import verdict

    reports = about["reports"]
    if "verdict" in about:
        word, text = about["verdict"]["word"], about["verdict"]["text"]
    else:  # older cross-checks kept the counts alone
        overall = verdict.verdict_of(reports, len(reports))
        word, text = overall.word, overall.text
    sections = [Section("Verdict", [verdict.MEANING.replace("`", "")], tables=[_verdicts(reports)])]
    for report in reports:
        rows = [dict(zip(report["worst_columns"], row, strict=True)) for row in report["worst"]]
        first, second = report["sides"]
        names = {"first": first, "second": second, "t_inference": "time"}
        columns = [name for name in _COMPARED if name in report["worst_columns"]]
        cells = [[_compared(name, row[name]) for name in columns] for row in rows]
        table = Table(
            [names.get(name, name) for name in columns],
            cells,
            "the rows that come closest to their margins, or exceed them",
        )
        # a report is written after each part: figures of all parts would take longer each time
        finished = about.get("finished", True)
        charts = _check_charts(folder, report, len(sections)) if finished else []
        sections.append(Section(report["name"], report["notes"], charts, [table]))
    timed = [report for report in reports if "wall_s" in report]  # older ones were not timed
    seconds = [[report["name"], f"{report['wall_s']:,.1f}"] for report in timed]
    if seconds:
        sections.append(Section("Cost", tables=[Table(["report", "seconds"], seconds)]))
    return Page(
        "Cross-check",
        "Do two simulators, or two presets, give the same devices, layers and results?",
        (f"Verdict: {word}. {text[:1].upper()}{text[1:]}.",),
        [*sections, parts.repeat(about)],
        about["command"],
    )


_CHECK_FIGURES = {
    "devices": "Devices: programming, drift exponents, read noise",
    "alpha": "Drift compensation of each layer",
    "mvm": "MVM errors of the layers",
}


def _check_charts(folder: Path, report: Mapping[str, Any], number: int) -> list[Chart]:
    """Return the figures of one part of a cross-check; none if its rows are not in the folder.

    Args:
        folder: The `--out` of the cross-check.
        report: The part, from crosscheck.json.
        number: The number of the part, for the ids of the page.

    Raises:
        DataError: If the file of its rows is damaged.
    """
    import pandas as pd

    from aimc_bridge.equivalence import figures

    path = folder / report["name"] / "crosscheck.csv"
    if not path.exists():
        return []
    try:
        rows = pd.read_csv(path)
    except (ValueError, OSError) as error:
        raise DataError(f"{path}: damaged ({error})") from None
    if not {"level", "cell", "first", "second", "margin", "low", "high"} <= set(rows.columns):
        return []  # an older version wrote it, with other columns
    charts = []
    first, second = report["sides"]
    for name, figure in figures.figures_of(rows, None, (first, second)).items():
        title = _CHECK_FIGURES[name]
        svg = as_svg(figure, Marks(f"check{number}-{name}-"), f"{report['name']}: {title}")
        charts.append(Chart(svg, title, "", wide=True))
    return charts


_COMPARED = (
    *("cell", "quantity", "t_inference"),
    *("first", "second", "difference", "margin", "verdict"),
)


def _compared(column: str, value: Any) -> str:
    """Return a cell of a cross-check's table as text."""
    if column in ("cell", "quantity", "verdict"):
        return str(value)
    if value is None:
        return "" if column == "t_inference" else "?"
    return label(value) if column == "t_inference" else f"{value:.4g}"


def _verdicts(reports: Sequence[Mapping[str, Any]]) -> Table:
    from benchmarks.report.verdict import WORDS, counts_of

    rows = []
    for report in reports:
        counts = counts_of(report)
        must = "must agree" if report["should_agree"] else "may differ"
        sides = " against ".join(report["sides"])
        rows.append([report["name"], sides, *(f"{counts[word]:,}" for word in WORDS), must])
    return Table(["report", "sides", *WORDS, ""], rows)
