"""The speed benchmark's growth, command, records and page; no test asserts a time."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aimc_bridge.errors import UsageError
from benchmarks import record as record_command
from benchmarks.report import figures, folders, pages, speed_page, speed_records, speed_tables
from benchmarks.report import record as records
from benchmarks.report import speed as report
from benchmarks.report.record import Record, digest, read
from benchmarks.speed import growth
from benchmarks.speed.__main__ import main
from benchmarks.speed.goals import MEASURES
from benchmarks.speed.groups import chosen
from benchmarks.speed.growth import Curve, Point

# --- growth ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Record, Path]:
    out = tmp_path_factory.mktemp("growth")
    assert main(["--growth", "--size", "tiny", "--threads", "1", "--out", str(out)]) == 0
    return read(out / "speed.json"), out


def test_growth_measures_every_family(grown: tuple[Record, Path]) -> None:
    record, out = grown
    curves = {(c.family, c.operation): c for c in speed_records.curves_of(record)}
    layers = itertools.product(("width", "tiles"), ("forward", "program", "drift"))
    others = {("batch", "forward"), ("chips", "sweep"), ("times", "sweep")}
    assert set(curves) == {*layers, *others}
    ladder = growth.LADDERS["tiny"]
    assert curves["width", "forward"].sizes() == list(ladder.widths)
    assert curves["tiles", "drift"].sizes() == [1, 4, 16]
    for curve in curves.values():
        for point in curve.points:
            assert len(point.seconds) == ladder.rounds and min(point.seconds) > 0
            assert point.peak is not None and point.peak > 0 and point.held > 0
    text = (out / "summary.md").read_text()
    assert "time of sweep against chips" in text and "memory held of program against width" in text
    assert "![cost against size](growth.png)" in text and "clean forward pass" in text
    assert figures.description_of(out / "growth.png") == digest(record)
    assert set(record.extra["held"]) == {"WRN-10-1", "LSTM 2 x 6", "BERT, reduced, one layer"}


def test_exponents_by_hand() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert growth.exponent(sizes, [7.0 * n for n in sizes]) == pytest.approx(1.0)
    assert growth.exponent(sizes, [n * n for n in sizes]) == pytest.approx(2.0)
    assert growth.exponent(sizes, [5.0] * 5) == pytest.approx(0.0)
    # The cost of a call that does not depend on its size hides growth at small sizes, so these do
    # not count.
    assert growth.exponent(sizes, [1e6, 1e6, 4.0, 8.0, 16.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("power", "verdict"), [(0.4, "linear or less"), (1.0, "linear or less"), (1.2, "faster")]
)
def test_growth_verdicts(power: float, verdict: str) -> None:
    points = [Point(n, [n**power, 9 * n**power, n**power], 8, 16) for n in (2.0, 4.0, 8.0)]
    about: dict[str, Any] = {"name": "x", "command": "", "versions": {}, "hardware": {}}
    curve = Curve("batch", "forward", points)
    record = speed_records.record_of_curves([curve], {}, **about, arguments={}, extra={})
    assert speed_records.curves_of(record) == [curve]
    rows = report.growth_rows(record)
    assert [(row["cost"], row["verdict"]) for row in rows] == [
        ("time of forward against batch", verdict),
        ("peak memory of forward against batch", "linear or less"),
    ]
    assert rows[0]["exponent"] == pytest.approx(power)


# --- the command, records, the page ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "nothing-*"], "--only nothing-*: no such group; there are: wrn-forward"),
        (["--only"], "--only names no group"),
        (["--threads", "0"], "--threads 0; allowed: 1 or more"),
        (["--train-images", "-1"], "--train-images -1; allowed: 1 or more"),
        (["--times", "soon"], "time 'soon' is not understood"),
        (["--times"], "--times names no time"),
        (["--device", "tpu"], 'Invalid value "tpu" for --device'),
        (["--quick", "--size", "tiny"], "--quick and --size tiny contradict"),
        (["--growth", "--only", "sweep"], "--growth measures other things"),
        (["--size", "huge"], 'Invalid value "huge" for --size'),
        (["extra"], "extra"),
        (["--rounds", "two"], "--rounds two; allowed: a whole number, 1 or more"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "never")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and message in error and len(error.splitlines()) == 1
    assert not (tmp_path / "never").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_bad_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cuda"]) == 2
    assert "torch sees no CUDA device here" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("mine")
    assert main(["--out", str(file)]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err and file.read_text() == "mine"


def test_choosing_groups() -> None:
    names = ("wrn-forward", "wrn-chip", "sweep")
    assert chosen(["sweep", "wrn-*"], names) == list(names)
    assert chosen(["*-forward"], names) == ["wrn-forward"]
    with pytest.raises(UsageError, match="there are: wrn-forward, wrn-chip, sweep"):
        chosen(["lstm"], names)


CHIP = ["--only", "wrn-chip", "--no-aihwkit", "--rounds", "1", "--size", "tiny", "--threads", "1"]


def test_a_record_is_kept_and_the_page_written(
    grown: tuple[Record, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    sections = [section for section in pages.SECTIONS if section.name in speed_page.SECTIONS]
    monkeypatch.setattr(pages, "SECTIONS", sections)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    page = tmp_path / "docs" / "speed.md"
    page.parent.mkdir()
    marks = [
        f"<!-- {name} -->\nTO BE WRITTEN\n<!-- /{name} -->\nafter\n" for name in speed_page.SECTIONS
    ]
    page.write_text("before\n" + "".join(marks))
    assert speed_tables.details() == ""
    out = tmp_path / "speed-one"
    assert main(["--only", "mlp-forward", *CHIP[2:], "--out", str(out)]) == 0
    assert record_command.main(["add", str(out)]) == 0
    assert record_command.main(["add", str(grown[1]), "--name", "two"]) == 0
    first, second = records.of_kind("speed", "growth")
    assert (first.name, first.kind) == ("speed-one", "speed")
    assert (second.name, second.kind) == ("speed-two", "growth")
    assert [list(row[:2]) for row in first.rows] == [
        ["mlp-forward", "digital"],
        ["mlp-forward", "native"],
    ]
    assert len(first.rows[0][-1]) == 1
    assert speed_tables.summary(first) in speed_tables.details()
    assert record_command.main(["write"]) == 0
    # Tiny sizes prove nothing, so the page leaves them out.
    assert page.read_text().count(pages.NOTHING) == len(sections)
    for record in (first, second):
        full = replace(record, arguments={**record.arguments, "size": "full"})
        records.add(full, replace=True)
    first, second = records.of_kind("speed", "growth")
    assert record_command.main(["write"]) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- speed -->\n\n") and text.endswith("-->\nafter\n")
    assert (
        "TO BE WRITTEN" not in text and "[speed-one](../benchmarks/records/speed-one.json)" in text
    )
    assert "![cost against size](figures/speed-two.png)" in text
    drawn = figures.description_of(page.parent / "figures" / "speed-two.png")
    assert drawn == digest(second) and list(pages.problems()) == []


def test_an_interrupted_measurement_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Finished measurements are stored and not repeated.

    An unfinished measurement is no record.
    """
    words = ["--only", "wrn-chip", "sweep", *CHIP[2:], "--out", str(tmp_path / "out")]
    ran: list[str] = []
    true = dict(MEASURES)

    def noted(name: str, stop: bool) -> None:
        def measure(setting: Any) -> Any:
            if stop:
                raise KeyboardInterrupt
            ran.append(name)
            return true[name](setting)

        monkeypatch.setitem(MEASURES, name, measure)

    noted("wrn-chip", False)
    noted("sweep", True)
    assert main(words) == 130
    assert "to go on: --resume" in capsys.readouterr().err
    first = read(tmp_path / "out" / "speed.json")
    assert [row[0] for row in first.rows] == ["wrn-chip"] and not first.extra["finished"]
    assert record_command.main(["add", str(tmp_path / "out"), "--dry-run"]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert main(words) == 2  # It goes on only with --resume.
    assert main([*words, "--resume", "--chips", "3"]) == 2
    assert "with other arguments (goals.chips None, now 3)" in capsys.readouterr().err
    noted("sweep", False)
    assert main([*words, "--resume"]) == 0
    assert ran == ["wrn-chip", "sweep"]
    whole = read(tmp_path / "out" / "speed.json")
    assert list(whole.rows[0]) == list(first.rows[0]) and "finished" not in whole.extra
    (tmp_path / "out" / "summary.md").unlink()  # as if it had died before the last file
    assert main([*words, "--resume"]) == 0 and len(ran) == 2
    (tmp_path / "out" / "summary.md").unlink()
    folders.rebuild(tmp_path / "out")
    text = (tmp_path / "out" / "summary.md").read_text()
    assert text == f"# Speed\n\n{speed_tables.summary(whole)}\n"


def test_a_dry_run_measures_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--only", "wrn-*", "--dry-run", "--json", "--out", str(tmp_path / "out")]
    assert main(words) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan == ["wrn-forward", "wrn-training", "wrn-chip"] and not (tmp_path / "out").exists()


def test_another_runs_folder_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "summary.md").write_text("of another run")
    assert main(["--size", "tiny", "--only", "wrn-chip", "--out", str(tmp_path)]) == 2
    assert "is not empty; name another folder, or add --resume\n" in capsys.readouterr().err
    words = ["--size", "tiny", "--only", "wrn-chip", "--out", str(tmp_path), "--resume"]
    assert main(words) == 2
    assert "no measurement to go on with; name another --out\n" in capsys.readouterr().err
    assert (tmp_path / "summary.md").read_text() == "of another run"


def test_an_interruption_is_exit_code_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(MEASURES, "wrn-chip", interrupted)
    words = ["--size", "tiny", "--only", "wrn-chip", "--threads", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 130
