"""Cross-checks: their records, and the table of trained models on aihwkit.

The rows of a record are the cells of each part of a cross-check that come closest to their margins,
or lie beyond. `extra["reports"]` has a dict per part: its two sides, notes, and counts of verdicts.
`extra["finished"]` says whether all parts were done.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aimc_bridge import files
from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.report import tables
from benchmarks.report.html import build, page
from benchmarks.report.record import LINK, Record, head, link, named
from benchmarks.report.standing import BY_VERSION, EARLIER_ON_AIHWKIT, ON_AIHWKIT
from benchmarks.report.verdict import summary

FILE = "crosscheck.json"
_ROWS = ("worst_columns", "worst")
# Older records have these names for the columns that are now called first and second.
_EARLIER = {"native": "first", "aihwkit": "second"}


def record_of(folder: Path, name: str) -> Record:
    """Read a finished cross-check's folder as a record.

    Args:
        folder: The `--out` of the cross-check.
        name: What the record is called.

    Raises:
        DataError: If the folder holds no finished cross-check.
    """
    return from_report(_read(folder), name)


def rebuild(folder: Path) -> None:
    """Write summary.md and report.html over all reports of a finished cross-check again.

    Args:
        folder: The `--out` of the cross-check.

    Raises:
        DataError: If the folder holds no finished cross-check.
    """
    about = _read(folder)
    reports = about["reports"]
    files.write_text(folder / "summary.md", summary(reports, len(reports), about["command"]))
    page.write(build.of_crosscheck(folder, about), folder / page.FILE)


def _read(folder: Path) -> dict[str, Any]:
    """Read crosscheck.json of a finished folder.

    Args:
        folder: The `--out` of the cross-check.

    Raises:
        DataError: If the file is missing or damaged, or if the cross-check is not finished.
    """
    try:
        about: dict[str, Any] = json.loads(files.read_text(folder / FILE))
        from_report(about, "")  # raises if something is missing that a record needs
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder} holds no finished cross-check ({error!r})") from None
    if not about["finished"]:
        raise DataError(f"{folder} is not finished; go on with it (--resume)")
    return about


def from_report(about: dict[str, Any], name: str) -> Record:
    """Turn the contents of crosscheck.json into a record; see `record_of`.

    Args:
        about: The contents.
        name: The name of the record.

    Raises:
        KeyError: If something is missing.
    """
    columns: list[str] = []
    for report in about["reports"]:
        columns += [column for column in report["worst_columns"] if column not in columns]
    rows = []
    for report in about["reports"]:
        for row in report["worst"]:
            cells = dict(zip(report["worst_columns"], row, strict=True))
            rows.append([report["name"], *(cells.get(column) for column in columns)])
    reports = [
        {key: value for key, value in report.items() if key not in _ROWS}
        for report in about["reports"]
    ]
    extra = {"finished": about["finished"], "models": about["models"], "reports": reports}
    columns = ["part", *columns]
    return Record("crosscheck", name, **head(about), columns=columns, rows=rows, extra=extra)


def table(records: Iterable[Record], to: str = LINK) -> str:
    """Return the table of trained models on aihwkit; "" if there are no records.

    It has one line per time and quantity: the means of both sides, their difference with its
    interval, and the verdict. The interval is the interval of two one-sided tests at 5 %, a 90 %
    interval.

    Args:
        records: Cross-checks of native against aihwkit, of the task level alone.
        to: The path from the page to the records.

    Raises:
        DataError: If a record is of another kind, or of other levels.
    """
    import pandas as pd

    lines = [line for record in records for line in _lines(record, to)]
    return tables.markdown(pd.DataFrame(lines)) if lines else ""


def _lines(record: Record, to: str) -> list[dict[str, str]]:
    try:
        (model,) = record.extra["models"].values()
        (checked,) = record.extra["reports"]
        arguments = record.arguments
        columns = [_EARLIER.get(name, name) for name in record.columns]
        rows = [dict(zip(columns, row, strict=True)) for row in record.rows]
        whole = len(rows) == sum(sum(count[2:]) for count in checked["counts"])
        task = {count[0] for count in checked["counts"]} == {"task"}
        chips = arguments["task_chips"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{record.name} is not a cross-check of one model ({error!r})") from None
    if not (whole and task and checked["sides"] == ["native", "aihwkit"] and chips):
        raise DataError(
            f"{record.name}: allowed: native against aihwkit, task level alone, --task-chips"
        )
    first, second = chips if isinstance(chips, list) else (chips, chips)
    lines = []
    for row in sorted(rows, key=lambda row: (row["t_inference"], row["quantity"])):
        scale, unit = (1.0, "") if row["quantity"] == "perplexity" else (100.0, " points")
        difference, low, high, margin = (
            scale * row[key] for key in ("difference", "low", "high", "margin")
        )
        lines.append(
            {
                "model": model["model"],
                "data": model["dataset"],
                "quantity": row["quantity"],
                "subset": f"{arguments['subset']:,}",
                "chips": f"{first}, {second}",
                "seed": str(arguments["seed"]),
                "at": label(row["t_inference"]),
                "native": tables.number(row["first"], row["quantity"]),
                "aihwkit": tables.number(row["second"], row["quantity"]),
                "difference": f"{difference:.2f}{tables.interval(low, high)}",
                "margin": f"{margin:.2f}{unit}",
                "verdict": row["verdict"],
                "record": link(record, to),
            }
        )
    return lines


def on_aihwkit() -> str:
    """Return the table of the cross-checks in `ON_AIHWKIT`, in its order."""
    return table(named(*ON_AIHWKIT))


def earlier_on_aihwkit() -> str:
    """Return the table of the cross-checks in `EARLIER_ON_AIHWKIT`, in its order."""
    return table(named(*EARLIER_ON_AIHWKIT))


def by_version() -> str:
    """Return how many cells have which verdict, for the cross-checks in `BY_VERSION`."""
    return counts_table(named(*BY_VERSION))


def counts_table(records: Iterable[Record], to: str = LINK) -> str:
    """Return how many cells have which verdict; "" if there are no records.

    The table has one line per record and part.

    Args:
        records: Cross-checks.
        to: The path from the page to the records.
    """
    import pandas as pd

    lines = []
    for record in records:
        for report in record.extra["reports"]:
            verdicts = report["counts_columns"][2:]
            sums = [sum(column) for column in zip(*(c[2:] for c in report["counts"]), strict=True)]
            lines.append(
                {
                    "part": report["name"],
                    "sides": ", ".join(report["sides"]),
                    "aihwkit": record.versions.get("aihwkit") or "-",
                    "torch": record.versions["torch"],
                    **{name: f"{n:,}" for name, n in zip(verdicts, sums, strict=True)},
                    "record": link(record, to),
                }
            )
    return tables.markdown(pd.DataFrame(lines)) if lines else ""
