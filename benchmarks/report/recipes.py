"""Whole recipes compared: how much each brings back of what the chip costs; docs/recipes.md.

The records are ablations that were made with `--recipes`. Brought back is
(A* - A* of direct conversion) / (A* of the best named recipe - A* of direct conversion), so the
default's rivals are judged with the luck of the best of them. The share is given only where the
best named recipe gains more than its interval over chips: a gap that is not there has no shares.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from aimc_bridge.times import label
from benchmarks.report.ablation import facts_of, size_of, stars, units
from benchmarks.report.intervals import ends, mean_interval
from benchmarks.report.record import Record, link, of_kind
from benchmarks.report.tables import markdown

if TYPE_CHECKING:
    import pandas as pd

DEFAULT, DIRECT, OWN = "default", "direct", "recipe"


def committed() -> list[Record]:
    """Return the committed records that compare recipes."""
    return [record for record in of_kind("ablation") if record.arguments.get("recipes")]


def compared(record: Record) -> list[dict[str, Any]]:
    """Return what each recipe of a record keeps and brings back at the last of its times.

    Args:
        record: A record with the variants "direct" and "default".

    Returns:
        One dict per recipe: its name, A*, the share it brings back (NaN if the interval over chips
        of what the best named recipe gains holds 0), and the default's lead over it with the
        interval, paired by chip or by training.
    """
    facts = facts_of(record.extra)
    table = stars(record.table(), facts["chance_error"])
    t_s = float(table.t_inference.max())
    values = {name: units(table, name, t_s) for name in table.variant.drop_duplicates()}
    means = {name: float(value.mean()) for name, value in values.items()}
    best = max((name for name in means if name not in (DEFAULT, DIRECT)), key=means.__getitem__)
    gap = means[best] - means[DIRECT]
    size = size_of(record.table(), facts["chance_error"])
    gain = mean_interval(_by_chip(table, best, t_s) - _by_chip(table, DIRECT, t_s), size)
    shown = gain.low > 0  # not without an interval, as with one chip or with chips that agree
    names = {OWN: f"{facts['recipe']['name'].partition('/')[2]}, as the task plans it"}
    rows = []
    for name, mean in means.items():
        lead = mean_interval(values[DEFAULT] - values[name], size)
        rows.append(
            {
                "recipe": names.get(name, name),
                "t_inference": t_s,
                "a_star": mean,
                "brought_back": (mean - means[DIRECT]) / gap if shown else math.nan,
                "lead": (lead.mean, lead.low, lead.high),
            }
        )
    return rows


def _by_chip(table: pd.DataFrame, variant: str, t_s: float) -> pd.Series[float]:
    """Return a variant's A* at a time, one value per chip: the mean over its trainings."""
    rows = table[(table.variant == variant) & (table.t_inference == t_s)]
    return rows.groupby("chip").value.mean()


def _text(record: Record, row: dict[str, Any]) -> dict[str, str]:
    facts = facts_of(record.extra)
    lead, low, high = (100 * value + 0.0 for value in row["lead"])
    itself = row["recipe"] == DEFAULT
    both = ends(low, high, lambda end, digits: f"{end:+.{digits}f}", 1)
    interval = f" [{both[0]}, {both[1]}]" if both else ""
    return {
        "model": facts["model"],
        "data": facts["dataset"],
        "preset": str(record.arguments["preset"]),
        "recipe": row["recipe"],
        f"A* {label(row['t_inference'])}": f"{100 * row['a_star']:.1f} %",
        "brought back": "?" if math.isnan(back := row["brought_back"]) else f"{100 * back:.0f} %",
        "default's lead, points": "" if itself else f"{lead:+.1f}{interval}",
        "record": link(record),
    }


def _size(record: Record) -> str:
    facts, table = facts_of(record.extra), record.table()
    chips: pd.DataFrame = table[table.variant != "digital"]
    return (
        f"- {link(record)}: {facts['samples']:,} {facts['unit']} of the {facts['split']} split, "
        f"{chips.chip.nunique()} chips, {chips.training_seed.nunique()} training(s) of "
        f"{facts['plan']['hwa_batches']} mini-batches. `{record.shown_command}`"
    )


def section(records: Sequence[Record] | None = None) -> str:
    """Return the text between the marks of docs/recipes.md; "" without records.

    Args:
        records: The records shown; None is all that are committed.
    """
    import pandas as pd

    records = committed() if records is None else records
    if not records:
        return ""
    rows = [_text(record, row) for record in records for row in compared(record)]
    sizes = "\n".join(map(_size, records))
    return f"{markdown(pd.DataFrame(rows).fillna(''))}\n\n{sizes}"
