"""The figures of a cross-check: devices, conductances, quantiles, alpha and errors of layers.

In all of them the second side is a line or an open shape with its margin shaded, and the first one
points with the interval of the difference: points inside of the shade agree.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import drawing
from aimc_bridge.times import label

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CELLS = 6  # curves per panel, and a fourth of the panels of quantiles, at most
_LAYERS = 30  # layers of the figure of MVM errors, at most
_TARGET = "g/g_max = "


def draw(
    table: pd.DataFrame, quantiles: pd.DataFrame | None, sides: tuple[str, str], folder: Path
) -> list[Path]:
    """Write the figures that there is data for, each as PNG and as SVG.

    Args:
        table: The rows of a report, `Report.table`.
        quantiles: Quantiles of some cells, `Report.quantiles`, or None.
        sides: Names of the two sides.
        folder: Where the figures go; it is made if there is a figure.

    Returns:
        The PNG files: some of devices.png, conductances.png, quantiles.png, alpha.png, mvm.png.
    """
    files = []
    for name, figure in figures_of(table, quantiles, sides).items():
        folder.mkdir(parents=True, exist_ok=True)
        files.append(folder / f"{name}.png")
        drawing.save(figure, files[-1])
    return files


def figures_of(
    table: pd.DataFrame, quantiles: pd.DataFrame | None, sides: tuple[str, str]
) -> dict[str, Figure]:
    """Return the figures that there is data for, by name.

    Args:
        table: The rows of a report, `Report.table`.
        quantiles: Quantiles of some cells, `Report.quantiles`, or None.
        sides: Names of the two sides.
    """
    drawn = {
        "devices": _devices(table, sides),
        "conductances": _histograms(quantiles, sides),
        "quantiles": _quantiles(quantiles, sides),
        "alpha": _alpha(table, sides),
        "mvm": _errors(table, sides),
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}


def _explained(figure: Any, sides: tuple[str, str], more: str = "") -> None:
    """Write under a figure what points, lines and shades are."""
    drawing.caption(
        figure,
        [f"points: {sides[0]}, with the 90 % interval of the difference", f"lines: {sides[1]}"]
        + ["shaded: the margin within which both agree", more],
    )


# --- devices --------------------------------------------------------------------------------------


def _devices(table: pd.DataFrame, sides: tuple[str, str]) -> Any:
    """Draw the laws of devices: sigma and exponent against target, read noise against time."""
    import pandas as pd

    rows = table[(table["level"] == "device") & table["cell"].str.startswith(_TARGET)]
    targets = pd.to_numeric(rows["cell"].str.removeprefix(_TARGET), errors="coerce")
    rows = rows.assign(target=targets)[targets.notna()]
    against_target = [
        ("programmed sd", "sd of programmed g / g_max"),
        ("exponent mean", "mean of drift exponent nu"),
        ("exponent sd", "sd of drift exponent nu"),
    ]
    panels = [pair for pair in against_target if (rows["quantity"] == pair[0]).any()]
    noise = rows[(rows["quantity"] == "read sd") & rows["t_inference"].notna()]
    count = len(panels) + (not noise.empty)
    if not count:
        return None
    figure, axes = _grid(1, count, 3.5, 3.6, more=1.4)
    for axis, (quantity, name) in zip(axes[0], panels, strict=False):
        part = rows[rows["quantity"] == quantity].sort_values("target")
        _compare(axis, part, part["target"].to_numpy(), quantity, 0, 1, sides[0])
        axis.set_xlabel("target g / g_max")
        axis.set_ylabel(name)
        low, high = axis.get_ylim()
        axis.set_ylim(min(0.0, low), high + 0.05 * abs(high))  # room above equal points
    if not noise.empty:
        _against_time(axes[0][-1], noise, "read sd", _cells(noise))
        axes[0][-1].set_ylabel("sd of read g / g_max")
    drawing.legend(figure, axes[0])
    _explained(figure, sides)
    return figure


def _compare(
    axis: Axes, rows: pd.DataFrame, x: Any, quantity: str, index: int, count: int, name: str
) -> None:
    """Draw both sides of some rows: a line with its margin, and points with an interval."""
    first, second = rows["first"].to_numpy(), rows["second"].to_numpy()
    ratio = quantity.endswith("sd")  # differences and margins of sds are shares of the second
    scale = second if ratio else 1.0
    width = rows["margin"].to_numpy() * scale
    half = (rows["high"] - rows["low"]).to_numpy() / 2 * scale
    colour = _paint(index, count)
    marker = drawing.MARKERS[index % len(drawing.MARKERS)]
    dash = drawing.DASHES[index % len(drawing.DASHES)]
    axis.fill_between(x, second - width, second + width, color=colour, alpha=0.2, lw=0)
    axis.plot(x, second, color=colour, lw=1.2, linestyle=dash)
    axis.errorbar(
        *(x, first), yerr=half, fmt=marker, color=colour, markersize=4, capsize=2, label=name
    )


def _paint(index: int, count: int) -> str:
    """Return the colour of a curve; more than the ordered scale has get colours of their own."""
    ordered = 1 < count <= len(drawing.SCALE)
    return drawing.shade(index, count) if ordered else drawing.COLOURS[index]


def _cells(rows: pd.DataFrame) -> list[str]:
    """Return the cells that are drawn, in their order: each has one look in a whole figure."""
    cells = list(dict.fromkeys(rows["cell"]))
    return cells[:: -(-len(cells) // _CELLS)]


def _against_time(
    axis: Axes, rows: pd.DataFrame, quantity: str, cells: list[str], ordered: bool = True
) -> None:
    """Draw one curve per cell against time; layers are not in an order, targets are."""
    count = len(cells) if ordered else len(drawing.COLOURS)
    for index, cell in enumerate(cells):
        part = rows[rows["cell"] == cell].sort_values("t_inference")
        if not part.empty:  # some quantities are not of tiles, but of whole layers
            times = part["t_inference"].to_numpy()
            _compare(axis, part, times, quantity, index, count, cell)
    drawing.time_axis(axis, sorted(rows["t_inference"].unique()))


def _histograms(data: pd.DataFrame | None, sides: tuple[str, str]) -> Any:
    """Draw the densities of programmed conductances and of those read at the last time.

    They are histograms with bins between neighbouring quantiles.
    """
    if data is None or data.empty:
        return None
    import numpy as np

    last = data["t_inference"].max()
    wanted = [("programmed", "right after programming")]
    if not math.isnan(float(last)):
        wanted.append(("read", f"read after {label(float(last))}"))
    panels = []
    for quantity, title in wanted:
        rows = data[(data["quantity"] == quantity) & data["cell"].str.startswith(_TARGET)]
        if quantity == "read":
            rows = rows[rows["t_inference"] == last]
        if not rows.empty:
            panels.append((rows, title))
    if not panels:
        return None
    figure, axes = _grid(1, len(panels), 4.4, 3.6, more=1.6)
    for axis, (rows, title) in zip(axes[0], panels, strict=True):
        cells = list(dict.fromkeys(rows["cell"]))
        cells = cells[:: -(-len(cells) // _CELLS)]
        for index, cell in enumerate(cells):
            part = rows[rows["cell"] == cell]
            colour = _paint(index, len(cells))
            for side, dash, alpha in (("first", "-", 0.25), ("second", "--", 0.0)):
                ends, places = np.unique(part[side].to_numpy(), return_index=True)
                if len(ends) < 3:  # nearly all devices hold one value
                    continue
                heights = np.diff(part["share"].to_numpy()[places]) / np.diff(ends)
                axis.stairs(heights, ends, color=colour, fill=True, alpha=alpha)
                name = f"{cell}, {sides[0] if side == 'first' else sides[1]}"
                axis.stairs(heights, ends, color=colour, lw=1.2, linestyle=dash, label=name)
        axis.set_yscale("log")
        axis.set_xlabel(f"g / g_max {title}")
        axis.set_ylabel("density of devices")
    drawing.legend(figure, axes[0])
    looks = f"shaded: {sides[0]}, dashed: {sides[1]}"
    drawing.caption(figure, ["bins between neighbouring quantiles", looks])
    return figure


# --- layers ---------------------------------------------------------------------------------------


def _alpha(table: pd.DataFrame, sides: tuple[str, str]) -> Any:
    """Draw compensation factors per layer against time: mean, spread, and their difference.

    They are the factors of the first kind in the table, which is the preset's own.
    """
    alphas = table[(table["level"] == "layer") & table["quantity"].str.startswith("alpha")]
    alphas = alphas[alphas["t_inference"].notna()]
    means = [q for q in dict.fromkeys(alphas["quantity"]) if q.endswith("mean")]
    spreads = [q for q in dict.fromkeys(alphas["quantity"]) if q.endswith("sd")]
    names = [*means[:1], *spreads[:1]]
    if not names:
        return None
    figure, axes = _grid(1, len(names) + bool(means), 3.9, 3.8, more=1.8)
    cells = _cells(alphas[alphas["quantity"].isin(names)])
    for axis, quantity in zip(axes[0], names, strict=False):
        _against_time(axis, alphas[alphas["quantity"] == quantity], quantity, cells, False)
        axis.set_ylabel(quantity)
    if means:
        _alpha_difference(axes[0][-1], alphas[alphas["quantity"] == means[0]], sides, cells)
    drawing.legend(figure, axes[0], "layer")
    _explained(figure, sides)
    return figure


def _alpha_difference(
    axis: Axes, rows: pd.DataFrame, sides: tuple[str, str], cells: list[str]
) -> None:
    """Draw the differences of the factors in percent, cell beside cell, with their margin."""
    times = sorted(rows["t_inference"].unique())
    for index, cell in enumerate(cells):
        part = rows[rows["cell"] == cell].sort_values("t_inference")
        scale = 100.0 / part["second"].to_numpy()
        middle = part["difference"].to_numpy() * scale
        half = (part["high"] - part["low"]).to_numpy() / 2 * scale
        # cells share their times: draw them side by side
        x = [times.index(t) + 0.5 * (index / len(cells) - 0.5) for t in part["t_inference"]]
        axis.errorbar(
            *(x, middle),
            yerr=half,
            fmt=drawing.MARKERS[index % len(drawing.MARKERS)],
            color=drawing.COLOURS[index],
            markersize=4,
            capsize=2,
            label=cell,
        )
    margin = float((rows["margin"] / rows["second"]).max() * 100)
    axis.axhspan(-margin, margin, color=drawing.INK, alpha=0.08, lw=0)
    axis.axhline(0.0, color=drawing.INK, lw=0.8)
    axis.set_xticks(range(len(times)), [label(float(t)) for t in times])
    axis.set_xlabel("time after programming")
    axis.set_ylabel(f"{sides[0]} less {sides[1]}, %")


def _errors(table: pd.DataFrame, sides: tuple[str, str]) -> Any:
    """Draw the MVM error of each layer at the last time, both sides beside each other."""
    rows = table[(table["level"] == "layer") & (table["quantity"] == "MVM error")]
    if rows.empty:
        return None
    last = rows["t_inference"].max()
    rows = rows[rows["t_inference"] == last].head(_LAYERS)
    figure, axes = _grid(1, 1, 7.4, 1.6 + 0.3 * len(rows))
    axis = axes[0][0]
    for place, row in enumerate(rows.itertuples()):
        low, high = (100 * (row.second + sign * row.margin) for sign in (-1, 1))
        label_of = ("" if place else sides[0], "" if place else f"{sides[1]} ± margin")
        axis.plot([low, high], [place + 0.14] * 2, color=drawing.COLOURS[1], lw=5, alpha=0.35)
        axis.plot(
            [100 * row.second], [place + 0.14], "s", color=drawing.COLOURS[1], label=label_of[1]
        )
        half = 100 * (row.high - row.low) / 2
        axis.errorbar(
            *([100 * row.first], [place - 0.14]),
            xerr=[half],
            fmt="o",
            color=drawing.COLOURS[0],
            capsize=2,
            label=label_of[0],
        )
    axis.set_yticks(range(len(rows)), rows["cell"].tolist())
    axis.invert_yaxis()
    axis.set_xlim(left=0.0)
    axis.set_xlabel(f"MVM error after {label(float(last))}, % (lower is better)")
    drawing.legend(figure, [axis])
    drawing.caption(figure, ["bars of the first: 90 % interval of the difference"])
    return figure


def _quantiles(data: pd.DataFrame | None, sides: tuple[str, str]) -> Any:
    """Draw quantiles of one side against those of the other.

    They are those of devices as programmed, and of devices and weights read at the last time.
    """
    if data is None or data.empty:
        return None
    last = data["t_inference"].max()
    shown = data[data["quantity"].isin(["programmed"]) | (data["t_inference"] == last)]
    shown = shown[shown["quantity"].isin(["programmed", "read", "read weight"])]
    shown = shown[~shown["cell"].str.contains("= -")]
    panels = list(shown.groupby(["quantity", "cell"], sort=False))
    if not panels:
        return None
    panels = panels[:: -(-len(panels) // (2 * _CELLS))]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = _grid(rows, columns, 2.6, 2.4, more=1.2)
    for axis, ((quantity, cell), part) in zip(axes.flat, panels, strict=False):
        a, b = part["first"].to_numpy(), part["second"].to_numpy()
        axis.plot(b, b, color=drawing.INK, lw=0.8, label="equal")
        axis.plot(b, a, ".", color=drawing.COLOURS[0], markersize=4, label="quantiles")
        when = "" if quantity == "programmed" else f", {label(float(last))}"
        axis.set_title(f"{quantity}, {cell}{when}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.locator_params(nbins=4)
    for axis in axes[-1]:
        axis.set_xlabel(f"{sides[1]}, quantile", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{sides[0]}, quantile", fontsize=8)
    for axis in list(axes.flat)[len(panels) :]:
        axis.set_axis_off()
    drawing.legend(fig, list(axes.flat)[: len(panels)])
    return fig


def _grid(
    rows: int, columns: int, width: float, height: float, more: float = 0.0
) -> tuple[Any, Any]:
    """Return a figure and its panels.

    Args:
        rows: Rows of panels.
        columns: Columns of panels.
        width: Width of a panel, inches.
        height: Height of a panel, inches.
        more: Room for a legend beside them, inches.
    """
    return drawing.new(rows, columns, (width * columns + more, height * rows))
