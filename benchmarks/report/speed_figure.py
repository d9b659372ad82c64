"""The figure of cost against size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aimc_bridge import drawing
from benchmarks.report import figures
from benchmarks.report.record import Record
from benchmarks.report.speed_records import curves_of


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
                drawing.log_axis(axis)
            axis.set_xlabel(family)
            if column == 0:
                axis.set_ylabel(f"{cost}, {unit} (lower is better)")
    drawing.legend(drawn, axes.flat)
    machine = record.hardware.get("gpu") if record.arguments["device"] == "cuda" else None
    drawing.caption(drawn, ["medians of repeats", str(machine or record.hardware["cpu"])])
    path.parent.mkdir(parents=True, exist_ok=True)
    figures.save(drawn, path, dpi=110, description=description, vector=vector)


def image_of(record: Record) -> str:
    """Return the path from docs/ to the figure of a record.

    Args:
        record: A record of kind "growth".
    """
    return f"figures/{record.name}.png"
