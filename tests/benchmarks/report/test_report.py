"""Tables and figures: A* by its formula, every spread from the rows."""

import math

import pandas as pd
import pytest

from aimc_bridge.errors import DataError
from benchmarks import a_star
from benchmarks.report import result_figures, tables
from tests.test_imports import python


def rows(metric: str = "accuracy") -> pd.DataFrame:
    """Return a digital model at 90 % (perplexity 10) and two chips at two times on one engine."""
    base = {"model": "M", "dataset": "D", "preset": "p", "seed": 0}
    digital = {**base, "phase": "digital", "engine": "digital"}
    table = [
        {**digital, "metric": metric, "value": 0.9 if metric == "accuracy" else 10.0},
        {**digital, "metric": "error", "value": 0.1},
    ]
    for t_s, accuracies in ((1.0, (0.88, 0.86)), (3600.0, (0.80, 0.84))):
        for chip, accuracy in enumerate(accuracies):
            place = {"phase": "direct", "engine": "native", "t_inference": t_s, "chip": chip}
            value = accuracy if metric == "accuracy" else 1.0 / (1.0 - accuracy)
            table.append({**base, **place, "metric": metric, "value": value})
            table.append({**base, **place, "metric": "error", "value": 1 - accuracy})
    return pd.DataFrame(table)


def test_a_caption_says_what_bars_are_over() -> None:
    """With a checkpoint, several trainings are compared with one direct conversion."""
    first = pd.concat([rows(), rows().assign(phase="hwa")]).query("phase == 'hwa'")
    parts = [first.assign(training_seed=seed) for seed in (0, 1)]
    assert "bars and bands: 95 % over chips" in result_figures.caption_of(rows())
    assert "bars and bands: 95 % over trainings" in result_figures.caption_of(pd.concat(parts))
    both = pd.concat([rows().assign(training_seed=0), *parts])
    assert "bars and bands: 95 % over trainings (of one training: chips)" in (
        result_figures.caption_of(both)
    )


def test_normalised_accuracy_is_the_papers() -> None:
    """ResNet-32's row of the paper gives A* = 96.96 %.

    Its errors are 8.36 % against 5.80 %, and chance is 90 %.
    """
    assert a_star.normalised_accuracy(0.0836, 0.0580, 0.9) == pytest.approx(0.96960, abs=1e-5)
    assert a_star.normalised_accuracy(0.058, 0.058, 0.9) == 1.0
    assert a_star.normalised_accuracy(0.9, 0.058, 0.9) == pytest.approx(0.0)


def test_normalised_accuracy_refuses_a_model_at_chance() -> None:
    with pytest.raises(DataError, match="not below chance"):
        a_star.normalised_accuracy(0.5, 0.5, 0.5)


def test_summary_has_baseline_mean_spread_and_drift_loss() -> None:
    table = tables.summary(rows(), "accuracy")
    assert table.to_dict("records") == [
        {
            "phase": "direct conversion",
            "engine": "native",
            "data": "D",
            "chips": "2",
            "digital": "90.00 %",
            "1s": "87.00 ± 1.41 %",
            "1h": "82.00 ± 2.83 %",
            "drift loss": "5.00 points",
        }
    ]


def test_a_loss_of_perplexity_is_a_rise_and_a_gain_says_so() -> None:
    worse = rows("perplexity")
    table = tables.summary(worse, "perplexity").iloc[0]
    # The chips have 1/0.12, 1/0.14 at 1 s and 1/0.20, 1/0.16 at 1 h.
    assert table["1s"] == "7.74 ± 0.84"
    assert table["drift loss"] == "-2.11 (gain)"
    better = worse.assign(t_inference=worse.t_inference.map({1.0: 3600.0, 3600.0: 1.0}))
    assert tables.summary(better, "perplexity").iloc[0]["drift loss"] == "2.11"


def test_a_loss_of_an_error_is_a_rise() -> None:
    table = tables.summary(rows(), "error").iloc[0]
    assert (table["1s"], table["1h"]) == ("13.00 ± 1.41 %", "18.00 ± 2.83 %")
    assert table["drift loss"] == "5.00 points"


def test_a_star_at_every_time() -> None:
    row = tables.a_star_summary(rows(), chance=0.5).iloc[0]
    # 1 - (err - 0.1) / 0.4: chips have 0.95, 0.90 at 1 s and 0.75, 0.85 at 1 h; t of 2 chips is
    # 12.706.
    assert row["A* 1s"] == "92.50 ± 3.54 % (60.73 to 124.27)"
    assert row["A* 1h"] == "80.00 ± 7.07 % (16.47 to 143.53)"


def test_an_interval_of_other_chips_is_left_out() -> None:
    """Its mean is another one than that of the rows."""
    place = {"phase": "direct", "engine": "native", "data": "D", "minus": "", "t_inference": 1.0}
    better = {**place, "low": 0.9, "high": 0.95, "over": "chips, samples"}
    shown = [
        tables.a_star_summary(rows(), 0.5, [{**better, "mean": mean}]).iloc[0]
        for mean in (0.925, 0.930)
    ]
    assert shown[0]["A* 1s"] == "92.50 ± 3.54 % (90.00 to 95.00)"
    assert shown[1]["A* 1s"] == "92.50 ± 3.54 % (60.73 to 124.27)"


def test_a_star_in_numbers() -> None:
    """3 chips with mean 0.9 and sd 0.05 give, by hand, 0.9 ± 4.302653 x 0.05 / sqrt 3."""
    base = {"model": "M", "dataset": "D", "metric": "error", "phase": "hwa", "engine": "native"}
    digital = {**base, "phase": "digital", "engine": "digital", "value": 0.1}
    errors = (0.12, 0.14, 0.16)
    chips = [{**base, "t_inference": 60.0, "chip": i, "value": e} for i, e in enumerate(errors)]
    (row,) = tables.a_star(pd.DataFrame([digital, *chips]), 0.5).to_dict("records")
    place = {name: row.pop(name) for name in ("phase", "engine", "data", "t_inference", "chips")}
    assert list(place.values()) == ["hwa", "native", "D", 60.0, 3]
    half = 4.302653 * 0.05 / math.sqrt(3)
    assert row.pop("over") == "chips"
    assert row == pytest.approx({"mean": 0.9, "sd": 0.05, "low": 0.9 - half, "high": 0.9 + half})
    table = tables.a_star(pd.DataFrame([digital, chips[0]]), 0.5)
    assert table["mean"].tolist() == pytest.approx([0.95])
    assert table[["sd", "low", "high"]].isna().all(axis=None)


def test_trainings_are_what_an_interval_is_over_where_there_are_several() -> None:
    """Two trainings give one degree of freedom.

    They have A* 0.9 and 0.8, and 40 chips each that hardly differ.
    """
    table = []
    for training, star in ((0, 0.9), (1, 0.8)):
        base = {"model": "M", "dataset": "D", "metric": "error", "training_seed": training}
        table.append({**base, "phase": "digital", "engine": "digital", "value": 0.1})
        for chip in range(40):
            place = {"phase": "hwa", "engine": "native", "t_inference": 1.0, "chip": chip}
            value = 0.1 + 0.4 * (1 - star) + 1e-4 * (-1) ** chip
            table.append({**base, **place, "value": value})
    (row,) = tables.a_star(pd.DataFrame(table), 0.5).to_dict("records")
    half = 12.706205 * math.sqrt(0.005) / math.sqrt(2)
    assert (row["chips"], row["mean"]) == (80, pytest.approx(0.85))
    assert row["high"] - 0.85 == pytest.approx(half) == 0.85 - row["low"]


def test_a_star_of_a_digital_model_at_chance_is_undefined() -> None:
    assert tables.a_star(rows(), chance=0.1)[["mean", "sd", "low", "high"]].isna().all(axis=None)
    row = tables.a_star_summary(rows(), chance=0.1).iloc[0]
    assert row["A* 1s"] == "undefined"


def test_each_part_of_the_data_has_its_own_digital_model() -> None:
    """A subset's chips have the digital model on that subset."""
    subset = rows().assign(dataset="D, subset of 10", engine="aihwkit")
    subset.loc[subset.phase == "digital", "value"] = [0.95, 0.05]
    table = tables.summary(pd.concat([rows(), subset]), "accuracy")
    assert table.digital.tolist() == ["90.00 %", "95.00 %"]
    stars = tables.a_star_summary(pd.concat([rows(), subset]), chance=0.5)
    texts = [text.partition(" (")[0] for text in stars["A* 1s"]]
    assert texts == ["92.50 ± 3.54 %", "82.22 ± 3.14 %"]


def test_phases_come_in_their_order() -> None:
    hwa = rows()
    hwa.loc[hwa.phase == "direct", "phase"] = "hwa"
    table = tables.summary(pd.concat([hwa, rows()]), "accuracy")
    assert table.phase.tolist() == ["direct conversion", "hardware-aware"]


def test_one_chip_has_no_spread() -> None:
    results = rows()
    table = tables.summary(results[(results.chip == 0) | results.chip.isna()], "accuracy")
    assert table.iloc[0]["1s"] == "88.00 %"
    assert table.iloc[0]["chips"] == "1"


def test_figures_are_written(tmp_path) -> None:
    subset = rows().assign(dataset="D, subset of 10", engine="aihwkit", t_inference=0.0)
    both = pd.concat([rows(), subset])
    result_figures.figure(both, "accuracy", tmp_path / "one.png")
    result_figures.dashboard([(both, "accuracy"), (rows(), "accuracy")], tmp_path / "all.png")
    for name in ("one.png", "all.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (tmp_path / name).with_suffix(".svg").read_text(encoding="utf-8")


def test_figures_draw_every_chip_and_the_digital_line(tmp_path, monkeypatch) -> None:
    """A figure draws what the rows hold.

    The mean and the digital model are lines with a name, and every chip is a thin line.
    """
    seen = {}
    from matplotlib.figure import Figure

    write = Figure.savefig

    def keep(figure: Figure, path, **kwargs) -> None:
        seen["axes"], seen["titles"] = figure.axes[0], [a.get_title() for a in figure.axes]
        write(figure, path, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    result_figures.figure(rows(), "accuracy", tmp_path / "one.png")
    drawn = seen["axes"].get_lines()
    lines = {line.get_label(): line.get_ydata() for line in drawn}
    assert list(lines["digital"]) == [90.0, 90.0]
    (bars,) = seen["axes"].containers
    assert bars.get_label() == "direct conversion, native"
    assert list(bars.lines[0].get_ydata()) == pytest.approx([87.0, 82.0])
    chips = [line.get_ydata().tolist() for line in drawn if line.get_linewidth() == 0.6]
    assert chips == [pytest.approx([88.0, 80.0]), pytest.approx([86.0, 84.0])]
    assert seen["axes"].get_ylabel() == "accuracy, % (higher is better)"
    subset = rows().assign(dataset="D, subset of 10")
    result_figures.figure(pd.concat([subset, rows()]), "accuracy", tmp_path / "two.png")
    assert seen["titles"] == ["M\nD", "M\nD, subset of 10"]


def test_figures_change_no_global_state(tmp_path) -> None:
    """Neither pyplot nor the current backend is touched.

    A notebook's figures stay.
    """
    printed = python(
        "import sys, matplotlib\n"
        "before = matplotlib.rcParams['backend']\n"
        "from benchmarks.report import figures\n"
        "drawing, axes = figures.new(1, 1, (2, 2))\n"
        f"figures.save(drawing, {str(tmp_path / 'a.png')!r})\n"
        "print(matplotlib.rcParams['backend'] == before, 'matplotlib.pyplot' in sys.modules)"
    )
    assert printed == "True False"


def test_markdown_is_a_table() -> None:
    text = tables.markdown(pd.DataFrame({"a": ["1"], "b": ["2"]}))
    assert text.splitlines() == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
