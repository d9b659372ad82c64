"""`plot`: what stands in the figure of a sweep, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from aimc_bridge import drawing, plot
from aimc_bridge.errors import UsageError

TIMES = (0.0, 1.0, 3600.0, 31536000.0)
CHIPS = 5


def table(metric: str = "accuracy", fall: float = 0.05, level: float = 0.9) -> pd.DataFrame:
    """Return what a sweep would: chips that differ, and a mean that falls with time."""
    rows = [
        [chip, chip, t, metric, level - fall * index + 0.01 * (chip - 2)]
        for chip in range(CHIPS)
        for index, t in enumerate(TIMES)
    ]
    return pd.DataFrame(rows, columns=["chip", "seed", "t_inference", "metric", "value"])


def texts(figure: Any) -> str:
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    return " | ".join([figure.get_supxlabel(), *legend])


def test_the_mean_its_interval_and_every_chip_are_drawn() -> None:
    figure = plot(table(), digital=0.97)
    (axis,) = figure.axes
    bars = axis.containers[0]
    assert bars.lines[0].get_xdata() == pytest.approx(TIMES)
    assert bars.lines[0].get_ydata() == pytest.approx([0.9, 0.85, 0.8, 0.75])
    # chips at -0.02 ... 0.02: sd = 0.01 sqrt(2.5), and t of 4 degrees of freedom
    half = stats.t.ppf(0.975, 4) * 0.01 * math.sqrt(2.5) / math.sqrt(5)
    ends = np.array([segment[:, 1] for segment in bars.lines[2][0].get_segments()])
    assert (ends[:, 1] - ends[:, 0]) / 2 == pytest.approx([half] * len(TIMES))
    thin = [line for line in axis.lines if line.get_linewidth() == 0.6]
    assert len(thin) == CHIPS
    assert any(line.get_linestyle() == "--" and line.get_ydata()[0] == 0.97 for line in axis.lines)
    assert axis.get_ylabel() == "accuracy (higher is better)"
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["0s", "1s", "1h", "1y"]
    assert "5 chips" in texts(figure) and "digital" in texts(figure)


def test_a_digital_share_has_the_band_of_its_samples() -> None:
    figure = plot(table(), digital=0.97, samples=1000, caption="rasch2023")
    (axis,) = figure.axes
    low, high = stats.binomtest(970, 1000).proportion_ci(0.95, method="wilson")
    heights = [(p.get_y(), p.get_y() + p.get_height()) for p in axis.patches]
    assert heights == [pytest.approx((low, high))]
    assert "rasch2023, 5 chips, 1,000 test samples" in texts(figure)


def test_several_tables_stand_side_by_side_in_shapes_of_their_own() -> None:
    both = {"direct": table(fall=0.1), "hardware-aware": table(fall=0.02)}
    figure = plot(both, digital=0.97)
    (axis,) = figure.axes
    first, second = (bars.lines[0] for bars in axis.containers)
    assert first.get_marker() != second.get_marker()
    assert first.get_color() != second.get_color()
    assert "direct | hardware-aware" in texts(figure)


@pytest.mark.parametrize("count", [2, 4, 8])
@pytest.mark.parametrize(
    "times", [(1.0,), (1.0, 31536000.0), (1.0, 3600.0, 86400.0, 31536000.0), (0.0, 60.0, 3600.0)]
)
def test_points_of_curves_stand_apart_and_next_to_their_own_time(
    count: int, times: tuple[float, ...]
) -> None:
    rows = [[chip, chip, t, "accuracy", 0.9 - 0.01 * chip] for chip in range(2) for t in times]
    one = pd.DataFrame(rows, columns=["chip", "seed", "t_inference", "metric", "value"])
    figure = plot({f"curve {index}": one for index in range(count)})
    figure.canvas.draw()
    (axis,) = figure.axes

    def places(x: object) -> np.ndarray:
        values = np.asarray(x, dtype=float)
        return axis.transData.transform(np.stack([values, np.full_like(values, 0.9)], 1))[:, 0]

    curves = [places(bars.lines[0].get_xdata()) for bars in axis.containers]
    apart = np.diff(np.stack(curves), axis=0) * 72 / figure.dpi  # points; a marker has 5
    assert apart.min() > (4.0 if count * len(times) <= 8 else 1.5)
    box = axis.get_window_extent()
    assert all(box.x0 < x < box.x1 for curve in curves for x in curve)
    ticks = places(times)
    for curve in curves:
        nearest = np.abs(curve[:, None] - ticks).argmin(1)
        assert nearest.tolist() == list(range(len(times)))


def test_several_metrics_have_a_panel_each_and_one_legend() -> None:
    rows = pd.concat([table(), table("perplexity", fall=-3.0, level=80.0)])
    figure = plot(rows, digital={"accuracy": 0.97, "perplexity": 78.0})
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "accuracy (higher is better)",
        "perplexity (lower is better)",
    ]
    assert len(figure.legends) == 1 and not any(axis.get_legend() for axis in figure.axes)
    assert plot(table("f1"), lower_is_better=False).axes[0].get_ylabel().startswith("f1 (higher")
    assert plot(table("f1")).axes[0].get_ylabel() == "f1"


def test_a_small_difference_is_not_blown_up() -> None:
    rows = table(fall=0.0)
    rows["value"] = 0.9 + 1e-4 * rows["chip"]
    low, high = plot(rows).axes[0].get_ylim()
    assert high - low >= 0.02
    low, high = plot(table(fall=0.2)).axes[0].get_ylim()
    assert 0.6 < high - low < 0.8


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_the_axis_of_a_share_ends_at_its_bounds(scale: float) -> None:
    """There is room for half a marker, and no tick beyond; other metrics have no bounds."""
    for level, bound in ((0.99, 1.0), (0.02, 0.0)):
        rows = table(fall=0.0, level=level)
        rows["value"] = scale * rows["value"].clip(0.0, 1.0)
        (axis,) = plot(rows).axes
        low, high = axis.get_ylim()
        assert high - low >= 0.02 * scale
        beyond = high - scale if bound else -low
        assert 0.0 < beyond <= 0.021 * (high - low)
        ticks = [tick for tick in axis.get_yticks() if low <= tick <= high]
        assert all(-1e-9 <= tick <= scale + 1e-9 for tick in ticks)
    rows = table("f1", fall=0.0, level=0.99)
    assert plot(rows).axes[0].get_ylim()[1] > 1.01


def test_a_share_of_all_samples_has_two_points_of_axis_too() -> None:
    rows = table(fall=0.0)
    rows["value"] = 1.0
    low, high = plot(rows).axes[0].get_ylim()
    assert high - low >= 0.02 and 1.0 < high <= 1.0 + 0.021 * (high - low)


def test_one_chip_has_a_line_and_no_interval() -> None:
    figure = plot(table()[lambda rows: rows.chip == 0])
    (axis,) = figure.axes
    assert len(axis.containers[0].lines[2]) == 0 and not axis.collections
    assert "1 chip" in texts(figure) and "1 chips" not in texts(figure)


def test_chips_that_agree_have_no_bar_at_that_time_alone() -> None:
    rows = table()
    agree = rows.t_inference == TIMES[1]
    rows.loc[agree, "value"] = [0.85 + 1e-8 * chip for chip in rows[agree].chip]
    (axis,) = plot(rows).axes
    parts = axis.containers[0].lines[2][0].get_segments()
    assert [len(part) for part in parts] == [2, 0, 2, 2]  # none, also of no length


def test_nothing_global_changes_and_every_format_is_written(tmp_path: Path) -> None:
    before, backend = dict(mpl.rcParams), mpl.get_backend()
    figure = plot(table(), digital=0.97)
    for suffix in ("png", "svg", "pdf"):
        figure.savefig(tmp_path / f"drift.{suffix}")
        assert (tmp_path / f"drift.{suffix}").stat().st_size > 1000
    assert dict(mpl.rcParams) == before and mpl.get_backend() == backend


@pytest.mark.parametrize(
    ("rows", "more", "says"),
    [
        ([1, 2], {}, "the table is a list"),
        ({}, {}, "no table"),
        (table()[:0], {}, "has no rows"),
        (table().drop(columns="chip"), {}, "no column chip"),
        ({"a": table(), "b": table().assign(value=float("nan"))}, {}, "table 'b' has values"),
        (table().assign(value="high"), {}, "not finite"),
        (table(), {"digital": {"error": 0.1}}, "digital names error; the table has accuracy"),
        (table(), {"digital": float("inf")}, "digital accuracy=inf"),
        (table(), {"digital": True}, "digital accuracy=True"),
        (pd.concat([table(), table("loss")]), {"digital": 0.9}, "for 2 metrics"),
        (table(), {"samples": 100}, "samples without a digital share"),
        (table(), {"digital": 0.9, "samples": 0}, "samples=0"),
        (table("loss"), {"digital": 2.5, "samples": 9}, "samples without a digital share"),
    ],
)
def test_what_cannot_be_drawn_is_refused(rows: Any, more: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        plot(rows, **more)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0002, 0.9, ["0.001", "0.01", "0.1"]),
        (1.5, 60.0, ["2", "5", "10", "20", "50"]),
        (0.022, 0.11, ["0.03", "0.04", "0.05", "0.06", "0.07", "0.08", "0.09", "0.1"]),
    ],
)
def test_a_logarithmic_axis_has_a_few_plain_numbers(
    low: float, high: float, ticks: list[str]
) -> None:
    figure, axes = drawing.new(1, 1, (3.0, 3.0))
    axis = axes[0][0]
    axis.set_ylim(low, high)
    drawing.log_axis(axis)
    figure.canvas.draw()
    inside = [t for t in axis.yaxis.get_major_ticks() if low <= t.get_loc() <= high]
    assert [t.label1.get_text() for t in inside] == ticks
    assert {t.label1.get_text() for t in axis.yaxis.get_minor_ticks()} <= {""}
