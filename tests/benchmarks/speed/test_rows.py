"""The speed benchmark's rows: every row runs, and its record stores what it measured."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import machine
from benchmarks.report import speed as report
from benchmarks.report import speed_records, speed_tables
from benchmarks.report.record import Record, read, write
from benchmarks.speed import goals, sides, targets
from benchmarks.speed.__main__ import main
from benchmarks.speed.groups import Group
from benchmarks.speed.growth import Curve, Point
from benchmarks.speed.targets import TARGETS
from benchmarks.speed.timing import Measured, quartiles
from benchmarks.speed.works import TINY

SMALL_GOALS = (
    *("--images", "5", "--sentences", "3", "--train-images", "8", "--batch", "3"),
    *("--train-batch", "4", "--chips", "2", "--times", "1s", "1h"),
)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Measure everything at tiny sizes, through the command."""
    out = tmp_path_factory.mktemp("speed") / "out"
    arguments = ["--size", "tiny", "--threads", "1", "--only", "*", "--out", str(out)]
    assert main([*arguments, *SMALL_GOALS]) == 0
    assert (out / "summary.md").read_text().startswith("# Speed\n")
    return read(out / "speed.json")


def test_every_target_has_a_row(measured: Record) -> None:
    rows = {row["row"]: row for row in report.rows_of(measured)}
    absent = {target.row for target in TARGETS} - set(rows)
    lightning = {target.row for target in TARGETS if "aihwkit-lightning" in target.base}
    assert absent == (set() if sides.lightning_installed() else lightning)
    for row in rows.values():
        assert row["value"] > 0 and math.isfinite(row["value"])
        assert row["low"] <= row["value"] <= row["high"]
        assert row["verdict"] == ""  # Tiny sizes prove nothing.
    skipped = [line for group in measured.extra["groups"] for line in group["skipped"]]
    if not sides.lightning_installed():
        assert any("aihwkit-lightning: not installed" in line for line in skipped)
    assert any("leaves nn.LSTM digital" in line for line in skipped)
    assert not [line for line in skipped if "not installed" not in line and "nn.LSTM" not in line]


def test_the_record_keeps_every_repeat_and_what_it_ran_on(measured: Record) -> None:
    assert measured.command.startswith("python -m benchmarks.speed --size tiny")
    assert measured.hardware["torch_threads"] == 1 and measured.hardware["cpu"]
    assert measured.versions["torch"] == torch.__version__.partition("+")[0]
    assert "out_noise=0.0" in measured.extra["presets"]["DAC/ADC only"]
    for group in speed_records.groups_of(measured):
        rounds = {len(side.seconds) for side in group.sides if side.name != "sweep"}
        assert len(rounds) == 1, group.name
        for side in group.sides:
            assert any(value is not None and value > 0 for value in side.seconds)
    forward = next(g for g in speed_records.groups_of(measured) if g.name == "wrn-forward")
    (digital,) = forward.of("digital")
    assert len(digital.seconds) == TINY.rounds and digital.peak is not None and digital.peak > 0
    sizes = [side.size for side in forward.of(targets.CPP)]
    assert sizes == list(TINY.few)
    assert all("extrapolated" in side.note for side in forward.of(targets.CPP))
    (torch_side,) = forward.of(targets.TORCH)
    assert "w_noise, ir_drop" in torch_side.note


def test_what_allocators_are_told_is_kept_and_shown(
    measured: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "123")
    monkeypatch.setenv("MALLOCATOR", "other")
    settings = machine.hardware()["allocator"]
    assert (
        settings == {**settings, "MALLOC_TRIM_THRESHOLD_": "123"} and "MALLOCATOR" not in settings
    )
    hardware = {**measured.hardware, "allocator": {"MALLOC_TRIM_THRESHOLD_": "123"}}
    assert "`MALLOC_TRIM_THRESHOLD_=123`" in speed_tables.summary(
        replace(measured, hardware=hardware)
    )
    plain = {key: value for key, value in hardware.items() if key != "allocator"}
    assert "in the environment" not in speed_tables.summary(replace(measured, hardware=plain))


def test_rows_are_what_the_repeats_say(measured: Record) -> None:
    rows = {row["row"]: row for row in report.rows_of(measured)}
    groups = {group.name: group for group in speed_records.groups_of(measured)}

    def seconds(group: str, side: str) -> list[float]:
        (measured_side,) = groups[group].of(side)
        return [value for value in measured_side.seconds if value is not None]

    pairs = zip(seconds("wrn-forward", "native"), seconds("wrn-forward", "digital"), strict=True)
    expected = sorted(a / b for a, b in pairs)
    # This is the mean of two rounds.
    assert rows["forward-all"]["value"] == pytest.approx(sum(expected) / 2)
    first = groups["wrn-chip"].of(targets.CPP)[0].seconds[0]
    assert first is not None
    assert rows["wrn-chip-cpp"]["value"] == pytest.approx(first / seconds("wrn-chip", "native")[0])
    program = groups["bert-program"]
    (part,) = program.of(targets.CPP)
    assert part.seconds[0] is not None
    scaled = part.seconds[0] * program.size / part.size
    native = seconds("bert-program", "native")
    assert rows["bert-program-cpp"]["value"] == pytest.approx(scaled / native[0])
    assert rows["bert-program"]["value"] == pytest.approx(sum(native) / 2)
    middle = {s: quartiles(seconds("sweep", s))[1] for s in ("program", "drift", "forward")}
    whole = 2 * middle["program"] + 4 * (middle["drift"] + middle["forward"])
    assert rows["sweep"]["value"] == pytest.approx(seconds("sweep", "sweep")[0] / whole)


def test_a_record_comes_back_from_its_file(measured: Record, tmp_path: Path) -> None:
    path = write(replace(measured, name="speed-x"), tmp_path / "deep" / "speed-x.json")
    again = read(path)
    assert again == replace(measured, name="speed-x")
    assert speed_records.groups_of(again) == speed_records.groups_of(measured)
    assert speed_tables.summary(again) == speed_tables.summary(measured)
    (row,) = [row for row in measured.rows if list(row[:2]) == ["wrn-forward", "digital"]]
    assert f"  {json.dumps(row)},\n" in path.read_text()  # It is on one line.


def test_the_tables_name_every_work_and_side(measured: Record) -> None:
    text = speed_tables.summary(measured)
    lines = text.splitlines()
    rows = report.rows_of(measured)
    head = "| work | result | quartiles | repeats | must | aim | verdict |"
    at = lines.index(head)
    assert [
        line.split(" | ")[0].removeprefix("| ") for line in lines[at + 2 : at + 2 + len(rows)]
    ] == [row["work"] for row in rows]
    for group in speed_records.groups_of(measured):
        for side in group.sides:
            assert any(line.startswith(f"| {group.work} | {side.name} |") for line in lines)
    assert "no number means anything" in text and "1 threads" in text


def test_targets_are_judged_only_where_they_were_stated_for(measured: Record) -> None:
    def verdicts(**changes: Any) -> dict[str, str]:
        arguments = {**measured.arguments, **changes}
        record = replace(measured, arguments=arguments)
        return {row["row"]: row["verdict"] for row in report.rows_of(record)}

    full, quick = verdicts(size="full"), verdicts(size="quick")
    assert full["forward-all"] and full["bert-program"] and not full["goal-wrn"]
    assert quick["forward-all"] and not quick["bert-program"]
    gpu = verdicts(size="full", device="cuda")
    # There are fewer images than the goal has.
    assert not gpu["forward-all"] and not gpu["goal-wrn"]
    goal = next(group for group in speed_records.groups_of(measured) if group.name == "goal-wrn")
    record = again(measured, [replace(goal, about=goals.SIZES)], size="full", device="cuda")
    (row,) = [row for row in report.rows_of(record) if row["row"] == "goal-wrn"]
    assert row["verdict"] == "met"


def again(record: Record, groups: list[Group], **arguments: Any) -> Record:
    """Return the record with other groups and arguments."""
    about = {key: getattr(record, key) for key in ("name", "command", "versions", "hardware")}
    about["arguments"] = {**record.arguments, **arguments}
    extra = {key: value for key, value in record.extra.items() if key != "groups"}
    return speed_records.record_of_groups(groups, **about, extra=extra)


def test_what_fails_is_named_at_full_size_only(measured: Record) -> None:
    group = Group(
        "wrn-forward",
        "WRN",
        "images",
        64,
        [
            Measured("digital", 64, seconds=[1.0, 1.0]),
            Measured("native", 64, seconds=[6.5, 6.1]),
            Measured("native, DAC/ADC only", 64, seconds=[1.2, 1.2]),
        ],
    )
    record = again(measured, [group], size="full")
    assert report.failures(record) == ["forward-all"]
    assert report.failures(again(measured, [group], size="quick")) == []
    curve = Curve("width", "forward", [Point(n, [n**1.2], None, 0) for n in (1.0, 2.0, 4.0)])
    about = {key: getattr(record, key) for key in ("name", "command", "versions", "hardware")}
    about["arguments"] = record.arguments
    grown = speed_records.record_of_curves([curve], {}, **about, extra={})
    assert report.failures(grown) == ["time of forward against width"]


@pytest.mark.cuda
def test_every_row_runs_on_a_gpu(tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["--size", "tiny", "--device", "cuda", "--out", str(out), *SMALL_GOALS]
    assert main(arguments) == 0
    record = read(out / "speed.json")
    rows = {row["row"] for row in report.rows_of(record)}
    assert {target.row for target in TARGETS if not target.base.startswith("aihwkit")} <= rows
    forward = next(g for g in speed_records.groups_of(record) if g.name == "wrn-forward")
    assert all(side.peak for side in forward.sides)
