"""The figures of a cross-check: quantiles, and devices and alpha against time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import drawing
from aimc_bridge.files import replacing
from aimc_bridge.times import label

if TYPE_CHECKING:
    import pandas as pd

_CELLS = 8  # curves per panel, and a third of the panels of quantiles, at most
_COLOURS = ("tab:orange", "tab:blue")


def draw(
    table: pd.DataFrame, quantiles: pd.DataFrame | None, sides: tuple[str, str], folder: Path
) -> list[Path]:
    """Write the figures that there is data for.

    Args:
        table: The rows of a report, `Report.table`.
        quantiles: Quantiles of some cells, `Report.quantiles`, or None.
        sides: Names of the two sides.
        folder: Where the figures go; it is made if there is a figure.

    Returns:
        The files: some of quantiles.png, devices.png and alpha.png.
    """
    files = []
    for name, figure in (
        ("quantiles", _quantiles(quantiles, sides)),
        ("devices", _moments(table, sides, "device", ("read weight mean", "read weight sd"))),
        ("alpha", _alpha(table, sides)),
    ):
        if figure is not None:
            folder.mkdir(parents=True, exist_ok=True)
            file = folder / f"{name}.png"
            with replacing(file) as temporary:
                figure.savefig(temporary, dpi=150)
            files.append(file)
    return files


def _alpha(table: pd.DataFrame, sides: tuple[str, str]) -> Any:
    """Draw compensation factors against time: mean, spread, and differences with their margin.

    They are the factors of the first kind in the table, which is the preset's own.
    """
    alphas = table[(table["level"] == "layer") & table["quantity"].str.startswith("alpha")]
    means = [q for q in dict.fromkeys(alphas["quantity"]) if q.endswith("mean")]
    spreads = [q for q in dict.fromkeys(alphas["quantity"]) if q.endswith("sd")]
    fig = _moments(table, sides, "layer", tuple(means[:1] + spreads[:1]), more=1)
    if fig is None:
        return None
    axis = fig.axes[-1]
    rows = alphas[alphas["quantity"] == means[0]]
    times = sorted(rows["t_inference"].unique())
    cells = list(dict.fromkeys(rows["cell"]))[:_CELLS]
    for index, cell in enumerate(cells):
        part = rows[rows["cell"] == cell].sort_values("t_inference")
        scale = 100.0 / part["second"].to_numpy()
        middle = part["difference"].to_numpy() * scale
        half = (part["high"] - part["low"]).to_numpy() / 2 * scale
        # cells share their times: draw them side by side
        x = [times.index(t) + 0.5 * (index / len(cells) - 0.5) for t in part["t_inference"]]
        colour = _colour(index, len(cells))
        axis.errorbar(x, middle, yerr=half, fmt="o", color=colour, markersize=3, label=cell)
        margin = float((part["margin"].to_numpy() * scale).max())
        axis.axhline(margin, color="black", linewidth=1, linestyle="--")
        axis.axhline(-margin, color="black", linewidth=1, linestyle="--")
    axis.set_xticks(range(len(times)), [label(float(t)) for t in times])
    axis.set_xlabel("time after programming")
    axis.set_ylabel("%")
    axis.set_title(f"{means[0]}: {sides[1]} less {sides[0]}, margin", fontsize=8)
    axis.grid(alpha=0.3)
    return fig


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
    panels = panels[:: -(-len(panels) // (3 * _CELLS))]
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    fig, axes = _grid(rows, columns, 2.8, 2.6)
    for axis, ((quantity, cell), part) in zip(axes.flat, panels, strict=False):
        a, b = part["first"].to_numpy(), part["second"].to_numpy()
        axis.plot(b, b, color="black", linewidth=1)
        axis.plot(b, a, ".", color=_COLOURS[0], markersize=4)
        when = "" if quantity == "programmed" else f", {label(float(last))}"
        axis.set_title(f"{quantity}, {cell}{when}", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    for axis in axes[-1]:
        axis.set_xlabel(f"{sides[1]}, quantile", fontsize=8)
    for axis in axes[:, 0]:
        axis.set_ylabel(f"{sides[0]}, quantile", fontsize=8)
    _blank(axes, len(panels))
    return fig


def _colour(index: int, count: int) -> Any:
    """Return a colour of a scale of `count` colours."""
    import matplotlib

    return matplotlib.colormaps["viridis"](index / max(1, count - 1) * 0.9)


def _moments(
    table: pd.DataFrame,
    sides: tuple[str, str],
    level: str,
    quantities: tuple[str, ...],
    more: int = 0,
) -> Any:
    """Draw values against time, one panel per quantity.

    The second side is a line with its margin as a band, the first one points with the interval of
    the difference.

    Args:
        table: The rows of a report.
        sides: Names of the two sides.
        level: The level of the rows that are drawn.
        quantities: Their quantities.
        more: Empty panels behind the others.

    Returns:
        The figure; None if there are no such rows.
    """
    shown = table[(table["level"] == level) & table["quantity"].isin(quantities)]
    shown = shown[shown["t_inference"].notna() & ~shown["cell"].str.contains("= -")]
    if shown.empty:
        return None
    names = [q for q in quantities if (shown["quantity"] == q).any()]
    fig, axes = _grid(1, len(names) + more, 5.6, 4.2)
    for axis, quantity in zip(axes.flat, names, strict=False):
        rows = shown[shown["quantity"] == quantity]
        cells = list(dict.fromkeys(rows["cell"]))[:_CELLS]
        for index, cell in enumerate(cells):
            part = rows[rows["cell"] == cell].sort_values("t_inference")
            colour = _colour(index, len(cells))
            t = part["t_inference"].to_numpy()
            first, second = part["first"].to_numpy(), part["second"].to_numpy()
            ratio = quantity.endswith("sd")
            width = part["margin"].to_numpy() * (second if ratio else 1.0)
            axis.fill_between(t, second - width, second + width, color=colour, alpha=0.2, lw=0)
            axis.plot(t, second, color=colour, linewidth=1, label=cell)
            half = (part["high"] - part["low"]).to_numpy() / 2 * (second if ratio else 1.0)
            axis.errorbar(t, first, yerr=half, fmt="o", color=colour, markersize=3)
        drawing.time_axis(axis, sorted(rows["t_inference"].unique()))
        axis.set_title(
            f"{quantity}: {sides[0]} (points), {sides[1]} (lines, margin shaded)",
            fontsize=8,
        )
        axis.legend(fontsize=7)
        axis.grid(alpha=0.3)
    return fig


def _grid(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its panels; the size is that of one panel in inches."""
    return drawing.new(rows, columns, (width * columns, height * rows))


def _blank(axes: Any, used: int) -> None:
    """Hide the panels behind those that are used."""
    for axis in list(axes.flat)[used:]:
        axis.set_axis_off()
