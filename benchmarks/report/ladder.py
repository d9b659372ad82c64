"""The ladder: its records, one per task, and the section of docs/ladder.md.

A row is one (row of the ladder, time, chip) with a column per metric. The last cell is a list: the
errors of the layers, to 5 digits, in the order of `layers` among the facts of the study.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import DataError
from benchmarks.report import ladder_page
from benchmarks.report.html import build, page
from benchmarks.report.ladder_tables import COLUMNS, read_results
from benchmarks.report.record import LINK, Record, head, of_kind, read_run

if TYPE_CHECKING:
    import pandas as pd

_KEYS = ["row", "t_inference", "chip", "seed"]
IMAGE = "ladder.png"


def records_of(folder: Path) -> list[Record]:
    """Read a finished ladder's folder as records, one per task.

    Args:
        folder: The `--out` of the ladder.

    Raises:
        DataError: If the folder holds no finished ladder.
    """
    about = read_run(folder)
    results = read_results(folder / "results.csv")
    unfinished = set(about["arguments"]["tasks"]) - set(about["studies"])
    if unfinished:
        raise DataError(
            f"{folder} is not finished: {', '.join(sorted(unfinished))} is missing; "
            "go on with it (--resume)"
        )
    return [_record_of(about, results, task) for task in about["studies"]]


def _record_of(about: dict[str, Any], results: pd.DataFrame, task: str) -> Record:
    facts = about["studies"][task]
    results = results[results.task == task]
    names = [f"mvm {layer}" for layer in facts["layers"]]
    metrics = [str(m) for m in results.metric.unique() if not str(m).startswith("mvm ")]
    rows: list[list[Any]] = []
    key: Any
    for key, group in results.groupby(_KEYS, sort=False, dropna=False):
        values = dict(zip(group.metric, group.value.tolist(), strict=True))
        errors = [float(f"{values[name]:.5g}") for name in names if name in values]
        place = [None if isinstance(x, float) and math.isnan(x) else x for x in tuple(key)]
        place[2:] = [x if x is None else int(x) for x in place[2:]]  # a chip is a whole number
        rows.append([*place, *(values.get(name) for name in metrics), errors])
    return Record(
        "ladder",
        f"ladder-{task}",
        **head(about),
        columns=[*_KEYS, *metrics, "layers"],
        rows=rows,
        extra={"studies": {task: facts}},
    )


def results_of(record: Record) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the results of a record in long form, and the facts of the study.

    Args:
        record: A record of kind "ladder".

    Returns:
        A table with `ladder_tables.COLUMNS`, and the facts.
    """
    import pandas as pd

    ((task, facts),) = record.extra["studies"].items()
    keys, metrics = record.columns[:4], record.columns[4:-1]
    rows = []
    for line in record.rows:
        place = dict(zip(keys, line[:4], strict=True))
        values = dict(zip(metrics, line[4:-1], strict=True))
        values |= {f"mvm {k}": v for k, v in zip(facts["layers"], line[-1], strict=False)}
        rows += [{**place, "metric": k, "value": v} for k, v in values.items() if v is not None]
    table = pd.DataFrame(rows).assign(task=task, model=facts["model"])
    kinds = {"t_inference": float, "chip": float, "seed": float, "value": float}
    return table[COLUMNS].astype(kinds), facts


def committed() -> list[Record]:
    """Return the committed records, the last name first, as in the text of the page."""
    return of_kind("ladder")[::-1]


def section(records: Sequence[Record] | None = None, to: str = LINK) -> str:
    """Return the text between the marks of docs/ladder.md; "" without records.

    Args:
        records: The records shown; None is all that are committed.
        to: The path from the page to the records.
    """
    records = committed() if records is None else records
    if not records:
        return ""
    parts = [ladder_page.LEGEND, f"![metric and MVM error against the rung]({IMAGE})"]
    for record in records:
        parts.append(ladder_page.study_text(*results_of(record)))
        parts.append(f"[{record.name}.json]({to}{record.name}.json): `{record.shown_command}`.")
    return "\n\n".join(parts)


def draw(records: Sequence[Record], path: Path, description: str) -> None:
    """Draw the figure of docs/ladder.md.

    Args:
        records: The records shown.
        path: The file, .png.
        description: A text for the file's metadata.
    """
    studies = [results_of(record) for record in records]
    ladder_page.figure(studies, path, description, vector=False)


def rebuild(folder: Path) -> None:
    """Write the tables, summary.md, report.html and the figure of a finished ladder again.

    Args:
        folder: The `--out` of the ladder.

    Raises:
        DataError: If the folder holds no finished ladder.
    """
    about = read_run(folder)
    results = read_results(folder / "results.csv")
    ladder_page.save(folder, results, about["studies"], about["command"])
    page.write(build.of_ladder(folder, results, about), folder / page.FILE)
