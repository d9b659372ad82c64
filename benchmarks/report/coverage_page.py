"""How often intervals hold the truth: the record, and the tables of docs/a-star.md.

A row of the record is a scenario of `benchmarks.studies.interval_coverage` and what was measured.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from aimc_bridge.markdown import markdown_table
from benchmarks.report.record import LINK, Record, link, of_kind
from benchmarks.studies.interval_coverage import Coverage, Scenario

LEAST, MOST = 0.93, 0.97
_HEADINGS = (
    *("test", "samples", "chips", "trainings", "mean error", "A*", "half width of A*"),
    "A*, over chips or trainings alone",
)


def record_of(
    scenarios: Sequence[Scenario],
    measured: Sequence[Coverage],
    *,
    name: str,
    command: str,
    arguments: Mapping[str, Any],
    versions: Mapping[str, str],
    hardware: Mapping[str, Any],
) -> Record:
    """Return the record of a measurement.

    Args:
        scenarios: What was drawn.
        measured: How often the intervals of each held the truth.
        name: The name of the record.
        command: The command line.
        arguments: Its arguments: "sets" and "seed".
        versions: Versions of Python and of packages.
        hardware: The machine.
    """
    columns = [*(entry.name for entry in dataclasses.fields(Scenario)), *_measured()]
    rows = [
        [*dataclasses.astuple(scenario), *found]
        for scenario, found in zip(scenarios, measured, strict=True)
    ]
    return Record("intervals", name, command, arguments, versions, hardware, columns, rows)


def _measured() -> list[str]:
    return [f"holds {name}" if name != "half" else name for name in Coverage._fields]


def rows_of(record: Record) -> list[tuple[Scenario, Coverage]]:
    """Return what a record holds.

    Args:
        record: A record of kind "intervals".
    """
    size = len(dataclasses.fields(Scenario))
    return [(Scenario(*row[:size]), Coverage(*row[size:])) for row in record.rows]


def outside(record: Record) -> list[str]:
    """Return what the tables claim to cover and do not, as one line per scenario and quantity.

    Args:
        record: A record of kind "intervals".

    Returns:
        A line for each interval that does not hold the truth in 93 to 97 % of the data sets.
    """
    return [
        f"{scenario.name}, {scenario.chips} chips x {scenario.trainings}: {name} {100 * held:.1f} %"
        for scenario, found in rows_of(record)
        if scenario.claimed
        for name, held in (("mean error", found.error), ("A*", found.star))
        if not LEAST <= held <= MOST
    ]


def tables(record: Record) -> str:
    """Return the tables of a record: what reports claim to cover, and what they do not.

    Args:
        record: A record of kind "intervals".
    """
    rows = rows_of(record)
    claimed = [_line(*row) for row in rows if row[0].claimed]
    others = [_line(*row) for row in rows if not row[0].claimed]
    parts = [markdown_table(_HEADINGS, claimed)] if claimed else []
    if others:
        parts += ["Not covered, and no table claims it:", markdown_table(_HEADINGS, others)]
    return "\n\n".join(parts)


def _line(scenario: Scenario, found: Coverage) -> tuple[str, ...]:
    return (
        scenario.name,
        f"{scenario.samples:,}",
        str(scenario.chips),
        str(scenario.trainings),
        *(f"{100 * held:.1f} %" for held in (found.error, found.star)),
        f"{100 * found.half:.2f}",
        f"{100 * found.chips_alone:.1f} %",
    )


def section() -> str:
    """Return what docs/a-star.md shows of the committed record; "" without one."""
    parts = []
    for record in of_kind("intervals")[:1]:
        held = [x for scenario, found in rows_of(record) if scenario.claimed for x in found[:2]]
        parts += [
            f"{record.arguments['sets']:,} data sets for each line. Intervals at 95 % hold the "
            f"truth in so many of them; where a table claims to cover the case, in "
            f"{100 * min(held):.1f} to {100 * max(held):.1f} %:",
            tables(record),
            f"{link(record, LINK)}: `{record.shown_command}`.",
        ]
    return "\n\n".join(parts)
