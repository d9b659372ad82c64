"""The overall verdict of a cross-check, and the one summary of all its reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from aimc_bridge.equivalence import Report
from aimc_bridge.times import label
from benchmarks.report.tables import markdown

WORDS = ("equivalent", "different", "undecided")
WORST = 12  # rows of a report that its short form keeps
PASSED, UNDECIDED, FAILED, UNFINISHED = "passed", "undecided", "failed", "unfinished"

MEANING = (
    "A row is `equivalent` if its difference lies inside its margin and `different` if it lies "
    "outside. It is `undecided` if the sample is too small to tell. An undecided row fails nothing "
    "and proves nothing: the overall verdict is then `undecided`, the exit code stays 0, and more "
    "chips, more samples or a larger budget decide it. The verdict is `failed`, with exit code 1, "
    "if a row of a report that should agree is `different`. Reports on two presets may differ: "
    "they are listed and do not count."
)


@dataclass(frozen=True)
class OverallVerdict:
    """The verdict of a cross-check over all reports that should agree.

    Attributes:
        word: "passed" (every row is equivalent), "undecided" (none is different, some are
            undecided), "failed" (some are different) or "unfinished" (reports are missing).
        text: The same as one sentence with the numbers of rows.
    """

    word: str
    text: str

    @property
    def exit_code(self) -> int:
        """Return the exit code: 1 if a row that should agree is different, else 0."""
        return 1 if self.word == FAILED else 0

    def __str__(self) -> str:
        """Return the verdict as one line."""
        return f"verdict: {self.word}; {self.text}"


def in_short(name: str, should_agree: bool, report: Report, wall_s: float) -> dict[str, Any]:
    """Return a report in short, as plain data.

    Args:
        name: The folder of the report.
        should_agree: Whether a difference is a failure.
        report: The full report.
        wall_s: How long it took, in seconds.

    Returns:
        Verdicts per level and quantity, and the rows that come closest to their margins or exceed
        them; rows that are not equivalent come first.
    """
    table = report.table
    counts = report.counts()
    size = (table["difference"].abs() / table["margin"]).clip(upper=1e9)
    worst = table.assign(
        of_margin=size, order=table["verdict"].map({"different": 0, "undecided": 1}).fillna(2)
    ).sort_values(["order", "of_margin"], ascending=[True, False])
    columns = ["cell", "quantity", "t_inference", "first", "second", "difference", "low", "high"]
    columns += ["margin", "p", "power", "verdict", "reference"]
    places, numbers = counts.index.tolist(), counts.to_numpy().tolist()
    return {
        "name": name,
        "sides": list(report.sides),
        "should_agree": should_agree,
        "wall_s": round(wall_s, 1),
        "notes": list(report.notes),
        "counts_columns": ["level", "quantity", *counts.columns],
        "counts": [[*place, *map(int, row)] for place, row in zip(places, numbers, strict=True)],
        "worst_columns": columns,
        "worst": [
            [_rounded(value) for value in row]
            for row in worst[columns].head(WORST).to_numpy().tolist()
        ],
    }


def _rounded(value: Any) -> Any:
    if not isinstance(value, float):
        return value
    return None if math.isnan(value) else float(f"{value:.5g}")


def counts_of(report: Mapping[str, Any]) -> dict[str, int]:
    """Count the rows of one report per verdict.

    Args:
        report: A report in short, from `in_short`.

    Returns:
        The number of rows that are "equivalent", "different" and "undecided".
    """
    lines = [dict(zip(report["counts_columns"], line, strict=True)) for line in report["counts"]]
    return {word: sum(line[word] for line in lines) for word in WORDS}


def verdict_of(reports: Sequence[Mapping[str, Any]], planned: int) -> OverallVerdict:
    """Judge all reports that should agree.

    Args:
        reports: The reports that are done, in short.
        planned: How many reports there will be.

    Returns:
        The verdict. If a row is different, the cross-check fails even before it is finished.
    """
    judged = [counts_of(report) for report in reports if report["should_agree"]]
    total = {word: sum(counts[word] for counts in judged) for word in WORDS}
    rows = sum(total.values())
    which = f"of {rows:,} rows that should agree, " + ", ".join(
        f"{total[word]:,} {'are' if total[word] != 1 else 'is'} {word}" for word in WORDS
    )
    missing = planned - len(reports)
    if missing:
        which += f"; {missing} of {planned} reports are missing"
    if total["different"]:
        return OverallVerdict(FAILED, which)
    if missing:
        return OverallVerdict(UNFINISHED, which)
    if not judged:
        return OverallVerdict(UNDECIDED, "no report of this cross-check has to agree")
    return OverallVerdict(UNDECIDED if total["undecided"] else PASSED, which)


def lines(reports: Sequence[Mapping[str, Any]], planned: int) -> list[str]:
    """Return one line per report, and the verdict as the last line.

    Args:
        reports: The reports that are done, in short.
        planned: How many reports there will be.
    """
    text = []
    for report in reports:
        counts = ", ".join(f"{n:,} {word}" for word, n in counts_of(report).items() if n)
        note = "" if report["should_agree"] else " (two presets: they may differ)"
        text.append(f"{report['name']}: {counts}{note}")
    return [*text, str(verdict_of(reports, planned))]


def summary(reports: Sequence[Mapping[str, Any]], planned: int, command: str) -> str:
    """Return the summary of a cross-check as a page in Markdown.

    It has the verdict, one row per report, and what failed.

    Args:
        reports: The reports that are done, in short.
        planned: How many reports there will be.
        command: The command line, for the head.

    Returns:
        The page.
    """
    verdict = verdict_of(reports, planned)
    text = [
        "# Cross-check",
        f"**Verdict: {verdict.word}.** {verdict.text[:1].upper()}{verdict.text[1:]}.",
        MEANING,
        f"`{command}`",
    ]
    if reports:
        text.append(markdown(pd.DataFrame([_line(report) for report in reports])))
    failed = [report for report in reports if report["should_agree"] and _differs(report)]
    for report in failed:
        text += [f"## What failed in {report['name']}", _failures(report)]
    left_out = [
        f"- {report['name']}: {note}"
        for report in reports
        for note in report["notes"]
        if note.startswith("the budget left out")
    ]
    if left_out:
        text += ["## What no verdict covers", "\n".join(left_out)]
    return "\n\n".join(text) + "\n"


def _differs(report: Mapping[str, Any]) -> int:
    return counts_of(report)["different"]


def _line(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of the table for one report."""
    counts = counts_of(report)
    word = "may differ"
    if report["should_agree"]:
        word = FAILED if counts["different"] else UNDECIDED if counts["undecided"] else PASSED
    name = report["name"]
    return {
        "report": f"[{name}]({name}/summary.md)",
        "sides": " against ".join(report["sides"]),
        **{key: f"{count:,}" for key, count in counts.items()},
        "verdict": word,
    }


def _failures(report: Mapping[str, Any]) -> str:
    """Return the table of rows that are different, those farthest off first.

    The order is by the distance beyond their margin.
    """
    first, second = report["sides"]
    rows = [dict(zip(report["worst_columns"], row, strict=True)) for row in report["worst"]]
    rows = [row for row in rows if row["verdict"] == "different"]
    table = pd.DataFrame(
        [
            {
                "cell": row["cell"],
                "quantity": row["quantity"],
                "time": "" if row["t_inference"] is None else label(row["t_inference"]),
                first: _number(row["first"]),
                second: _number(row["second"]),
                "difference": _number(row["difference"]),
                "interval": f"{_number(row['low'])} .. {_number(row['high'])}",
                "margin": _number(row["margin"]),
            }
            for row in rows
        ]
    )
    more = _differs(report) - len(rows)
    note = f"\n\n{more:,} more such rows are in {report['name']}/crosscheck.csv." if more else ""
    return markdown(table) + note


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"
