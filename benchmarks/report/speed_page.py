"""docs/speed.md: a table or a sentence for each question of a reader, from all records."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from benchmarks.report.record import Record, link
from benchmarks.report.speed import growth_rows, row_of
from benchmarks.report.speed_columns import Column, Shown, shown
from benchmarks.report.speed_figure import image_of
from benchmarks.report.speed_tables import holdings_table, number, shares_of, table
from benchmarks.speed import targets
from benchmarks.speed.targets import TARGETS, Target

_CHIPS = ("bert-program", "bert-drift", "wrn-chip", "cnn-chip", "mlp-chip")

_PASSES = tuple(
    group for group in targets.GROUPS if group.endswith(("-forward", "-forward-many", "-training"))
)

_UNITS = {targets.RATIO: " x", targets.FASTER: " x", targets.SECONDS: " s"}

_REMOVED = ("--record", "--docs")
"""Options in the commands of old records that are gone; each has a value."""


# --- results against targets ----------------------------------------------------------------------


def _bounds(target: Target, compiled: bool, unit: str = "") -> str:
    known = [bound for bound in target.bounds(compiled) if bound is not None]
    return ", ".join(f"{number(bound)}{unit}" for bound in known) or "-"


def _results(page: Shown, rows: Sequence[Target]) -> str:
    """Return the table of some targets; those without a result have no row."""
    rows = [target for target in rows if any(column.row(target) for column in page.columns)]
    columns = [column for column in page.columns if any(column.row(target) for target in rows)]
    apart = any(target.eager is not None for target in rows)
    lines = []
    for target in rows:
        line = {"work": target.work}
        for column in columns:
            found = column.row(target)
            line[page.heading(column)] = (
                "-"
                if found is None
                else page.cell(number(found[0]["value"]), found[0], column, found[1])
            )
            if apart and not column.on_gpu:
                line[f"must, aim of {column.kind}"] = _bounds(target, column.compiled)
        if not apart:
            line["must"] = _bounds(target, compiled=True)
        lines.append(line)
    return table(lines) if lines else ""


def slower(page: Shown) -> str:
    """Return how many times longer than digital networks take.

    Args:
        page: The records.
    """
    ratio = [target for target in TARGETS if target.kind == targets.RATIO]
    return _results(page, [target for target in ratio if not target.group.startswith("goal-")])


def faster(page: Shown) -> str:
    """Return how many times faster than aihwkit and aihwkit-lightning networks are.

    Args:
        page: The records.
    """
    ratio = [target for target in TARGETS if target.kind == targets.FASTER]
    return _results(page, [target for target in ratio if target.group not in _CHIPS])


def studies(page: Shown) -> str:
    """Return the time of whole studies.

    Args:
        page: The records.
    """
    lines = []
    for column in page.columns:
        for target in TARGETS:
            found = column.row(target) if target.group.startswith("goal-") else None
            if found is None:
                continue
            row, record = found
            unit = _UNITS[target.kind]
            result = page.cell(f"{number(row['value'])}{unit}", row, column, record)
            against = row_of(replace(target, kind=targets.RATIO, base=targets.DIGITAL), record)
            if target.kind == targets.SECONDS and against is not None:
                result += f", {number(against['value'])} x"
            group = next(group for group, of in column.groups(target.group) if of is record)
            name = f"{group.work}, bfloat16" if "bfloat16" in target.side else group.work
            line = {"study": name, "on": page.heading(column), "result": result}
            lines.append({**line, "must": _bounds(target, column.compiled, unit)})
    return table(lines) if lines else ""


def chips(page: Shown) -> str:
    """Return the seconds of programming and drift, and how many times faster than aihwkit they are.

    Args:
        page: The records.
    """
    lines = []
    for name in _CHIPS:
        rows = [target for target in TARGETS if target.group == name]
        found = {page.heading(column): _chip(page, rows, column) for column in page.columns}
        bounds = (
            _bounds(target, True, _UNITS[target.kind]) for target in rows if target.must is not None
        )
        if any(found.values()):
            work = rows[0].work.partition(", against")[0]
            lines.append({"work": work, **found, "must, aim": "; ".join(bounds)})
    headings = list(map(page.heading, page.columns))
    names = ["work", *(name for name in headings if any(line[name] for line in lines)), "must, aim"]
    parts = [table({name: line[name] or "-" for name in names} for line in lines)] if lines else []
    return "\n\n".join([*parts, *_sweeps(page)])


def _chip(page: Shown, rows: Sequence[Target], column: Column) -> str:
    """Return the seconds of a chip, and the ratio to aihwkit's C++ tile where it was measured.

    Records of compiled models have chips that were drawn eagerly, too. They stand in for an eager
    record that has none.
    """
    group, texts = rows[0].group, []
    for kind in (targets.SECONDS, targets.FASTER):
        plain = Target(group, group, targets.NATIVE, "", kind, targets.CPP)
        target = next((row for row in rows if row.kind == kind), plain)
        found = column.row(target)
        if found is None and not column.compiled:
            eager = replace(target, side=targets.EAGER, must=None)
            others = (other for other in page.columns if other.where == column.where)
            found = next((row for other in others if (row := other.row(eager))), None)
        if found is not None:
            measured, record = found
            text = number(measured["value"]) + _UNITS[kind]
            texts.append(page.cell(text, measured, column, record))
    return ", ".join(texts)


def _sweeps(page: Shown) -> list[str]:
    (target,) = (target for target in TARGETS if target.kind == targets.SUM)
    found = [(column, row) for column in page.columns if (row := column.row(target))]
    texts = [
        page.cell(number(row["value"]), row, column, record) + f" ({page.heading(column)})"
        for column, (row, record) in found
    ]
    must = _bounds(target, compiled=True)
    text = f"Times that a sweep takes, over the sum of its parts (must {must}): "
    return [f"{text}{'; '.join(texts)}."] if texts else []


def missed(page: Shown) -> str:
    """Return how many targets are met, and which were not measured.

    Args:
        page: The records.
    """
    lines = []
    for column in page.columns:
        found = [row for target in TARGETS if (row := column.row(target))]
        verdicts = [row["verdict"] for row, _ in found if row["verdict"]]
        met = sum(verdict != "not met" for verdict in verdicts)
        if verdicts:
            lines.append(f"- {column.name}: {met} of {len(verdicts)} are met.")
    absent = [
        target.work
        for target in TARGETS
        if target.must is not None and not any(column.row(target) for column in page.columns)
    ]
    if absent and page.columns:
        lines.append(f"- Not measured: {'; '.join(absent)}.")
    return "\n".join(lines)


# --- growth, memory, parts ------------------------------------------------------------------------


def grown(page: Shown) -> str:
    """Return how time and memory grow, as exponents, and the figure.

    Args:
        page: The records.
    """
    if not page.growth:
        return ""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for record in page.growth:
        kept = ", memory kept" if record.hardware.get("allocator") else ""
        time = f"time{kept} ({page.letter(record)})"
        for row in growth_rows(record):
            key = (row["operation"], row["family"])
            names = {"operation": row["operation"], "against": row["family"], "from": row["sizes"]}
            line = lines.setdefault(key, names)
            text = f"{row['exponent']:.2f}".replace("-0.00", "0.00")
            text = f"**{text}**" if row["verdict"] == "faster" else text
            if row["what"] == "time":
                line[time] = text
            else:
                line.setdefault(row["what"], text)
    columns = dict.fromkeys(name for line in lines.values() for name in line)
    ordered = sorted(columns, key=("peak memory", "memory held").__contains__)
    filled = [{name: line.get(name, "-") for name in ordered} for line in lines.values()]
    return f"{table(filled)}\n\n![cost against size]({image_of(page.growth[0])})"


def held(page: Shown) -> str:
    """Return the memory that a converted model and its chip hold.

    Args:
        page: The records.
    """
    for record in page.growth:
        if text := holdings_table(record):
            return f"Record {page.letter(record)}:\n\n{text}"
    return ""


def spent(page: Shown) -> str:
    """Return where the time of passes goes, and their peak memory.

    Args:
        page: The records.
    """
    for column in reversed(page.columns):
        lines = []
        for name in _PASSES:
            for group, record in column.groups(name):
                digital, native = group.of(targets.DIGITAL), group.of(targets.NATIVE)
                shares = shares_of(native[0], group) if native else {}
                if shares:
                    peaks = [side.peak for side in (digital[0], native[0])]
                    shown_peaks = ["-" if peak is None else number(peak / 1e6) for peak in peaks]
                    other = "" if record is column.records[0] else f" ({page.letter(record)})"
                    line = {"work": group.work + other, **shares}
                    lines.append({**line, "peak, MB": ", ".join(shown_peaks)})
                    break
        if lines:
            return f"{page.heading(column)}:\n\n{table(lines)}"
    return ""


# --- records --------------------------------------------------------------------------------------


def command_of(record: Record) -> str:
    """Return the command that measures a record again, with today's options.

    Args:
        record: The record.
    """
    words, kept = iter(shlex.split(record.command)), []
    for word in words:
        if word in (*_REMOVED, "--out"):
            next(words)
        else:
            kept.append(word)
    settings: Mapping[str, str] = record.hardware.get("allocator") or {}
    before = [f"{name}={value}" for name, value in settings.items()]
    return shlex.join([*before, *kept, "--out", f"runs/{record.name.removeprefix('speed-')}"])


def measured(page: Shown) -> str:
    """Return what was measured, on which machine, and how to repeat it.

    Args:
        page: The records.
    """
    lines = []
    for record in page.records:
        machine, versions = record.hardware, record.versions
        on = machine["gpu"] if record.arguments["device"] == "cuda" else machine["cpu"]
        names = ("torch", "aihwkit", "aihwkit-lightning")
        software = [f"{n} {versions[n]}" for n in names if versions[n] != "not installed"]
        integers = {None: "-", True: "yes", False: "no"}[record.extra.get("integers")]
        lines.append(
            {
                "record": f"{page.letter(record)}: {link(record)}",
                "machine, threads, load before": f"{on}, {machine['torch_threads']}, "
                f"{machine['load_before']}",
                "versions": ", ".join(software),
                "integers": integers,
                "command": f"`{command_of(record)}`",
            }
        )
    return table(lines) if lines else ""


SECTIONS: dict[str, Callable[[Shown], str]] = {
    "speed": slower,
    "speed of studies": studies,
    "speed against others": faster,
    "speed of chips": chips,
    "growth": grown,
    "memory": held,
    "parts": spent,
    "records of speed": measured,
    "targets of speed": missed,
}
"""The generated sections of docs/speed.md, by the names of their marks."""


def section(name: str) -> str:
    """Return a generated section from the committed records; "" without records.

    Args:
        name: One of `SECTIONS`.
    """
    return SECTIONS[name](shown())
