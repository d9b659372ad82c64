"""The speed benchmark: tables and figures from its records, and docs/speed.md.

The records have only the repeats: results, verdicts, exponents and figures are computed from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from aimc_bridge import drawing, files
from benchmarks.report import figures
from benchmarks.report.record import Record, digest, of_kind, read, write
from benchmarks.report.speed_records import FILE, curves_of, groups_of
from benchmarks.report.tables import markdown
from benchmarks.speed import goals, growth, memory, targets
from benchmarks.speed.groups import Group
from benchmarks.speed.targets import TARGETS, Target
from benchmarks.speed.timing import Measured, at_size, quartiles, ratios

# --- rows -----------------------------------------------------------------------------------------


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
        return gpu and size == "full" and group.about == goals.SIZES
    return not gpu and (size == "full" or target.kind != targets.SECONDS)


def rows_of(record: Record) -> list[dict[str, Any]]:
    """Return one row per target that the record has the sides for, with its verdict.

    Args:
        record: A record of kind "speed".
    """
    groups = {group.name: group for group in groups_of(record)}
    rows = []
    for target in TARGETS:
        group = groups.get(target.group)
        values = None if group is None else values_of(target, group)
        if group is None or values is None:
            continue
        low, middle, high = quartiles(values)
        compiled = bool(record.arguments["compiled"])
        must, aim = target.bounds(compiled)
        judge = partial(target.verdict, middle, compiled=compiled)
        rows.append(
            {
                "row": target.row,
                "work": target.work,
                "kind": target.kind,
                "value": middle,
                "low": low,
                "high": high,
                "repeats": len(values),
                "must": must,
                "aim": aim,
                "verdict": judge() if judged(target, group, record) else "",
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


# --- tables ---------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Return a number with three digits, and "-" for None.

    Args:
        value: The number.
    """
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def _table(rows: Iterable[dict[str, Any]]) -> str:
    import pandas as pd

    return markdown(pd.DataFrame(list(rows), dtype=object))


def targets_table(record: Record) -> str:
    """Return the results against their targets; "" if no group was measured.

    Args:
        record: A record of the speed benchmark.
    """
    rows = rows_of(record)
    if not rows:
        return ""
    return _table(
        {
            "work": row["work"],
            "result": f"{number(row['value'])} {row['kind']}",
            "quartiles": _spread(row["low"], row["high"]),
            "repeats": row["repeats"],
            "must": number(row["must"]),
            "aim": number(row["aim"]),
            "verdict": row["verdict"] or "-",
        }
        for row in rows
    )


def sides_table(record: Record) -> str:
    """Return the table of all sides.

    It has the seconds of the whole work, the ratio to digital, peak memory, and what is left out.

    Args:
        record: A record of the speed benchmark.
    """
    rows = []
    for group in groups_of(record):
        digital = at_size(group.of(targets.DIGITAL), group.size) if group.of("digital") else None
        for name in dict.fromkeys(side.name for side in group.sides):
            parts = group.of(name)
            seconds = at_size(parts, group.size)
            low, middle, high = quartiles([s for s in seconds if s is not None])
            times = ratios(seconds, digital) if digital is not None else []
            rows.append(
                {
                    "work": group.work,
                    "side": name,
                    "seconds": number(middle),
                    "quartiles": _spread(low, high),
                    "x digital": number(quartiles(times)[1]) if times else "-",
                    "peak MB": "-" if parts[0].peak is None else number(parts[0].peak / 1e6),
                    "note": parts[0].note or "-",
                }
            )
    return _table(rows) if rows else ""


def parts_table(record: Record) -> str:
    """Return where the time of each side goes, as shares of the digital side's time.

    It is "" if this was not measured.

    Args:
        record: A record of the speed benchmark.
    """
    rows = []
    for group in groups_of(record):
        digital = group.of(targets.DIGITAL)
        base = _median(digital[0]) if digital else None
        for side in group.sides:
            if side.parts is None or base is None:
                continue
            spent = sum(side.parts.values())
            whole = _median(side)
            rows.append(
                {
                    "work": group.work,
                    "side": side.name,
                    **{kind: f"{value / base:.2f}" for kind, value in side.parts.items()},
                    "calls": f"{max(0.0, whole - spent) / base:.2f}",
                }
            )
    return _table(rows) if rows else ""


def _median(side: Measured) -> float:
    return quartiles([value for value in side.seconds if value is not None])[1]


def growth_rows(record: Record) -> list[dict[str, Any]]:
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


def growth_table(record: Record) -> str:
    """Return the table of the exponents of all costs; "" if none was measured.

    Args:
        record: A record of the speed benchmark.
    """
    rows = growth_rows(record)

    def shown(value: float, unit: str) -> str:
        return f"{number(value)} s" if unit == "s" else f"{number(value / 1e6)} MB"

    return (
        ""
        if not rows
        else _table(
            {
                "cost": row["cost"],
                "sizes": row["sizes"],
                "at the first": shown(row["first"], row["unit"]),
                "at the last": shown(row["last"], row["unit"]),
                "exponent": f"{row['exponent']:.2f}",
                "verdict": row["verdict"],
            }
            for row in rows
        )
    )


def holdings_table(record: Record) -> str:
    """Return what models hold beside their weights on tiles, over the bytes of these.

    It is "" if this was not measured.

    Args:
        record: A record of the speed benchmark.
    """
    held: dict[str, dict[str, float]] = record.extra.get("held", {})
    if not held:
        return ""
    rows = [
        {"model": name, **{stage: f"{value:.2f}" for stage, value in stages.items()}}
        for name, stages in held.items()
    ]
    bounds = {stage: number(bound) for stage, bound in memory.BOUNDS.items()}
    return _table([*rows, {"model": "at most", **bounds}])


def summary(
    record: Record, figure: str | None = None, elsewhere: Mapping[str, str] | None = None
) -> str:
    """Return all that a record says, as Markdown without a title.

    Args:
        record: A record of the speed benchmark.
        figure: The path from the page to the figure; None for no figure.
        elsewhere: The record that measured a side, by the side's name, for what this one lacks.
    """
    machine, versions, arguments = record.hardware, record.versions, record.arguments
    where = f"{machine['cpu']}, {machine['torch_threads']} threads"
    if arguments["device"] == "cuda":
        where = machine["gpu"]
    names = ("torch", "aihwkit", "aihwkit-lightning", "python")
    software = ", ".join(f"{n} {versions[n]}" for n in names if versions[n] != "not installed")
    parts = [
        f"`{record.command}` on {where} ({machine['cores']} cores, load before "
        f"{machine['load_before']}); {software}."
    ]
    told = machine.get("allocator")
    if told:
        settings = ", ".join(f"`{name}={value}`" for name, value in told.items())
        parts.append(f"With {settings} in the environment.")
    if arguments["compiled"]:
        parts.append("Native models run compiled (`aimc_bridge.native.compiled`) in all rows.")
    if arguments["size"] != "full":
        parts.append(_REDUCED[arguments["size"]])
    skipped = [line for group in groups_of(record) for line in group.skipped]
    parts += [targets_table(record), sides_table(record)]
    if skipped:
        lines = (_skipped(line, elsewhere or {}) for line in dict.fromkeys(skipped))
        parts.append("Not measured: " + "; ".join(lines) + ".")
    shares = parts_table(record)
    if shares:
        parts += ["Where the time goes, digital = 1:", shares]
    parts += [growth_table(record), holdings_table(record)]
    if figure is not None:
        parts.append(f"![cost against size]({figure})")
    return "\n\n".join(part for part in parts if part)


_REDUCED = {
    "quick": "Reduced sizes (quick): the ratios are near those in full.",
    "tiny": "Tiny sizes: everything runs, no number means anything.",
}


# --- figure ---------------------------------------------------------------------------------------


def _skipped(line: str, elsewhere: Mapping[str, str]) -> str:
    """Return why a side was not measured, or where it was if its package was not there."""
    side, _, reason = line.partition(": ")
    if reason.startswith("not installed") and side in elsewhere:
        return f"{side}: see {elsewhere[side]}"
    return line


def draw(record: Record, path: Path, description: str, *, vector: bool = False) -> None:
    """Draw seconds and peak memory against every size, with a line of slope 1.

    Both axes are logarithmic.

    Args:
        record: A record of kind "growth".
        path: The file, .png.
        description: A text for the file's metadata.
        vector: Whether to write an SVG beside it.
    """
    measured = curves_of(record)
    families = list(dict.fromkeys(curve.family for curve in measured))
    operations = list(dict.fromkeys(curve.operation for curve in measured))
    drawn, axes = figures.new(2, len(families), (2.9 * len(families) + 2.2, 6.4))
    for column, family in enumerate(families):
        shown = [curve for curve in measured if curve.family == family]
        for row, (cost, unit, scale) in enumerate(
            (("time", "s", 1.0), ("peak memory", "MB", 1e-6))
        ):
            axis = axes[row][column]
            highest: list[Sequence[float]] = []
            for curve in shown:
                values = [value * scale for value in curve.costs().get(cost, [])]
                if values:
                    index = operations.index(curve.operation)
                    axis.plot(
                        *(curve.sizes(), values),
                        marker=drawing.MARKERS[index % len(drawing.MARKERS)],
                        linestyle=drawing.DASHES[index % len(drawing.DASHES)],
                        color=drawing.COLOURS[index % len(drawing.COLOURS)],
                        label=curve.operation,
                        markersize=4,
                    )
                    highest.append(values)
            if highest:
                sizes, top = shown[0].sizes(), max(highest, key=lambda values: values[-1])
                line = [top[-1] * size / sizes[-1] for size in sizes]
                axis.plot(sizes, line, lw=0.8, color=drawing.MUTED, label="linear (slope 1)")
                axis.set_xscale("log", base=2)
                axis.set_yscale("log")
            axis.set_xlabel(family)
            if column == 0:
                axis.set_ylabel(f"{cost}, {unit} (lower is better)")
    drawing.legend(drawn, axes.flat)
    machine = record.hardware.get("gpu") if record.arguments["device"] == "cuda" else None
    drawing.caption(drawn, ["medians of repeats", str(machine or record.hardware["cpu"])])
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save(drawn, path, dpi=110, description=description, vector=vector)


# --- a folder, a page -----------------------------------------------------------------------------


def save(folder: Path, record: Record) -> None:
    """Write speed.json, summary.md and, for growth, the figure.

    Args:
        folder: The folder.
        record: A record of the speed benchmark.
    """
    write(record, folder / FILE)
    image = "growth.png" if record.kind == "growth" else None
    if image is not None:
        draw(record, folder / image, digest(record), vector=True)
    files.write_text(folder / "summary.md", f"# Speed\n\n{summary(record, image)}\n")


def rebuild(folder: Path) -> None:
    """Write summary.md and the figure of a finished measurement again.

    Args:
        folder: The `--out` of the speed benchmark.

    Raises:
        DataError: If the folder holds no measurement.
    """
    save(folder, read(folder / FILE))


def image_of(record: Record) -> str:
    """Return the path from docs/ to the figure of a record.

    Args:
        record: A record of kind "growth".
    """
    return f"figures/{record.name}.png"


def section(records: Sequence[Record] | None = None) -> str:
    """Return the text between the marks of docs/speed.md; "" without records.

    Args:
        records: The records shown; None is all that are committed.
    """
    records = of_kind("speed", "growth") if records is None else records
    parts = []
    elsewhere = {
        side.name: record.name
        for record in records
        for group in groups_of(record)
        for side in group.sides
    }
    for record in records:
        image = image_of(record) if record.kind == "growth" else None
        parts.append(f"### {record.name}\n\n{summary(record, image, elsewhere)}")
    return "\n\n".join(parts)
