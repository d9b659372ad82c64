"""Runs of the benchmark: their records, and the tables of their results.

The tables are in README.md, docs/results.md and the summary.md of a run. The rows of a record are
the rows of results.csv: one per model, phase, engine, time, chip and metric.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import files
from aimc_bridge.csv_cells import as_csv
from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.report import conclusions, result_figures, tables
from benchmarks.report.html import build, page
from benchmarks.report.record import (
    LINK,
    Record,
    head,
    link,
    named,
    of_kind,
    read_csv,
    read_run,
    renamed,
    write_run,
)
from benchmarks.report.standing import (
    BRIEF,
    IN_FORCE,
    REASONS,
    ROWS,
    STANDING,
    TILE_WISE,
)
from benchmarks.tasks.published import PAPER

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.tasks.published import Published

_TIMES = (1.0, 3600.0, 86400.0, 31536000.0)
_TEXTS = ("model", "dataset", "metric", "phase", "engine", "preset")
_PLACE = ("task", "phase", "engine", "samples", "chips")
_STARS = tuple(f"A* {label(t_s)}" for t_s in _TIMES)


# --- records --------------------------------------------------------------------------------------


def record_of(folder: Path, name: str) -> Record:
    """Read a finished run's folder as a record.

    Args:
        folder: The `--out` of the run.
        name: What the record is called.

    Raises:
        DataError: If the folder holds no finished run.
    """
    about = read_run(folder)
    columns = tables.COLUMNS
    rows = read_csv(folder / "results.csv", columns, _TEXTS, more=["training_seed"])
    unfinished = set(about["arguments"]["tasks"]) - set(about["studies"])
    if unfinished:
        raise DataError(
            f"{folder} is not finished: {', '.join(sorted(unfinished))} is missing; "
            "go on with it (--resume)"
        )
    if len(rows[0]) > len(columns):
        columns = [*columns, "training_seed"]
    extra = {"studies": about["studies"]}
    return renamed(Record("run", name, **head(about), columns=columns, rows=rows, extra=extra))


def results_of(record: Record) -> pd.DataFrame:
    """Return the rows of a record as results.csv has them.

    Args:
        record: The record of a run.
    """
    return record.table().astype({"t_inference": float, "chip": float, "value": float})


def lines_of(
    record: Record, metric: str | None = None, to: str | None = LINK
) -> list[dict[str, str]]:
    """Return a record's lines of the table.

    There is one line per model, phase, engine and part of its data.

    Args:
        record: The record of a run.
        metric: The metric shown; None is each model's own.
        to: The path from the page to the records; None for no link.
    """
    lines = []
    results = results_of(record)
    for task, study in record.extra["studies"].items():
        rows = tables.rows_of(results, study)
        shown = metric or study["metric"]
        if not (rows.metric == shown).any():
            continue
        stars = tables.a_star_summary(rows, study["chance_error"], study.get("intervals", ()))
        table = tables.summary(rows, shown)
        pairs = zip(table.to_dict("records"), stars.to_dict("records"), strict=True)
        for row, star in pairs:
            lines.append(
                {
                    "task": task,
                    "model": study["model"],
                    "data": study["dataset"],
                    "metric": shown,
                    "phase": row["phase"],
                    "engine": row["engine"],
                    "samples": f"{study['samples'][row['data']]:,}",
                    "chips": row["chips"],
                    "digital": row["digital"],
                    **{label(t_s): row.get(label(t_s)) or "?" for t_s in _TIMES},
                    **{at: star.get(at) or "?" for at in _STARS},
                    "interval over": star["interval over"],
                    "record": link(record, to),
                }
            )
    return lines


# --- tables ---------------------------------------------------------------------------------------


def table(records: Iterable[Record], to: str | None = LINK) -> str:
    """Return the tables of runs: the metric over time, then A*; "" without runs.

    Args:
        records: The runs, in the order of the table.
        to: The path from the page to the records; None for no links.
    """
    import pandas as pd

    rows = []
    for record in records:
        for line in lines_of(record, to=to):
            rows.append(line)
            if line["metric"] == "perplexity":
                rows += [
                    {**other, "metric": _METRICS["error"]}
                    for other in lines_of(record, "error", to)
                    if all(other[key] == line[key] for key in _PLACE)
                ]
    if not rows:
        return ""
    lines = pd.DataFrame(rows)
    # a language model has two metrics, and one A*, of the error
    first = lines[lines.metric != "word error"]
    ends = ["interval over", "record"]
    stars = first[["model", "data", "phase", "engine", "samples", "chips", *_STARS, *ends]]
    values = lines.drop(columns=["task", *_STARS, "interval over"])
    return f"{tables.markdown(values)}\n\n{tables.markdown(stars)}"


def results() -> str:
    """Return the table of the records in `IN_FORCE`, then `ROWS`, in their order."""
    return table(named(*IN_FORCE, *ROWS))


def earlier() -> str:
    """Return the table of the runs that are on no other page."""
    shown = (*IN_FORCE, *ROWS, *TILE_WISE, *(name for name, _ in REASONS))
    return table(record for record in of_kind("run") if record.name not in shown)


# --- comparison with published results ------------------------------------------------------------

_METRICS = {"accuracy": "accuracy", "error": "word error", "perplexity": "perplexity"}
_SIZES = ("samples", "chips")
_VALUES = ("digital", *map(label, _TIMES), "A* 1h", "A* 1y")


def compare() -> str:
    """Return hardware-aware models of the paper, the replication and this project.

    They stand side by side in one table. This project's models are those in `STANDING` and `ROWS`;
    if a task has none there, it is the model that was measured natively on the most samples, then
    chips. A task that was not measured has the published rows alone.
    """
    import pandas as pd

    from benchmarks import tasks

    measured = _measured(of_kind("run"))
    lines = []
    for task in tasks.names():
        published = [x for x in tasks.find(task).published if x.phase == "hwa"]
        lines += [_published_line(entry) for entry in published]
        for metric in dict.fromkeys(entry.metric for entry in published):
            lines += measured.get((task, metric), [])
    return tables.markdown(pd.DataFrame(lines).fillna("?"))


def brief() -> str:
    """Return the table of the README: each of `BRIEF` beside the paper's model of that kind.

    A row is one model with one way to get its weights onto chips; A* has the interval of its mean.
    """
    import pandas as pd

    from benchmarks import tasks

    known = {record.name: record for record in named(*(name for name, _ in BRIEF))}
    lines: list[dict[str, str]] = []
    shown: set[str] = set()
    for name, phase in BRIEF:
        for line in lines_of(known[name], to="benchmarks/records/") if name in known else ():
            if line["phase"] != phase:
                continue
            if line["task"] not in shown:
                shown.add(line["task"])
                lines += map(_brief_published, _of_the_paper(tasks.find(line["task"]).published))
            lines.append(_brief_line(line))
    return tables.markdown(pd.DataFrame(lines)) if lines else ""


def _of_the_paper(published: Iterable[Published]) -> list[Published]:
    """Return the paper's result on the most data sets; none without a value of the README's."""
    ours = [entry for entry in published if entry.by == PAPER and entry.phase == "hwa"]
    return [entry for entry in ours[:1] if {3600.0, 31536000.0} & set(entry.at)]


def _brief_published(published: Published) -> dict[str, str]:
    line = _published_line(published)
    return {
        "model": f"{line['model']} (paper)",
        "data": line["data"],
        "training": "hardware-aware",
        **{name: line[name] for name in ("digital", "1h", "1y", "A* 1h", "A* 1y")},
        "source": "[1]",
    }


def _brief_line(line: dict[str, str]) -> dict[str, str]:
    return {
        "model": line["model"],
        "data": line["data"],
        "training": {"direct conversion": "none"}.get(line["phase"], line["phase"]),
        **{name: line[name] for name in ("digital", "1h", "1y", "A* 1h", "A* 1y")},
        "source": line["record"],
    }


def _measured(records: list[Record]) -> dict[tuple[str, str], list[dict[str, str]]]:
    """Return the lines of this project by (task, metric)."""
    standing: dict[tuple[str, str], list[dict[str, str]]] = {}
    largest: dict[tuple[str, str], tuple[tuple[int, ...], dict[str, str]]] = {}
    known = {record.name: record for record in records}
    first = [known.pop(name) for name in (*STANDING, *ROWS) if name in known]
    for record in (*first, *known.values()):
        for metric in _METRICS:
            for line in lines_of(record, metric, LINK):
                if line["phase"] != "hardware-aware" or line["engine"] != "native":
                    continue
                key, our_line = (line["task"], metric), _our_line(line)
                if record.name in (*STANDING, *ROWS):
                    standing.setdefault(key, []).append(our_line)
                size = tuple(int(line[name].split()[0].replace(",", "")) for name in _SIZES)
                if key not in largest or size > largest[key][0]:
                    largest[key] = (size, our_line)
    return {key: standing.get(key, [line]) for key, (_, line) in largest.items()}


def _our_line(line: dict[str, str]) -> dict[str, str]:
    chips = line["chips"].replace(" x", " chips x", 1)
    chips += "" if "x" in chips else " chips"
    return {
        "": "this project",
        "model": line["model"],
        "data": f"{line['data']}, {line['samples']} samples, {chips}",
        "metric": _METRICS[line["metric"]],
        **{name: line[name] for name in _VALUES},
        "source": line["record"],
    }


def _published_line(published: Published) -> dict[str, str]:
    def shown(t_s: float) -> str:
        if t_s not in published.at:
            return "?"
        mark = "~" if t_s in published.about else ""
        return mark + tables.number(published.at[t_s], published.metric)

    def star(t_s: float) -> str:
        value = published.star(t_s)
        return "?" if value is None else tables.number(value, "A*")

    return {
        "": published.by,
        "model": published.model,
        "data": published.data + (f"; {published.note}" if published.note else ""),
        "metric": _METRICS[published.metric],
        "digital": tables.number(published.digital, published.metric),
        **{label(t_s): shown(t_s) for t_s in _TIMES},
        **{f"A* {label(t_s)}": star(t_s) for t_s in (3600.0, 31536000.0)},
        "source": published.source,
    }


# --- a run's folder -------------------------------------------------------------------------------


def write(folder: Path, results: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Write results.csv, summary.md, the figures, and run.json at last; see `save`.

    Args:
        folder: The `--out` of the run.
        results: Its rows.
        about: The contents of run.json.
    """
    files.write_text(folder / "results.csv", as_csv(results))
    save(folder, results, about)
    write_run(folder, about)


def save(folder: Path, results: pd.DataFrame, about: Mapping[str, Any]) -> None:
    """Write summary.md, report.html and the figures of a run.

    Args:
        folder: The `--out` of the run.
        results: Its rows, `tables.COLUMNS`, and training_seed if there are several trainings.
        about: The contents of its run.json.
    """
    studies = about["studies"]
    counts = {len(study.get("training_seeds", [0])) for study in studies.values()}
    several = f" of all {max(counts)} trainings" if max(counts) > 1 else ""
    text = [
        "# Results",
        f"`{about['command']}`, preset {about['arguments']['preset']}. "
        f"Means ± standard deviations over chips{several}; digital: the same model "
        "before conversion, on the same samples; "
        "A* = 1 - (err - err_digital) / (err_chance - err_digital), with the 95 % interval of its "
        "mean; `interval over` says what the interval covers.",
    ]
    panels = []
    (folder / "figures").mkdir(exist_ok=True)
    for task, study in studies.items():
        rows, metric = tables.rows_of(results, study), study["metric"]
        image = f"figures/{task}.png"
        result_figures.figure(rows, metric, folder / image, study["samples"])
        panels.append((rows, metric))
        chance = round(1 / (1 - study["chance_error"]))
        classes = "words" if metric == "perplexity" else "classes"
        text += [
            f"## {study['model']}, {study['dataset']}, {metric}",
            *(f"**{found.text}**" for found in conclusions.of_model(rows, study)),
            *_summaries(rows, metric),
            f"A*, with chance at 1/{chance} ({classes}):",
            tables.markdown(
                tables.a_star_summary(rows, study["chance_error"], study.get("intervals", ()))
            ),
            *_differences(study),
            f"![{study['model']}]({image})",
        ]
    result_figures.dashboard(panels, folder / "figures" / "dashboard.png")
    files.write_text(folder / "summary.md", "\n\n".join(text) + "\n")
    page.write(build.of_run(folder, results, about), folder / page.FILE)


def _summaries(rows: pd.DataFrame, metric: str) -> list[str]:
    """Return the paragraphs on a model's metric; of a language model those on word error too."""
    shown = [tables.markdown(tables.summary(rows, metric))]
    if metric == "perplexity" and (rows.metric == "error").any():
        shown += ["Word error:", tables.markdown(tables.summary(rows, "error"))]
    return shown


def _differences(study: Mapping[str, Any]) -> list[str]:
    """Return the paragraphs on differences between phases, if there are any."""
    table = tables.differences(study.get("intervals", ()), tables.names_of(study))
    if table.empty:
        return []
    text = "Differences of A* between phases, in points:"
    if study.get("control") != tables.UNCHECKED:
        text = f"{text[:-1]}; the control's is what the noise is worth:"
    return [text, tables.markdown(table)]


def rebuild(folder: Path) -> None:
    """Write summary.md, report.html and the figures of a finished run again.

    Args:
        folder: The `--out` of the run.

    Raises:
        DataError: If the folder holds no finished run.
    """
    save(folder, results_of(record_of(folder, "rebuilt")), read_run(folder))
