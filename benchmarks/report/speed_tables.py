"""The tables of one record of the speed benchmark, and the summary of a finished folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from aimc_bridge import files
from benchmarks.report.record import Record, digest, of_kind, read, write
from benchmarks.report.speed import growth_rows, rows_of
from benchmarks.report.speed_figure import draw
from benchmarks.report.speed_records import FILE, groups_of
from benchmarks.report.tables import markdown
from benchmarks.speed import memory, targets
from benchmarks.speed.groups import Group
from benchmarks.speed.timing import Measured, at_size, quartiles, ratios


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


def table(rows: Iterable[Mapping[str, object]]) -> str:
    """Return rows of text as a Markdown table.

    Args:
        rows: The rows, which have the same columns.
    """
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
    return table(
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
    return table(rows) if rows else ""


def parts_table(record: Record) -> str:
    """Return where the time of each side goes, as shares of the digital side's time.

    It is "" if this was not measured.

    Args:
        record: A record of the speed benchmark.
    """
    rows = [
        {"work": group.work, "side": side.name, **shares}
        for group in groups_of(record)
        for side in group.sides
        if (shares := shares_of(side, group))
    ]
    return table(rows) if rows else ""


def shares_of(side: Measured, group: Group) -> dict[str, str]:
    """Return where the time of a side goes, as shares of the digital side's time.

    What is left of the side's median is Python and calls.

    Args:
        side: The side.
        group: Its group.

    Returns:
        Kind of operation -> the share; empty if this was not measured.
    """
    digital = group.of(targets.DIGITAL)
    if side.parts is None or not digital:
        return {}
    base = _median(digital[0])
    shares = {kind: f"{value / base:.2f}" for kind, value in side.parts.items()}
    left = max(0.0, _median(side) - sum(side.parts.values()))
    return {**shares, "calls": f"{left / base:.2f}"}


def _median(side: Measured) -> float:
    return quartiles([value for value in side.seconds if value is not None])[1]


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
        else table(
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
    return table([*rows, {"model": "at most", **bounds}])


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


def _skipped(line: str, elsewhere: Mapping[str, str]) -> str:
    """Return why a side was not measured, or where it was if its package was not there."""
    side, _, reason = line.partition(": ")
    if reason.startswith("not installed") and side in elsewhere:
        return f"{side}: see {elsewhere[side]}"
    return line


def details(records: Sequence[Record] | None = None) -> str:
    """Return the summaries of records, with every side, one after another; "" without records.

    Args:
        records: The records; None is all that are committed.
    """
    records = of_kind("speed", "growth") if records is None else records
    elsewhere = {
        side.name: record.name
        for record in records
        for group in groups_of(record)
        for side in group.sides
    }
    parts = (f"### {record.name}\n\n{summary(record, None, elsewhere)}" for record in records)
    return "\n\n".join(parts)


# --- a finished folder ----------------------------------------------------------------------------


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
