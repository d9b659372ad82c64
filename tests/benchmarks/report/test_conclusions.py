"""Sentences made from tables and intervals: each kind of result has its own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from benchmarks.report import answer_intervals, conclusions, tables
from benchmarks.report.answers import Answers, Kept
from benchmarks.report.conclusions import Effect, conclude
from benchmarks.report.intervals import independent_change
from benchmarks.report.tables import UNCHECKED

YEAR_S = 365 * 86400.0
MODEL, DATA = "MLP 10x64", "digits"


def table(
    digital: float,
    *,
    chips: int = 5,
    metric: str = "accuracy",
    engine: str = "native",
    **errors: dict[float, float],
) -> pd.DataFrame:
    """Return the rows of a run: phase -> time -> error.

    Chips differ by a tenth of a point, and by two tenths after a training.
    """

    def row(phase: str, t_s: float, chip: float, error: float) -> list[dict[str, object]]:
        values = {"error": error, "accuracy": 1 - error, "loss": error}
        if metric == "perplexity":
            values = {"error": error, "perplexity": 100 * math.exp(error), "loss": error}
        place = {"model": MODEL, "dataset": DATA, "phase": phase, "preset": "rasch2023"}
        place |= {"engine": "digital" if phase == "digital" else engine}
        place |= {"t_inference": t_s, "chip": chip, "seed": 0 if math.isnan(chip) else chip}
        return [{**place, "metric": name, "value": value} for name, value in values.items()]

    rows = row("digital", math.nan, math.nan, digital)
    for phase, at in errors.items():
        apart = 0.001 if phase == "direct" else 0.002
        for t_s, error in at.items():
            for chip in range(chips):
                rows += row(phase, t_s, chip, error + apart * (chip - (chips - 1) / 2))
    return pd.DataFrame(rows)


def study(metric: str = "accuracy", **more: object) -> dict[str, dict[str, object]]:
    facts = {"model": MODEL, "metric": metric, "chance_error": 0.9, "samples": {DATA: 400}}
    return {"mlp": {**facts, **more}}


def changed(phase: str, minus: str, mean: float, low: float, high: float, t_s: float = YEAR_S):
    """Return a row of `answer_intervals.changes`."""
    return {
        **{"phase": phase, "minus": minus, "engine": "native", "data": DATA},
        **{"t_inference": t_s, "mean": mean, "low": low, "high": high, "over": "chips, samples"},
    }


def said(rows: pd.DataFrame, facts: dict[str, dict[str, object]]) -> conclusions.Conclusion:
    (found,) = conclude(rows, facts)
    return found


def test_a_loss_that_training_brings_back() -> None:
    rows = table(0.02, direct={1.0: 0.03, YEAR_S: 0.28}, hwa={1.0: 0.03, YEAR_S: 0.077})
    known = [
        changed("direct", "digital", 0.26, 0.215, 0.305),
        changed("hwa", "direct", -0.203, -0.24, -0.166),
    ]
    found = said(rows, study(changes=known))
    assert (found.direct, found.training) == ("worse", "better")
    assert found.text == (
        "MLP 10x64 on native, 1y after programming: direct conversion loses 26.0 points of "
        "accuracy (95 % interval 21.5 to 30.5, over chips and test samples): digital 98.0 %, on "
        "the chip 72.0 %; hardware-aware training brings back 20.3 points (16.6 to 24.0, over "
        "chips and test samples): 92.3 %."
    )


def test_nothing_lost_is_nothing_to_train_for_and_harm_is_said() -> None:
    rows = table(0.317, direct={YEAR_S: 0.314}, hwa={YEAR_S: 0.333})
    known = [
        changed("direct", "digital", -0.003, -0.009, 0.003),
        changed("hwa", "direct", 0.019, 0.004, 0.034),
    ]
    found = said(rows, study(changes=known))
    assert (found.direct, found.training) == ("none", "worse")
    assert "direct conversion loses nothing, within a point (loss 95 % interval -0.9 to +0.3" in (
        found.text
    )
    assert found.text.endswith(
        "there is nothing to train for, and hardware-aware training makes it worse: 66.7 %, "
        "1.9 points below direct conversion (0.4 to 3.4, over chips and test samples); leave it "
        "out here."
    )


def test_too_few_samples_say_neither() -> None:
    rows = table(0.317, direct={YEAR_S: 0.32}, hwa={YEAR_S: 0.333})
    known = [
        changed("direct", "digital", 0.003, -0.02, 0.026),
        changed("hwa", "direct", 0.013, -0.01, 0.036),
    ]
    found = said(rows, study(changes=known))
    assert (found.direct, found.training) == ("unsure", "unsure")
    assert (
        "no loss of direct conversion can be shown (loss 95 % interval -2.0 to +2.6" in found.text
    )
    assert "has 66.7 %: neither a gain nor a harm over direct conversion can be shown" in found.text
    assert "nothing to train for" not in found.text  # up to 2.6 points may be lost


def test_an_interval_without_width_over_samples_says_nothing() -> None:
    """Two chips that err equally often show no spread; that makes their difference no certainty."""
    rows = table(0.02, direct={1.0: 0.021, YEAR_S: 0.021}, hwa={1.0: 0.022, YEAR_S: 0.022})
    known = [
        changed("direct", "digital", 0.001, 0.001, 0.001),
        changed("hwa", "direct", 0.001, 0.001, 0.001),
        changed("hwa", "direct", 0.001, 0.001, 0.001, 1.0),
    ]
    none = [{**row, "low": None, "high": None} for row in known]
    sized = [{**row, "samples": 400, "units": 2} for row in known]
    assert said(rows, study(changes=none)) == said(rows, study(changes=known))
    assert said(rows, study(changes=sized)) == said(rows, study(changes=known))
    found = said(rows, study(changes=known))
    assert (found.direct, found.training) == ("unknown", "unknown")
    assert "worse" not in found.text and "loses" not in found.text
    assert found.text.endswith("hardware-aware training has 97.8 %; nothing follows from that.")
    exact = said(rows, study(changes=[changed("direct", "digital", 0.0, 0.0, 0.0)]))
    assert exact.direct == "none"


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_chips_that_err_equally_often_say_nothing_without_answers(loss: float) -> None:
    rows = table(0.25, direct={YEAR_S: 0.25 + loss}, hwa={YEAR_S: 0.25}, chips=3)
    rows.loc[rows.phase != "digital", "value"] = rows[rows.phase != "digital"].apply(
        lambda row: {"direct": 0.25 + loss, "hwa": 0.25}[row.phase], axis=1
    )
    why = "the chips agree on the difference, so there is no spread to judge it by"
    error = rows.metric == "error"
    for rounding in (0.0, 1e-7):  # of float32
        rows.loc[error & (rows.chip == 2), "value"] += rounding
        found = said(rows, study())
        assert (found.direct, found.training) == ("unknown", "unknown")
        assert "95 %" not in found.text and "so few chips" not in found.text
        assert found.text.count(why) == 2
        stars = tables.a_star_summary(rows, 0.9)
        assert " to " not in stars.to_string() and set(stars["interval over"]) == {""}


@pytest.mark.parametrize("equal", ["trainings", "chips"])
def test_a_side_without_spread_is_not_known_exactly(equal: str) -> None:
    """Two trainings against three chips: the side that agrees may lie apart next time."""
    parts = [
        table(0.2, direct={YEAR_S: 0.3}, hwa={YEAR_S: 0.22 + 0.01 * training}, chips=3)
        for training in range(2)
    ]
    rows = pd.concat(part.assign(training_seed=i) for i, part in enumerate(parts))
    rows = rows[(rows.phase != "direct") | (rows.training_seed == 0)].reset_index(drop=True)
    assert "brings back 7.5 points (" in said(rows, study()).text
    phase, error = {"trainings": ("hwa", 0.22), "chips": ("direct", 0.3)}[equal]
    rows.loc[(rows.phase == phase) & (rows.metric == "error"), "value"] = error
    found = said(rows, study())
    assert found.training == "unknown" and "brings back" not in found.text
    assert f"; the {equal} agree, so there is no spread to judge it by" in found.text


def test_a_narrow_interval_is_told_with_more_digits() -> None:
    rows = table(0.02, direct={YEAR_S: 0.07})
    text = said(rows, study(changes=[changed("direct", "digital", 0.05, 0.04998, 0.05002)])).text
    assert "loses 5.000 points of accuracy (95 % interval 4.998 to 5.002, over" in text
    assert Effect(0.05, 0.05, 0.05, "chips").sign == "unknown"


def test_what_an_interval_without_answers_is_over() -> None:
    """Three trainings against the three chips of one direct conversion: both are said."""
    parts = [
        table(0.2, direct={YEAR_S: 0.3}, hwa={YEAR_S: 0.22 + 0.01 * training}, chips=3)
        for training in range(3)
    ]
    rows = pd.concat(part.assign(training_seed=i) for i, part in enumerate(parts))
    rows = rows[(rows.phase != "direct") | (rows.training_seed == 0)].reset_index(drop=True)
    text = said(rows, study()).text
    assert "over chips alone): digital" in text and "over trainings and chips)" in text
    stars = tables.a_star_summary(rows, 0.9).set_index("phase")["interval over"]
    assert stars.to_dict() == {"direct conversion": "chips", "hardware-aware": "trainings"}


@pytest.mark.parametrize(("samples", "sign"), [(64, "unsure"), (360, "unsure"), (370, "none")])
def test_answers_that_all_stay_bound_the_loss_by_their_number(
    tmp_path: Path, samples: int, sign: str
) -> None:
    """If no answer of n changed, the true share of changes may still be above 0.

    The chance that none of n changes is (1 - share)**n. At the end of the exact 95 % interval it is
    2.5 %.
    """
    right = torch.arange(samples) % 50 != 0
    digital, chips = tmp_path / "digital.safetensors", tmp_path / "chips.safetensors"
    Answers(digital).add(None, right)
    for seed in (0, 1):
        Answers(chips).add(_Chip(seed, YEAR_S), right)  # type: ignore[arg-type]
    files = {("direct", "native", DATA): Kept(digital, chips, (0, 1))}
    same = answer_intervals.changes([files], [YEAR_S], own_digital=False)
    older = [{**row, "low": 0.0, "high": 0.0} for row in same]  # of runs that noted no more
    rows = table(0.02, direct={1.0: 0.02, YEAR_S: 0.02})
    found = said(rows, study(changes=same))
    assert found.direct == sign
    assert said(rows, study(changes=older)) == found
    high = float(found.text.partition(" to +")[2].partition(",")[0]) / 100
    assert (1 - high) ** samples == pytest.approx(0.025, rel=0.1)  # as exact as it is printed


def test_harm_after_a_loss_and_before_the_last_time() -> None:
    rows = table(0.02, direct={1.0: 0.03, YEAR_S: 0.1}, control={1.0: 0.06, YEAR_S: 0.2})
    known = [
        changed("direct", "digital", 0.08, 0.06, 0.1),
        changed("control", "direct", 0.1, 0.08, 0.12),
        changed("control", "direct", 0.03, 0.01, 0.05, 1.0),
    ]
    found = said(rows, study(changes=known))
    assert found.direct == "worse" and found.training == ""
    assert "the same training without noise makes it worse: 80.0 %, 10.0 points below" in found.text
    assert found.text.endswith("The same training without noise is worse at 1s by 3.0 points.")


def test_a_digital_model_at_chance_says_nothing() -> None:
    for error in (0.95, 0.9, 0.88):  # 400 samples: one standard error of guessing is 1.5 points
        found = said(table(error, direct={1.0: 0.9}, hwa={1.0: 0.9}), study())
        assert found.direct == "chance" and "no better than guessing" in found.text
    assert said(table(0.8, direct={1.0: 0.9}), study()).direct == "worse"


def test_a_digital_model_that_always_gives_one_answer_says_nothing() -> None:
    """80 % of the 400 samples are of one class; the standard error of such a guess is 2 points."""
    rows = table(0.2, direct={1.0: 0.2})
    assert said(rows, study()).direct != "chance"
    assert said(rows, study(commonest={DATA: 0.8})).direct == "chance"
    assert said(rows, study(commonest={DATA: 0.7})).direct != "chance"
    assert said(rows, study(commonest={"other data": 0.8})).direct != "chance"


def test_a_control_that_could_not_be_checked_is_not_called_the_same_training() -> None:
    rows = table(0.02, direct={1.0: 0.3}, control={1.0: 0.1})
    assert "the same training without noise brings back" in said(rows, study()).text
    text = said(rows, study(control=UNCHECKED)).text
    assert "; a training without noise brings back" in text and "same training" not in text


def test_perplexity_is_judged_by_the_word_error() -> None:
    """For both, lower is better."""
    rows = table(0.7, metric="perplexity", direct={YEAR_S: 0.72}, hwa={YEAR_S: 0.705})
    known = [
        changed("direct", "digital", 0.02, 0.012, 0.028),
        changed("hwa", "direct", -0.015, -0.022, -0.008),
    ]
    found = said(rows, study("perplexity", changes=known, chance_error=0.999))
    assert (found.direct, found.training) == ("worse", "better")
    assert "loses 2.0 points of word error (95 % interval 1.2 to 2.8" in found.text
    assert "digital 70.0 % (perplexity 201.4), on the chip 72.0 % (perplexity 205.4)" in found.text
    worse = [*known[:1], changed("hwa", "direct", 0.015, 0.008, 0.022)]
    found = said(rows, study("perplexity", changes=worse, chance_error=0.999))
    assert "1.5 points above direct conversion" in found.text


def test_without_answers_the_interval_is_over_chips_alone() -> None:
    """It is Student's t over chips, whose spread is known here."""
    found = said(table(0.02, direct={1.0: 0.1}, hwa={1.0: 0.05}), study())
    assert (found.direct, found.training) == ("worse", "better")
    half = 100 * 2.7764 * np.std([-0.002, -0.001, 0.0, 0.001, 0.002], ddof=1) / math.sqrt(5)
    low, high = 8.0 - half, 8.0 + half
    assert f"(95 % interval {low:.2f} to {high:.2f}, over chips alone)" in found.text


def test_one_chip_says_nothing_about_others() -> None:
    found = said(table(0.02, chips=1, direct={1.0: 0.1}, hwa={1.0: 0.05}), study())
    assert (found.direct, found.training) == ("unknown", "unknown")
    assert "so few chips or samples do not say whether that is a loss" in found.text


def test_phases_alone() -> None:
    found = said(table(0.02, direct={1.0: 0.1}), study())
    assert (found.direct, found.training) == ("worse", "")
    found = said(table(0.02, hwa={1.0: 0.1}), study())
    assert (found.direct, found.training) == ("", "worse")
    assert "below the digital model" in found.text and "leave it out" not in found.text
    assert conclude(table(0.02), study()) == []


def test_every_engine_has_its_own_sentence() -> None:
    both = [table(0.02, engine=engine, direct={1.0: 0.1}) for engine in ("native", "aihwkit")]
    found = conclude(pd.concat(both, ignore_index=True), study())
    assert [conclusion.engine for conclusion in found] == ["native", "aihwkit"]


@pytest.mark.parametrize(
    ("low", "high", "sign"),
    [
        (0.001, 0.2, "worse"),
        (-0.2, -0.001, "better"),
        (0.0, 0.01, "none"),
        (-0.01, 0.01, "none"),
        (-0.011, 0.001, "unsure"),
        (math.nan, math.nan, "unknown"),
    ],
)
def test_the_interval_decides(low: float, high: float, sign: str) -> None:
    assert Effect((low + high) / 2, low, high, "chips").sign == sign


def test_changes_are_paired_sample_by_sample(tmp_path) -> None:
    """Four samples and two chips, by hand; what both phases get wrong cancels."""
    right = {
        "direct": [[1, 1, 0, 0], [1, 0, 0, 0]],
        "hwa": [[1, 1, 1, 0], [1, 1, 0, 0]],
    }
    digital = tmp_path / "digital.safetensors"
    Answers(digital).add(None, torch.tensor([True, True, True, False]))
    files: dict[tuple[str, str, str], Kept | None] = {}
    for phase, chips in right.items():
        path = tmp_path / f"{phase}.safetensors"
        for seed, bits in enumerate(chips):
            chip = _Chip(seed, 1.0)
            Answers(path).add(chip, torch.tensor(bits, dtype=torch.bool))  # type: ignore[arg-type]
        files[phase, "native", DATA] = Kept(digital, path, (0, 1))
    rows = {
        (row["phase"], row["minus"]): row
        for row in answer_intervals.changes([files], [1.0], own_digital=True)
    }
    assert set(rows) == {("direct", "digital"), ("hwa", "digital"), ("hwa", "direct")}
    assert rows["direct", "digital"]["mean"] == pytest.approx(3 / 8)
    assert rows["hwa", "digital"]["mean"] == pytest.approx(1 / 8)
    assert rows["hwa", "direct"]["mean"] == pytest.approx(-2 / 8)
    assert rows["hwa", "direct"]["over"] == "chips, samples"
    assert (rows["hwa", "direct"]["units"], rows["hwa", "direct"]["samples"]) == (2, 4)


def test_without_answers_the_units_are_trainings() -> None:
    """Three trainings, 5 chips each: the chips of a training are not 5 samples of trainings."""
    parts = []
    for training, error in enumerate((0.10, 0.14, 0.12)):
        rows = table(0.02 + 0.01 * training, direct={YEAR_S: 0.30}, hwa={YEAR_S: error})
        parts.append(rows.assign(training_seed=training, seed=rows.seed + 10_000 * training))
    every = pd.concat(parts, ignore_index=True)
    found = said(every, study())
    low, high = stats.t.interval(0.95, 2, 0.18, np.std([0.20, 0.16, 0.18], ddof=1) / math.sqrt(3))
    assert f"18.0 points ({100 * low:.1f} to {100 * high:.1f}, over trainings alone)" in found.text
    lost = np.array([0.28, 0.27, 0.26])
    low, high = stats.t.interval(0.95, 2, 0.27, lost.std(ddof=1) / math.sqrt(3))
    assert f"27.0 points of accuracy (95 % interval {100 * low:.1f} to {100 * high:.1f}, over" in (
        found.text
    )

    once = every[(every.phase != "direct") | (every.training_seed == 0)]
    found = said(once, study())
    chips = once[(once.phase == "direct") & (once.metric == "error")].value
    welch = independent_change(chips, [0.10, 0.14, 0.12])
    gain = (
        f"18.0 points ({-100 * welch.high:.1f} to {-100 * welch.low:.1f}, over trainings and chips)"
    )
    assert gain in found.text
    assert "loses 28.00 points" in found.text  # from the digital model of its own training


class _Chip:
    """The two facts of a programmed chip that its answers are kept under."""

    def __init__(self, seed: int, t_inference: float) -> None:
        self.seed, self.t_inference = seed, t_inference
