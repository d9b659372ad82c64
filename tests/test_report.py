"""Tables and figures: A* by its formula, every spread from the rows."""

import pandas as pd
import pytest

from aimc_bridge import report
from aimc_bridge.errors import DataError


def rows(metric: str = "accuracy") -> pd.DataFrame:
    """A digital model at 90 % and two chips at two times on one engine."""
    base = {"model": "M", "dataset": "D", "preset": "p", "seed": 0}
    made = [
        {**base, "metric": "accuracy", "phase": "digital", "engine": "digital", "value": 0.9},
        {**base, "metric": "error", "phase": "digital", "engine": "digital", "value": 0.1},
    ]
    for t_s, accuracies in ((1.0, (0.88, 0.86)), (3600.0, (0.80, 0.84))):
        for chip, accuracy in enumerate(accuracies):
            place = {"phase": "direct", "engine": "native", "t_inference": t_s, "chip": chip}
            made.append({**base, **place, "metric": "accuracy", "value": accuracy})
            made.append({**base, **place, "metric": "error", "value": 1 - accuracy})
    return pd.DataFrame(made)


def test_normalised_accuracy_is_the_papers() -> None:
    """ResNet-32's row of the paper: 8.36 % error against 5.80 %, chance 90 %: A* 96.96 %."""
    assert report.normalised_accuracy(0.0836, 0.0580, 0.9) == pytest.approx(0.96960, abs=1e-5)
    assert report.normalised_accuracy(0.058, 0.058, 0.9) == 1.0
    assert report.normalised_accuracy(0.9, 0.058, 0.9) == pytest.approx(0.0)


def test_normalised_accuracy_refuses_a_model_at_chance() -> None:
    with pytest.raises(DataError, match="not below chance"):
        report.normalised_accuracy(0.5, 0.5, 0.5)


def test_summary_has_mean_spread_loss_and_a_star() -> None:
    table = report.summary(rows(), "accuracy", chance=0.5)
    digital, direct = table.iloc[0], table.iloc[1]
    assert digital["digital"] == "90.00 %"
    assert direct["1s"] == "87.00 ± 1.41 % (2 chips)"
    assert direct["1h"] == "82.00 ± 2.83 % (2 chips)"
    assert direct["drift loss"] == "5.00 %"
    assert direct["A* 1h"] == "80.00 ± 7.07 % (2 chips)"  # 1 - 0.08 / 0.4


def test_one_chip_has_no_spread() -> None:
    one = rows()
    table = report.summary(one[(one.chip == 0) | one.chip.isna()], "accuracy")
    assert table.iloc[1]["1s"] == "88.00 % (1 chip)"


def test_figures_are_written(tmp_path) -> None:
    report.figure(rows(), "accuracy", tmp_path / "one.png")
    report.dashboard([(rows(), "accuracy"), (rows(), "accuracy")], tmp_path / "all.png")
    for name in ("one.png", "all.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_markdown_is_a_table() -> None:
    text = report.markdown(pd.DataFrame({"a": ["1"], "b": ["2"]}))
    assert text.splitlines() == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
