"""The numbers of a record of the speed benchmark: results, verdicts and exponents.

The records have only the repeats; all else is computed from them.
"""

from __future__ import annotations

from typing import Any

from benchmarks.report.record import Record
from benchmarks.report.speed_records import curves_of, groups_of
from benchmarks.speed import goals, growth, targets
from benchmarks.speed.groups import Group
from benchmarks.speed.targets import TARGETS, Target
from benchmarks.speed.timing import at_size, quartiles, ratios

Row = dict[str, Any]
"""A row of a table, with its numbers as they are."""


def values_of(target: Target, group: Group) -> list[float] | None:
    """Return the number of a row of targets, one per round.

    Args:
        target: The row.
        group: The group that it uses.

    Returns:
        The numbers, in the unit of the target's kind; None if a side was not measured.
    """
    if target.kind == targets.SUM:
        return _sums(group)
    parts, base = group.of(target.side), group.of(target.base)
    if not parts or (target.kind != targets.SECONDS and not base):
        return None
    seconds = at_size(parts, group.size)
    if target.kind == targets.SECONDS:
        return [value for value in seconds if value is not None]
    base_seconds = at_size(base, group.size)
    values = (
        ratios(base_seconds, seconds)
        if target.kind == targets.FASTER
        else ratios(seconds, base_seconds)
    )
    return values or None


def _sums(group: Group) -> list[float]:
    """Return a sweep's seconds over the summed medians of its parts."""
    middle = {}
    for side in group.sides:
        middle[side.name] = quartiles([s for s in side.seconds if s is not None])[1]
    chips, times = group.about["chips"], group.about["times"]
    parts = chips * middle["program"] + chips * times * (middle["drift"] + middle["forward"])
    return [middle["sweep"] / parts]


def judged(target: Target, group: Group, record: Record) -> bool:
    """Return whether a target was stated for such a measurement.

    Goals are for a GPU at full size, the other targets for a CPU. Targets in seconds hold for the
    full size only, ratios for the reduced size too.

    Args:
        target: The target.
        group: The group that it uses.
        record: The record, for its device and size.
    """
    gpu, size = record.arguments["device"] == "cuda", record.arguments["size"]
    if size not in ("full", "quick"):
        return False
    if target.group.startswith("goal-"):
        sizes = goals.STATED[target.group]
        return gpu and size == "full" and all(group.about[n] == goals.SIZES[n] for n in sizes)
    return not gpu and (size == "full" or target.kind != targets.SECONDS)


def row_of(target: Target, record: Record) -> Row | None:
    """Return the row of a target, with its verdict; None if a side of it was not measured.

    Args:
        target: The target.
        record: A record of kind "speed".
    """
    found = (group for group in groups_of(record) if group.name == target.group)
    group = next(found, None)
    values = None if group is None else values_of(target, group)
    if group is None or values is None:
        return None
    low, middle, high = quartiles(values)
    compiled = bool(record.arguments["compiled"])
    must, aim = target.bounds(compiled)
    verdict = target.verdict(middle, compiled=compiled) if judged(target, group, record) else ""
    return {
        "row": target.row,
        "work": target.work,
        "kind": target.kind,
        "value": middle,
        "low": low,
        "high": high,
        "repeats": len(values),
        "must": must,
        "aim": aim,
        "verdict": verdict,
    }


def rows_of(record: Record) -> list[Row]:
    """Return one row per target that the record has the sides for.

    Args:
        record: A record of kind "speed".
    """
    return [row for target in TARGETS if (row := row_of(target, record)) is not None]


def growth_rows(record: Record) -> list[Row]:
    """Return one row per curve and cost.

    Args:
        record: A record of the speed benchmark.

    Returns:
        The rows: the range of sizes, the cost at both ends, the exponent, and the verdict ("linear
        or less" or "faster").
    """
    rows = []
    for curve in curves_of(record):
        sizes = curve.sizes()
        for cost, values in curve.costs().items():
            slope = growth.exponent(sizes, values)
            rows.append(
                {
                    "family": curve.family,
                    "operation": curve.operation,
                    "what": cost,
                    "cost": f"{cost} of {curve.operation} against {curve.family}",
                    "sizes": f"{sizes[0]:g} to {sizes[-1]:g}",
                    "first": values[0],
                    "last": values[-1],
                    "unit": "s" if cost == "time" else "bytes",
                    "exponent": slope,
                    "verdict": "linear or less" if slope <= growth.LINEAR else "faster",
                }
            )
    return rows


def failures(record: Record) -> list[str]:
    """Return the targets that are not met, and costs that grow more than linearly.

    It is empty unless the record was measured at full size.

    Args:
        record: A record of kind "speed" or "growth".
    """
    if record.arguments["size"] != "full":
        return []
    failed = [row["row"] for row in rows_of(record) if row["verdict"] == "not met"]
    failed += [row["cost"] for row in growth_rows(record) if row["verdict"] == "faster"]
    return failed
