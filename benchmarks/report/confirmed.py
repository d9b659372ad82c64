"""Trained models on aihwkit: a table of the task level of cross-checks, from their records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aimc_bridge.errors import DataError
from aimc_bridge.times import label
from benchmarks.report import tables

# Records made before the columns were called first and second have these names.
_EARLIER = {"native": "first", "aihwkit": "second"}


def table(records: Sequence[dict[str, Any]], link: str = "../benchmarks/records/") -> str:
    """A line a time and quantity: both sides' means, their difference, its interval, the verdict.

    The interval is that of two one-sided tests at 5 %, a 90 % interval.

    Args:    records  of `python -m benchmarks.crosscheck`, native against aihwkit, the task level
             alone.    link  from the page to them.
    Raises:  DataError for a record of another kind.
    """
    import pandas as pd

    lines = [line for record in records for line in _lines(record, link)]
    return tables.markdown(pd.DataFrame(lines)) if lines else ""


def _lines(record: dict[str, Any], link: str) -> list[dict[str, str]]:
    name = record["name"]
    try:
        (model,) = record["models"].values()
        (checked,) = record["reports"]
        given = record["arguments"]
        columns = [_EARLIER.get(name, name) for name in checked["worst_columns"]]
        rows = [dict(zip(columns, row, strict=True)) for row in checked["worst"]]
        whole = len(rows) == sum(sum(count[2:]) for count in checked["counts"])
        task = {count[0] for count in checked["counts"]} == {"task"}
        chips = given["task_chips"]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{name} is not a cross-check of one model ({error!r})") from None
    if not (whole and task and checked["sides"] == ["native", "aihwkit"] and chips):
        raise DataError(f"{name}: allowed: native against aihwkit, task level alone, --task-chips")
    first, second = chips if isinstance(chips, list) else (chips, chips)
    found = []
    for row in sorted(rows, key=lambda row: (row["t_inference"], row["quantity"])):
        scale, unit = (1.0, "") if row["quantity"] == "perplexity" else (100.0, " points")
        difference, low, high, margin = (
            scale * row[key] for key in ("difference", "low", "high", "margin")
        )
        found.append(
            {
                "model": model["model"],
                "data": model["dataset"],
                "quantity": row["quantity"],
                "subset": f"{given['subset']:,}",
                "chips": f"{first}, {second}",
                "seed": str(given["seed"]),
                "at": label(row["t_inference"]),
                "native": tables.number(row["first"], row["quantity"]),
                "aihwkit": tables.number(row["second"], row["quantity"]),
                "difference": f"{difference:.2f} ({low:.2f} to {high:.2f})",
                "margin": f"{margin:.2f}{unit}",
                "verdict": row["verdict"],
                "record": f"[{name}]({link}{name}.json)",
            }
        )
    return found
