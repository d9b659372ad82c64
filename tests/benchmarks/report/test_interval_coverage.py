"""How often intervals hold the truth: the laws of the answers, and a small measurement."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.report import coverage_page
from benchmarks.report import record as records
from benchmarks.studies.interval_coverage import (
    SCENARIOS,
    Coverage,
    Scenario,
    coverage,
    draw,
    tables_of,
    truth_of,
)
from tests import stats

SMALL = Scenario("small", 0.8, 0.9, 300, 5, trainings=3, shared=0.8, of_trainings=0.05)
WORKED = SCENARIOS[3]


@pytest.mark.parametrize(
    "scenario",
    [
        SMALL,
        replace(SMALL, shared=0.0, of_trainings=0.2),
        replace(SMALL, of_digital=0.2, lost=0.4),
        replace(SMALL, run=10),
    ],
)
def test_the_truth_is_the_mean_of_what_is_drawn(scenario: Scenario) -> None:
    """Means of many data sets agree with the closed forms, within their standard errors.

    A* is a ratio, whose mean is off by less than a thousandth here. Truths that are a hundredth off
    would fail.
    """
    numbers, truth = np.random.default_rng(3), truth_of(scenario)
    large = replace(scenario, samples=3000, chips=2)
    means = np.array(
        [
            [table.mean() for table in tables_of(draw(large, numbers), scenario.chance)]
            for _ in range(400)
        ]
    )
    errors = means.std(0, ddof=1) / math.sqrt(len(means))
    allowed = stats.quantile() * errors + (0.0, 1e-3)
    assert (np.abs(means.mean(0) - truth) <= allowed).all()
    assert (allowed < 0.02).all()


def test_answers_have_the_accuracy_and_the_difficulty_they_should() -> None:
    """Without luck a chip errs where the digital model does, or apart from it if none is shared."""
    numbers = np.random.default_rng(0)
    for shared, alike in ((1.0, 1.0), (0.0, 0.8**2 + 0.2**2)):
        scenario = Scenario(
            *("x", 0.8, 0.9, 100_000, 1), shared=shared, of_trainings=0, of_chips=0, lost=0
        )
        ((digital, chips),) = draw(scenario, numbers)
        assert digital.mean() == pytest.approx(0.8, abs=0.01)
        assert (digital == chips[0]).mean() == pytest.approx(alike, abs=0.01)


ALIKE = replace(SMALL, of_trainings=0.01, of_chips=0.02)


@pytest.mark.parametrize(
    "scenario",
    [
        replace(SMALL, trainings=1, of_trainings=0.0, chips=25),
        replace(SMALL, trainings=1, of_trainings=0.0, shared=0.0),
        ALIKE,
        replace(ALIKE, of_digital=0.01, shared=0.0),
    ],
)
def test_intervals_hold_the_truth_and_those_over_chips_alone_do_not(scenario: Scenario) -> None:
    """A small part of `python -m benchmarks.intervals`, with the same bounds.

    500 data sets have a binomial sd of 0.8 %; 3 of them are allowed beyond 93 and 97 %. Student's t
    over chips or trainings alone, as in records without answers, is outside of these bounds.
    """
    sets = 500
    found = coverage(scenario, sets)
    allowed = 3 * math.sqrt(0.03 * 0.97 / sets)
    low, high = coverage_page.LEAST - allowed, coverage_page.MOST + allowed
    for held in (found.error, found.star):
        assert low <= held <= high
    assert found.chips_alone < low


def test_an_interval_over_one_training_does_not_cover_another_one() -> None:
    one = replace(SMALL, trainings=1, samples=2000, of_trainings=0.1)
    assert coverage(one, 200).star < 0.8


def a_record(*measured: Coverage) -> records.Record:
    return coverage_page.record_of(
        [*SCENARIOS[: len(measured) - 1], SCENARIOS[-1]],
        measured,
        name="intervals",
        command="python -m benchmarks.intervals",
        arguments={"sets": 10, "seed": 0},
        versions={},
        hardware={},
    )


def test_the_record_and_its_tables(tmp_path, monkeypatch) -> None:
    good, bad = Coverage(0.95, 0.955, 0.5, 0.0123), Coverage(0.95, 0.92, 0.5, 0.02)
    record = a_record(good, bad, bad)
    (line,) = coverage_page.outside(record)  # the last one is not claimed
    assert line == "2 classes, 95 % right, 25 chips x 1: A* 92.0 %"
    assert coverage_page.outside(a_record(good, bad)) == []
    monkeypatch.setattr(records, "FOLDER", tmp_path)
    assert coverage_page.section() == ""
    records.add(record)
    (again,) = records.of_kind("intervals")
    assert coverage_page.rows_of(again) == coverage_page.rows_of(record)
    text = coverage_page.section()
    assert "it is covered" not in text and "in 92.0 to 95.5 %" in text
    first, second = text.split("Not covered")
    assert "| 2 classes, 95 % right | 872 | 5 | 1 | 95.0 % | 95.5 % | 1.23 | 50.0 % |" in first
    assert "neighbours" in second and "neighbours" not in first


def test_the_command_says_what_is_outside(capsys, monkeypatch) -> None:
    from benchmarks import intervals

    chosen = (replace(SMALL, samples=40, trainings=1, of_trainings=3.0), replace(SMALL, samples=40))
    monkeypatch.setattr(intervals, "SCENARIOS", chosen)
    assert intervals.main(["--sets", "30", "--quiet"]) == 1
    monkeypatch.setattr(intervals, "SCENARIOS", (replace(chosen[0], claimed=False),))
    assert intervals.main(["--sets", "30"]) == 0
    assert "Not covered" in capsys.readouterr().out
    assert intervals.main(["--dry-run"]) == 0
    assert capsys.readouterr().out == "small\n"
