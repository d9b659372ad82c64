"""Records of the speed benchmark, the tables made from them, and docs/speed.md.

A record keeps the command, versions, hardware, sizes, presets and every repeat. Nothing that is
shown is stored: rows, verdicts, exponents and figures are computed from it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from aimc_bridge.errors import DataError, UsageError
from benchmarks.files import replace_file
from benchmarks.report.tables import markdown
from benchmarks.speed import goals, growth, holding, targets
from benchmarks.speed.groups import Group
from benchmarks.speed.growth import Curve
from benchmarks.speed.targets import TARGETS, Target
from benchmarks.speed.timing import Measured, at_size, quartiles, ratios

FOLDER = Path(__file__).parent.parent / "records"
DOCS = Path(__file__).parent.parent.parent / "docs"
PREFIX = "speed-"
MARKS = ("<!-- speed -->", "<!-- /speed -->")
KEYS = ("name", "kind", "command", "size", "device", "versions", "hardware", "sizes", "presets")

Record = dict[str, Any]


# --- files ----------------------------------------------------------------------------------------


def write(record: Record, file: Path) -> Path:
    """The record as JSON, a list of repeats a line."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    numbers = r"(?:-?[\d.e+-]+|null)"
    text = re.sub(
        rf"\[\s+({numbers}(?:,\s+{numbers})*)\s+\]",
        lambda found: "[" + re.sub(r"\s+", " ", found.group(1)) + "]",
        text,
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    replace_file(file, text + "\n")
    return file


def read(file: Path) -> Record:
    """A record.

    Raises:  DataError where it is damaged or none of this benchmark.
    """
    try:
        record: Record = json.loads(file.read_text())
        missing = [key for key in KEYS if key not in record]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file} is not a record ({error}); make it anew") from None
    if missing:
        raise DataError(f"{file} lacks {', '.join(missing)}; make it anew with --record")
    return record


def record_file(name: str) -> Path:
    """Where the record of that name belongs.

    Raises:  UsageError for a name that is not a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UsageError(
            f"--record {name!r}; allowed: letters, digits, points, dashes, underscores"
        )
    return FOLDER / f"{PREFIX}{name}.json"


def groups_of(record: Record) -> list[Group]:
    """The measured groups."""
    return [Group.from_dict(group) for group in record.get("groups", [])]


def curves_of(record: Record) -> list[Curve]:
    """The measured curves."""
    return [Curve.from_dict(curve) for curve in record.get("growth", [])]


# --- rows -----------------------------------------------------------------------------------------


def values_of(target: Target, group: Group) -> list[float] | None:
    """The row's number, once a round; None where a side was not measured."""
    if target.kind == targets.SUM:
        return _sums(group)
    parts, base = group.of(target.side), group.of(target.base)
    if not parts or (target.kind != targets.SECONDS and not base):
        return None
    mine = at_size(parts, group.size)
    if target.kind == targets.SECONDS:
        return [value for value in mine if value is not None]
    theirs = at_size(base, group.size)
    found = ratios(theirs, mine) if target.kind == targets.FASTER else ratios(mine, theirs)
    return found or None


def _sums(group: Group) -> list[float]:
    """A sweep's seconds over those of its parts, each part at its median."""
    middle = {}
    for side in group.sides:
        middle[side.name] = quartiles([s for s in side.seconds if s is not None])[1]
    chips, times = group.about["chips"], group.about["times"]
    parts = chips * middle["program"] + chips * times * (middle["drift"] + middle["forward"])
    return [middle["sweep"] / parts]


def judged(target: Target, group: Group, record: Record) -> bool:
    """Whether the target was stated for such a measurement.

    Goals are for a GPU at full size, the others for a CPU; seconds for the full size only, ratios
    for the reduced one too.
    """
    gpu = record["device"] == "cuda"
    if record["size"] not in ("full", "quick"):
        return False
    if target.group.startswith("goal-"):
        return gpu and record["size"] == "full" and group.about == goals.SIZES
    return not gpu and (record["size"] == "full" or target.kind != targets.SECONDS)


def rows_of(record: Record) -> list[dict[str, Any]]:
    """A row a target that the record can speak of, and its verdict."""
    groups = {group.name: group for group in groups_of(record)}
    rows = []
    for target in TARGETS:
        group = groups.get(target.group)
        values = None if group is None else values_of(target, group)
        if group is None or values is None:
            continue
        low, middle, high = quartiles(values)
        rows.append(
            {
                "row": target.row,
                "work": target.work,
                "kind": target.kind,
                "value": middle,
                "low": low,
                "high": high,
                "repeats": len(values),
                "must": target.must,
                "aim": target.aim,
                "verdict": target.verdict(middle) if judged(target, group, record) else "",
            }
        )
    return rows


def failures(record: Record) -> list[str]:
    """Targets not met, and costs that grow faster than linearly; at full size only."""
    if record["size"] != "full":
        return []
    failed = [row["row"] for row in rows_of(record) if row["verdict"] == "not met"]
    failed += [row["cost"] for row in growth_rows(record) if row["verdict"] == "faster"]
    return failed


# --- tables ---------------------------------------------------------------------------------------


def number(value: float | None) -> str:
    """Three digits, "-" for None."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(low: float, high: float) -> str:
    return f"[{number(low)}, {number(high)}]"


def _table(rows: Iterable[dict[str, Any]]) -> str:
    import pandas as pd

    return markdown(pd.DataFrame(list(rows), dtype=object))


def targets_table(record: Record) -> str:
    """Results against targets; "" where no group was measured."""
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
    """Every side: seconds of the whole work, ratio to digital, peak memory, what is left out."""
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
    """Where the time of each side goes, in shares of the digital side's; "" where not measured."""
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
    """A row a curve and cost: range, exponent, verdict ("linear or less", "faster")."""
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
    """Exponents of every cost; "" where none was measured."""
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
    """What models hold beside their weights on tiles, over these; "" where it was not measured."""
    held: dict[str, dict[str, float]] = record.get("held", {})
    if not held:
        return ""
    rows = [
        {"model": name, **{stage: f"{value:.2f}" for stage, value in stages.items()}}
        for name, stages in held.items()
    ]
    bounds = {stage: number(bound) for stage, bound in holding.BOUNDS.items()}
    return _table([*rows, {"model": "at most", **bounds}])


def summary(record: Record, figure: str | None = None) -> str:
    """All that a record says, as Markdown without a title."""
    machine, versions = record["hardware"], record["versions"]
    where = f"{machine['cpu']}, {machine['torch_threads']} threads"
    if record["device"] == "cuda":
        where = machine["gpu"]
    software = ", ".join(
        f"{name} {versions[name]}" for name in ("torch", "aihwkit", "aihwkit-lightning", "python")
    )
    parts = [
        f"`{record['command']}` on {where} ({machine['cores']} cores, load before "
        f"{machine['load_before']}); {software}."
    ]
    told = machine.get("allocator")
    if told:
        settings = ", ".join(f"`{name}={value}`" for name, value in told.items())
        parts.append(f"With {settings} in the environment.")
    if record.get("compiled"):
        parts.append("Native models run compiled (`aimc_bridge.native.compiled`) in all rows.")
    if record["size"] != "full":
        parts.append(_REDUCED[record["size"]])
    skipped = [line for group in groups_of(record) for line in group.skipped]
    parts += [targets_table(record), sides_table(record)]
    if skipped:
        parts.append("Not measured: " + "; ".join(dict.fromkeys(skipped)) + ".")
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


def digest(record: Record) -> str:
    """What a figure is made of, as a hash that it carries."""
    return hashlib.sha256(json.dumps(record.get("growth", [])).encode()).hexdigest()


def figure(record: Record, file: Path) -> None:
    """Seconds and peak memory against every size, both axes logarithmic, with a line of slope 1."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    curves = curves_of(record)
    families = list(dict.fromkeys(curve.family for curve in curves))
    fig, axes = plt.subplots(
        2, len(families), figsize=(3.2 * len(families), 6), constrained_layout=True, squeeze=False
    )
    for column, family in enumerate(families):
        mine = [curve for curve in curves if curve.family == family]
        for row, (cost, unit, scale) in enumerate(
            (("time", "s", 1.0), ("peak memory", "MB", 1e-6))
        ):
            panel = axes[row][column]
            highest: list[Sequence[float]] = []
            for curve in mine:
                values = [value * scale for value in curve.costs().get(cost, [])]
                if values:
                    panel.plot(curve.sizes(), values, "o-", label=curve.operation, markersize=3)
                    highest.append(values)
            if highest:
                sizes, top = mine[0].sizes(), max(highest, key=lambda values: values[-1])
                line = [top[-1] * size / sizes[-1] for size in sizes]
                panel.plot(sizes, line, ":", color="grey", label="linear")
                panel.set_xscale("log", base=2)
                panel.set_yscale("log")
                panel.legend(fontsize=7)
            panel.set_xlabel(family)
            panel.set_ylabel(f"{cost}, {unit}")
            panel.grid(alpha=0.3)
    file.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(file, dpi=110, metadata={"Description": digest(record)})
    plt.close(fig)


# --- docs/speed.md --------------------------------------------------------------------------------


def files(folder: Path | None = None) -> list[Path]:
    """The committed records of this benchmark."""
    return sorted((FOLDER if folder is None else folder).glob(f"{PREFIX}*.json"))


def section(folder: Path | None = None) -> str:
    """What docs/speed.md says of the committed records."""
    parts = []
    for file in files(folder):
        record = read(file)
        image = f"figures/{file.stem}.png" if record.get("growth") else None
        parts.append(f"### {file.stem}\n\n{summary(record, image)}")
    return "\n\n".join(parts) or "No record yet."


def write_docs(folder: Path | None = None, docs: Path | None = None) -> Path:
    """Put the records' tables and figures into docs/speed.md.

    Raises:  DataError where the page has no marks for them.
    """
    docs = DOCS if docs is None else docs
    page = docs / "speed.md"
    text = page.read_text()
    begin, end = MARKS
    if text.count(begin) != 1 or text.count(end) != 1:
        raise DataError(f"{page} needs {begin} and {end}, once each")
    before, _, rest = text.partition(begin)
    after = rest.partition(end)[2]
    replace_file(page, f"{before}{begin}\n\n{section(folder)}\n\n{end}{after}")
    for file in files(folder):
        record = read(file)
        if record.get("growth"):
            figure(record, docs / "figures" / f"{file.stem}.png")
    return page
