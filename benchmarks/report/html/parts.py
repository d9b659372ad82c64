"""Parts that the reports of several commands share: how to repeat, cost, coverage, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aimc_bridge import drawing
from aimc_bridge.times import label
from benchmarks.report import dots
from benchmarks.report.html.inline import Marks, drawn
from benchmarks.report.html.page import Chart, Section, Series, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CHIPS = Series("", "each chip", "--muted", chips=True)
SIZE = (4.3, 3.1)
_MOST = 40  # layers in one figure
_PHASES = {"direct": "direct conversion", "hwa": "hardware-aware"}


def repeat(about: Mapping[str, Any]) -> Section:
    """Return how to repeat a piece of work: command, seeds, versions, machine.

    Args:
        about: The contents of run.json.
    """
    arguments = about["arguments"]
    shown = {
        name: str(arguments[name])
        for name in ("seed", "seeds", "chips", "aihwkit_chips", "preset", "device", "precision")
        if arguments.get(name) is not None
    }
    facts = [
        *(["option", name, value] for name, value in shown.items()),
        *(["version", name, str(value)] for name, value in about["versions"].items()),
        *(["machine", name, text] for name, text in _machine(about["hardware"])),
    ]
    words = ["Chip i of a sweep has the seed of the run plus i: the same seed gives the same chip."]
    tables = [Table(["", "name", "value"], facts)]
    return Section("How to repeat", words, tables=tables, code=about["command"])


_MACHINE = {"memory_gb": "memory, GB", "torch_threads": "threads of torch", "gpu": "GPU"}


def _machine(hardware: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of each fact about a machine; what it does not have is left out."""
    facts = []
    for name, value in hardware.items():
        if isinstance(value, Mapping):  # environment variables of the allocator
            value = " ".join(f"{key}={text}" for key, text in value.items())
        if value not in (None, ""):
            facts.append((_MACHINE.get(name, name), str(value)))
    return facts


def cost(studies: Mapping[str, Mapping[str, Any]]) -> Section | None:
    """Return what each part of a run took; None if no part was timed.

    Args:
        studies: The facts of each task.
    """
    rows = []
    for task, study in studies.items():
        seconds = study.get("wall_s", {})
        rows += [[task, part, f"{value:,.1f}"] for part, value in seconds.items()]
        if len(seconds) > 1:
            rows.append([task, "all parts", f"{sum(seconds.values()):,.1f}"])
    if not rows:
        return None
    cut = [part for study in studies.values() for part in study.get("interrupted", ())]
    words = [f"An interruption cut these in two: {', '.join(cut)}."] if cut else []
    return Section("Cost", words, tables=[Table(["task", "part", "seconds"], rows)])


def coverage(studies: Mapping[str, Mapping[str, Any]], command: str) -> Section:
    """Return what of each network's work is on tiles, and what is not, and why.

    Args:
        studies: The facts of each task.
        command: What would record it, if it is not there.
    """
    words, tables = [], []
    for study in studies.values():
        if "coverage" not in study:
            continue
        known = study["coverage"]
        rows = [dict(zip(known["columns"], row, strict=True)) for row in known["rows"]]
        total = sum(row["macs"] for row in rows)
        analog = sum(row["macs"] for row in rows if row["where"] == "analog")
        share = f"{100 * analog / total:.1f} %" if total else "?"
        words.append(
            f"{study['model']}: {share} of the multiplications are on {study['tiles']:,} tiles, "
            f"with {study['analog_weights']:,} weights."
        )
        cells = [
            [row["module"], row["where"], f"{row['tiles']:,}"]
            + [f"{100 * row['macs'] / total:.2f} %" if total else "?", row["reason"]]
            for row in sorted(rows, key=lambda row: row["where"], reverse=True)
        ]
        columns = ["layer", "where", "tiles", "share of multiplications", "reason"]
        caption = f"{study['model']}: what is digital comes first"
        tables.append(Table(columns, cells, caption))
    if not words:
        for study in studies.values():
            if "tiles" in study and "analog_weights" in study:
                words.append(
                    f"{study['model']}: {study['analog_weights']:,} weights on {study['tiles']} "
                    "tiles."
                )
        words.append(f"The share of the multiplications was not recorded; {command} records it.")
    return Section("What is on tiles", words, tables=tables)


def layers(studies: Mapping[str, Mapping[str, Any]], command: str) -> Section:
    """Return compensation factors and MVM errors of the layers.

    Args:
        studies: The facts of each task.
        command: What would record them, if they are not there.
    """
    charts = []
    for task, study in studies.items():
        for phase, known in study.get("layers", {}).items():
            if not known:
                continue
            for quantity, name, scale in (
                ("mvm_error", "MVM error, % (lower is better)", 100.0),
                ("alpha", "drift compensation factor", 1.0),
            ):
                title = f"{study['model']}, {_PHASES.get(phase, phase)}"
                chart = _layers(known, quantity, name, scale, f"{task}-{phase}-{quantity}-")
                charts.append(Chart(chart[0], f"{title}: {name}", _ONE.format(known), chart[1]))
    if not charts:
        text = f"Compensation and MVM error of each layer were not recorded; {command} records them"
        return Section("Layer by layer", [f"{text}."])
    words = [
        "MVM error: |y - exact| / |exact| of a layer's products with inputs from validation data, "
        "biases left out. The factor multiplies what a layer's tiles give, mean over its outputs."
    ]
    return Section("Layer by layer", words, charts)


_ONE = "one chip, of seed {0[seed]}, native engine"


def _layers(
    known: Mapping[str, Any], quantity: str, name: str, scale: float, prefix: str
) -> tuple[str, list[Series]]:
    """Return the figure of one quantity of all layers, with a series per time."""
    names = known["layers"][:_MOST]
    times = [label(t_s) for t_s in known["times"]]

    def draw(axis: Axes, marks: Marks) -> None:
        for index, (when, values) in enumerate(zip(times, known[quantity], strict=True)):
            points = [
                dots.Dot(layer, scale * value) for layer, value in zip(names, values, strict=False)
            ]
            place = {"index": index, "count": len(times), "key": f"{prefix}{when}"}
            dots.draw(axis, points, name=when, mark=marks, **place)  # type: ignore[arg-type]
        axis.invert_yaxis()
        axis.set_xlabel(name)

    size = (SIZE[0], 1.0 + 0.26 * len(names))
    series = [
        Series(f"{prefix}{when}", when, f"--c{dots.colour(index)}", dots.marker(index), "")
        for index, when in enumerate(times)
    ]
    return drawn(size, prefix, draw, f"{name} of {len(names)} layers"), series


def named(curves: Sequence[Any], prefix: str = "") -> list[Series]:
    """Return a button per curve.

    Args:
        curves: The curves of a figure; see `aimc_bridge.curves.Curve`.
        prefix: What the keys of the series begin with.
    """
    colours = len(drawing.COLOURS)
    return [
        Series(
            f"{prefix}{curve.key}",
            curve.name,
            f"--c{curve.colour % colours}",
            curve.marker,
            curve.dash,
        )
        for curve in curves
    ]
