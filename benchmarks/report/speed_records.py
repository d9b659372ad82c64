"""Records of the speed benchmark: from measured groups and curves, and back.

A record of kind "speed" has one row per measured side of a work; the last cell has the seconds of
every repeat. A record of kind "growth" has one row per operation and size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from aimc_bridge.errors import DataError
from benchmarks.report.record import Record, read
from benchmarks.speed.groups import Group
from benchmarks.speed.growth import Curve, Point
from benchmarks.speed.timing import PARTS, Measured

FILE = "speed.json"
COLUMNS = ["group", "side", "size", "note", "peak", *PARTS, "seconds"]
GROWTH_COLUMNS = ["family", "operation", "n", "peak", "held", "seconds"]


def record_of_groups(groups: Sequence[Group], **about: Any) -> Record:
    """Make a record of measured groups.

    Args:
        groups: The groups.
        **about: The other fields of a record: name, command, arguments, versions, hardware; and
            `extra`, which has sizes and presets.
    """
    extra = about.pop("extra")
    rows: list[list[Any]] = []
    for group in groups:
        for side in group.sides:
            parts = [None if side.parts is None else side.parts[part] for part in PARTS]
            row = [group.name, side.name, side.size, side.note, side.peak, *parts, side.seconds]
            rows.append(row)
    facts = [
        {name: value for name, value in vars(group).items() if name != "sides"} for group in groups
    ]
    return Record("speed", **about, columns=COLUMNS, rows=rows, extra={**extra, "groups": facts})


def groups_of(record: Record) -> list[Group]:
    """Return the measured groups of a record.

    Args:
        record: A record of the speed benchmark; one of kind "growth" has no groups.
    """
    sides: dict[str, list[Measured]] = {}
    if record.kind == "speed":
        for name, side, size, note, peak, *parts, seconds in record.rows:
            shares = None if None in parts else dict(zip(PARTS, parts, strict=True))
            measured = Measured(side, size, note, list(seconds), peak, shares)
            sides.setdefault(name, []).append(measured)
    facts = record.extra.get("groups", [])
    return [Group(**group, sides=sides.get(group["name"], [])) for group in facts]


def record_of_curves(curves: Sequence[Curve], held: Mapping[str, Any], **about: Any) -> Record:
    """Make a record of cost against size.

    Args:
        curves: The measured curves.
        held: Bytes that models hold beside their weights, by model and stage.
        **about: As in `record_of_groups`.
    """
    extra = about.pop("extra")
    rows = [
        [curve.family, curve.operation, point.n, point.peak, point.held, point.seconds]
        for curve in curves
        for point in curve.points
    ]
    extra = {**extra, "held": dict(held)}
    return Record("growth", **about, columns=GROWTH_COLUMNS, rows=rows, extra=extra)


def curves_of(record: Record) -> list[Curve]:
    """Return the measured curves of a record.

    Args:
        record: A record of the speed benchmark; one of kind "speed" has no curves.
    """
    curves: dict[tuple[str, str], Curve] = {}
    if record.kind == "growth":
        for family, operation, n, peak, held, seconds in record.rows:
            curve = curves.setdefault((family, operation), Curve(family, operation))
            curve.points.append(Point(n, list(seconds), peak, held))
    return list(curves.values())


def record_of(folder: Path, name: str) -> Record:
    """Read the folder of a finished measurement as a record.

    Args:
        folder: The `--out` of the speed benchmark.
        name: What the record is called.

    Raises:
        DataError: If the folder holds no finished measurement.
    """
    record = read(folder / FILE)
    if not record.extra.get("finished", True):
        raise DataError(f"{folder} is not finished; go on with it (--resume)")
    extra = {key: value for key, value in record.extra.items() if key != "finished"}
    return replace(record, name=name, extra=extra)
