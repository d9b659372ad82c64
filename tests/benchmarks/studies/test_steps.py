"""The steps of a long command: their lines, the time that is left, and where it is known from."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from aimc_bridge.commands import Output
from benchmarks.studies import estimates, steps
from benchmarks.studies.estimates import Costs, Estimate, duration, total
from benchmarks.studies.steps import Step, Steps


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    moved = Clock()
    monkeypatch.setattr(steps, "time", moved)
    return moved


def three(known: Costs) -> Steps:
    listed = [
        Step("a", "training", (("train", 100.0),)),
        Step("b", "chips", (("chips", 10.0),)),
        Step("c", "more chips", (("chips", 20.0),)),
    ]
    return Steps(listed, Output(), known)


def test_each_step_has_a_line_with_what_is_left_in_all(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """The time left is corrected by what the finished steps took: here twice the prediction."""
    known = Costs(tmp_path / "timings.json")
    known.here = {"train": [0.1, 0.1, 9.0], "chips": [3.0]}  # the shortest counts
    work = three(known)
    assert work.estimate() == Estimate(10.0 + 30.0 + 60.0, True)
    with work.doing("a"):
        clock.now += 20.0
    assert work.left_s() == pytest.approx(2 * 90.0)
    work.skip("b")
    with work.doing("c"):
        pass
    assert work.left_s() == 0.0
    assert capsys.readouterr().err.splitlines() == [
        "[1/3] training (about 2 min left in all)",
        "[3/3] more chips (about 2 min left in all)",
    ]


def test_what_is_around_the_steps_counts(
    tmp_path: Path, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is what a command takes beside its steps; each number of processes has its own."""
    known = Costs(tmp_path / "timings.json")
    listed = [Step(name, name, (("work", 10.0),), name) for name in "ab"]

    def did(lanes: int, seconds: float) -> Steps:
        work = Steps(listed, Output(), known, around="mine")
        work.lanes = lanes
        clock.now += 6.0
        for name in "ab":
            work.begin(name)
        clock.now += seconds
        for name in "ab":
            work.end(name, seconds=10.0)
        clock.now += 3.0
        work.close()
        return work

    did(1, 20.0)  # 6 s before the steps, 3 s after them
    work = Steps(listed, Output(), known, around="mine")
    work.lanes = 2  # never timed: at least what one process takes
    assert work.estimate() == Estimate(10.0 + 9.0, False)
    did(2, 10.0)
    work = Steps(listed, Output(), known, around="mine")
    assert work.estimate() == Estimate(20.0 + 9.0, True)
    work.lanes = 2
    assert work.estimate().seconds == pytest.approx(10.0 + 9.0)
    assert Steps(listed, Output(), known).estimate() == Estimate(20.0, True)
    work.lanes = 1
    clock.now += 6.0
    work.begin("a")
    assert capsys.readouterr().err.splitlines()[-1] == "[1/2] a (about 25 s left in all)"  # 20 + 3
    work.skip("a")
    work.begin("b")
    clock.now += 1000.0
    work.end("b")
    before = (tmp_path / "timings.json").read_text()
    work.close()  # a part of the run was done before: this says nothing
    assert (tmp_path / "timings.json").read_text() == before


def test_without_costs_the_first_steps_say_what_the_others_take(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    work = three(Costs(None))
    work._predicted = dict.fromkeys("abc")
    with work.doing("a"):
        clock.now += 8.0
    assert work.left_s() == 16.0
    assert capsys.readouterr().err == "[1/3] training\n"


def test_times_are_kept_for_the_next_run(tmp_path: Path, clock: Clock) -> None:
    file = tmp_path / "timings.json"
    work = three(Costs(file))
    with work.doing("a"):
        clock.now += 50.0
    with work.doing("b", whole=False):  # It went on after an interruption.
        clock.now += 5.0
    again = Costs(file)
    assert again.seconds("train", 10.0) == (5.0, True)
    assert again.seconds("chips", 10.0) is None
    for seconds in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0):
        again.note("chips", 1.0, seconds)
    assert Costs(file).seconds("chips", 2.0) == (4.0, True)  # the shortest of the last five


@pytest.mark.parametrize("text", ["", "[]", "{", '{"x": 3}', '{"x": {"train": "y"}}'])
def test_a_damaged_file_is_no_error(tmp_path: Path, text: str) -> None:
    file = tmp_path / "timings.json"
    file.write_text(text)
    assert Costs(file).seconds("no such work", 1.0) is None
    Costs(file).note("train", 1.0, 2.0)
    assert Costs(file).seconds("train", 1.0) == (2.0, True)


def test_another_machines_costs_are_scaled_by_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    reference = json.loads(estimates.REFERENCE.read_text())
    kind, cost = next(iter(reference["costs"].items()))
    monkeypatch.setattr(estimates, "test_s", lambda: 3.0 * reference["test_s"])
    assert Costs(None).seconds(kind, 2.0) == (pytest.approx(6.0 * cost), False)
    assert estimates.Costs(None).seconds("no such work", 1.0) is None


def test_one_time_of_a_busy_moment_does_not_outweigh_the_scaled_cost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reference = json.loads(estimates.REFERENCE.read_text())
    kind, cost = next(iter(reference["costs"].items()))
    monkeypatch.setattr(estimates, "test_s", lambda: reference["test_s"])
    known = Costs(None)
    known.here = {kind: [40 * cost]}
    assert known.seconds(kind, 1.0) == (pytest.approx(cost), False)
    known.here = {kind: [40 * cost, 2 * cost, 3 * cost]}  # a slow machine, three times
    assert known.seconds(kind, 1.0) == (pytest.approx(2 * cost), True)
    known.here = {kind: [0.5 * cost]}
    assert known.seconds(kind, 1.0) == (pytest.approx(0.5 * cost), True)


def test_the_test_of_speed_does_not_count_the_time_of_other_programs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The wall clock runs a thousand times as fast, as if others had the processor."""
    real = time.perf_counter
    monkeypatch.setattr(time, "perf_counter", lambda: 1000 * real())
    monkeypatch.setattr(time, "monotonic", lambda: 1000 * real())
    estimates.test_s.cache_clear()
    try:
        assert 0 < estimates.test_s() < 1.0
    finally:
        estimates.test_s.cache_clear()


def test_an_estimate_says_how_sure_it_is() -> None:
    here, scaled = (60.0, True), (240.0, False)
    assert total([("a", here)]).text().startswith("time: about 60 s (the fastest of earlier")
    assert "scaled from another machine" in total([("a", here), ("b", scaled)]).text()
    text = total([("a", scaled), ("b", None), ("b", None)]).text()
    assert text.startswith("time: 4 min or more") and text.endswith("never timed: b)")
    text = total([("a", scaled), ("b", None), ("c", None), ("d", None)]).text()
    assert text.endswith("never timed: b, and 2 more)")
    assert "not known" in total([("b", None)]).text()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (7.4, "7 s"),
        (43.0, "45 s"),
        (89.0, "90 s"),
        (100.0, "2 min"),
        (3000.0, "50 min"),
        (7800.0, "2 h 10 min"),
        (90000.0, "25 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
