"""The end of a command's output: a table that fits the terminal, and conclusions in words."""

from __future__ import annotations

import io
import re
import shutil
import statistics
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.table import Table

from aimc_bridge.times import label
from benchmarks.report import tables

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.report.conclusions import Conclusion

_WIDEST = 10_000  # a file or a pipe has no width


def width() -> int:
    """Return the columns of the terminal that standard output is, or no limit for a pipe."""
    return shutil.get_terminal_size((100, 24)).columns if sys.stdout.isatty() else _WIDEST


def report_of(out: Path) -> Path:
    """Return the report in a folder: report.html if there is one, else summary.md.

    Args:
        out: The `--out` of a command.
    """
    page = out / "report.html"
    return page if page.exists() else out / "summary.md"


def of_run(
    results: pd.DataFrame,
    studies: Mapping[str, Any],
    conclusions: Sequence[Conclusion],
    out: Path,
    columns: int | None = None,
) -> str:
    """Return the end of a run: its table, its conclusions, and where the report is.

    Args:
        results: The rows of results.csv.
        studies: Task -> the facts about it, from run.json.
        conclusions: The conclusions.
        out: The folder of the results.
        columns: Columns that the text may take; None is the terminal's.
    """
    columns = width() if columns is None else columns
    parts = [_table(_rows(results, studies), columns)]
    parts += [wrapped(conclusion.text, columns) for conclusion in conclusions]
    parts.append(f"Report: {report_of(out)}")
    return "\n\n".join(filter(None, parts))


def of_summary(text: str, out: Path) -> str:
    """Return a summary as the end of a command: drawn on a terminal, as it is for a pipe.

    Args:
        text: The summary, Markdown. Figures are left out.
        out: The folder of the results.
    """
    text = re.sub(r"^!\[.*\]\(.*\)\n*", "", text, flags=re.MULTILINE).rstrip()
    if sys.stdout.isatty():
        drawn = io.StringIO()
        Console(file=drawn, width=width(), force_terminal=True).print(_Summary(text))
        text = drawn.getvalue().rstrip()
    return f"{text}\n\nReport: {report_of(out)}"


class _WholeTable(TableElement):
    """A table that breaks long words instead of cutting them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table):
                for column in part.columns:
                    column.overflow = "fold"
            yield part


class _Summary(Markdown):
    """A summary whose tables are whole."""

    elements: ClassVar = {**Markdown.elements, "table_open": _WholeTable}


def wrapped(text: str, columns: int) -> str:
    """Break a text into lines between words.

    Args:
        text: The text.
        columns: The longest line; a longer word stands alone.
    """
    if len(text) <= columns:
        return text
    return textwrap.fill(text, max(20, columns), break_long_words=False, break_on_hyphens=False)


def grid(rows: Sequence[Mapping[str, str]], columns: int, right: Iterable[str] = ()) -> str:
    """Return rows as a table, or as one paragraph per row if the table is too wide.

    Args:
        rows: Column -> cell; all rows have the same columns.
        columns: Columns of text that it may take.
        right: The columns that are aligned to the right.
    """
    if not rows:
        return ""
    text = _drawn(rows, right)
    if _fits(text, columns):
        return text
    paragraphs = []
    for row in rows:
        cells = [f"{name} {cell}" for name, cell in row.items() if cell]
        paragraphs.append(wrapped(", ".join(cells), columns))
    return "\n".join(paragraphs)


def _drawn(rows: Sequence[Mapping[str, str]], right: Iterable[str]) -> str:
    """Return rows as a table, as wide as it is."""
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in rows[0]:
        table.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row.values())
    text = io.StringIO()
    # `markup` off: a name in brackets is no style
    console = Console(file=text, width=_WIDEST, color_system=None, markup=False, emoji=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip())


def _fits(text: str, columns: int) -> bool:
    return max(map(len, text.splitlines())) <= columns


def _table(rows: list[dict[str, str]], columns: int) -> str:
    """Return the table of a run; one per model, under a line with what its rows share, if wide."""
    texts = ("model", "phase", "engine", "data")
    right = [name for row in rows[:1] for name in row if name not in texts]
    if not rows or _fits(_drawn(rows, right), columns):
        return grid(rows, columns, right)
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        shared = [name for name in _SHARED if len({row.get(name) for row in own}) == 1]
        told = [model, *(f"{name} {own[0][name]}" for name in shared if own[0].get(name))]
        rest = [{k: v for k, v in row.items() if k not in ("model", *shared)} for row in own]
        parts.append(f"{wrapped(', '.join(told), columns)}\n{grid(rest, columns, right)}")
    return "\n\n".join(parts)


_SHARED = ("metric", "engine", "data", "digital", "chips")


def _rows(results: pd.DataFrame, studies: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return one row per model, phase and engine: the mean at each time, and its sd over chips."""
    times = tables.times_of(results)
    several = any(
        results[results.model == study["model"]].dataset.nunique() > 1 for study in studies.values()
    )
    rows = []
    for study in studies.values():
        metric = study["metric"]
        shown = results[(results.model == study["model"]) & (results.metric == metric)]
        chips = shown[shown.phase != "digital"]
        by_phase = chips.groupby(["phase", "engine", "dataset"], sort=False)
        places = sorted(by_phase.groups, key=lambda place: tables.PHASES.index(str(place[0])))
        for phase, engine, data in places:
            group = by_phase.get_group((phase, engine, data))
            digital = shown[(shown.phase == "digital") & (shown.dataset == data)].value
            row = {"model": str(study["model"]), "phase": tables.names_of(study)[phase]}
            row["engine"] = engine
            if several:
                row["data"] = data.rpartition(", ")[2] if "subset of" in data else "all"
            row["metric"] = f"{metric}, %" if metric != "perplexity" else metric
            row["digital"] = _cell(digital.tolist(), metric)
            for t_s in times:
                row[label(t_s)] = _cell(group[group.t_inference == t_s].value.tolist(), metric)
            row["chips"] = str(group.chip.nunique())
            rows.append(row)
    return rows


def _cell(values: list[float], metric: str) -> str:
    """Return a mean with its standard deviation, such as "72.0 ± 1.3"."""
    if not values:
        return ""
    scale = 1.0 if metric == "perplexity" else 100.0
    text = f"{scale * statistics.fmean(values):.1f}"
    return f"{text} ± {scale * statistics.stdev(values):.1f}" if len(values) > 1 else text
