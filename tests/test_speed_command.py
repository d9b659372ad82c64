"""The speed benchmark's growth, command, records and page; no test asserts a time."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from PIL import Image

from aimc_bridge.errors import DataError, UsageError
from benchmarks.report import speed as record
from benchmarks.speed import growth, targets
from benchmarks.speed.__main__ import main
from benchmarks.speed.goals import MEASURES
from benchmarks.speed.groups import chosen
from benchmarks.speed.growth import Curve, Point
from benchmarks.speed.works import FULL

# --- growth ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[record.Record, Path]:
    out = tmp_path_factory.mktemp("growth")
    assert main(["--growth", "--size", "tiny", "--threads", "1", "--out", str(out)]) == 0
    return record.read(out / "speed.json"), out


def test_growth_measures_every_family(grown: tuple[record.Record, Path]) -> None:
    made, out = grown
    curves = {(c.family, c.operation): c for c in record.curves_of(made)}
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
    with Image.open(out / "growth.png") as image:
        assert image.info["Description"] == record.digest(made)
    assert set(made["held"]) == {"WRN-10-1", "LSTM 2 x 6", "BERT, reduced, one layer"}


def test_exponents_by_hand() -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert growth.exponent(sizes, [7.0 * n for n in sizes]) == pytest.approx(1.0)
    assert growth.exponent(sizes, [n * n for n in sizes]) == pytest.approx(2.0)
    assert growth.exponent(sizes, [5.0] * 5) == pytest.approx(0.0)
    # what a call costs whatever its size hides growth at small sizes: they do not count
    assert growth.exponent(sizes, [1e6, 1e6, 4.0, 8.0, 16.0]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("power", "verdict"), [(0.4, "linear or less"), (1.0, "linear or less"), (1.2, "faster")]
)
def test_growth_verdicts(power: float, verdict: str) -> None:
    points = [Point(n, [n**power, 9 * n**power, n**power], 8, 16) for n in (2.0, 4.0, 8.0)]
    made = {"growth": [Curve("batch", "forward", points).to_dict()]}
    rows = record.growth_rows(made)
    assert [(row["cost"], row["verdict"]) for row in rows] == [
        ("time of forward against batch", verdict),
        ("peak memory of forward against batch", "linear or less"),
    ]
    assert rows[0]["exponent"] == pytest.approx(power)


# --- the command, records, the page ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only", "nothing-*"], "--only nothing-*: no such group; there are: wrn-forward"),
        (["--only"], "--only names no group"),
        (["--threads", "0"], "--threads 0; allowed: 1 or more"),
        (["--train-images", "-1"], "--train-images -1; allowed: 1 or more"),
        (["--times", "9"], "--times 9; allowed: 1 to 8"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--quick", "--size", "tiny"], "--quick and --size tiny contradict"),
        (["--growth", "--only", "sweep"], "--growth measures other things"),
        (["--record", "../x"], "--record '../x'; allowed: letters"),
        (["--size", "huge"], "invalid choice"),
        (["extra"], "unrecognized arguments: extra"),
        (["--rounds", "two"], "invalid int value"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([*arguments, "--out", str(tmp_path / "never")]) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and said in error and len(error.splitlines()) == 1
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


def test_a_record_is_kept_and_the_page_written(
    grown: tuple[record.Record, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, docs = tmp_path / "records", tmp_path / "docs"
    monkeypatch.setattr(record, "FOLDER", folder)
    monkeypatch.setattr(record, "DOCS", docs)
    docs.mkdir()
    page = docs / "speed.md"
    page.write_text("before\n<!-- speed -->\nold\n<!-- /speed -->\nafter\n")
    assert record.section() == "No record yet."
    out = ["--out", str(tmp_path / "out")]
    chosen_groups = ["--only", "wrn-chip", "--no-aihwkit", "--rounds", "1", "--size", "tiny"]
    assert main([*chosen_groups, "--threads", "1", "--record", "one", *out]) == 0
    kept = record.read(folder / "speed-one.json")
    assert kept["name"] == "speed-one" and kept["kind"] == "speed"
    assert [group["name"] for group in kept["groups"]] == ["wrn-chip"]
    assert [len(side["seconds"]) for side in kept["groups"][0]["sides"]] == [1]
    record.write({**grown[0], "name": "speed-two"}, folder / "speed-two.json")
    capsys.readouterr()
    assert main(["--docs"]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = page.read_text()
    assert text.startswith("before\n<!-- speed -->\n\n### speed-one\n")
    assert text.endswith("\n\n<!-- /speed -->\nafter\n") and "old" not in text
    assert record.summary(kept) in text
    assert "![cost against size](figures/speed-two.png)" in text
    assert (docs / "figures" / "speed-two.png").exists()
    page.write_text("no marks")
    assert main(["--docs"]) == 2


def test_another_runs_folder_is_left_alone(tmp_path: Path, capsys) -> None:
    (tmp_path / "summary.md").write_text("of another run")
    assert main(["--size", "tiny", "--only", "wrn-chip", "--out", str(tmp_path)]) == 2
    assert "is not empty; name another folder\n" in capsys.readouterr().err
    assert (tmp_path / "summary.md").read_text() == "of another run"


def test_an_interruption_is_exit_code_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(MEASURES, "wrn-chip", interrupted)
    words = ["--size", "tiny", "--only", "wrn-chip", "--threads", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 130


@pytest.mark.parametrize("text", ["{", "3", "[]", '{"name": "x"}'])
def test_damaged_records_are_named(text: str, tmp_path: Path) -> None:
    file = tmp_path / "speed-x.json"
    file.write_text(text)
    with pytest.raises(DataError, match=r"speed-x\.json"):
        record.read(file)


def test_the_page_shows_the_records_and_nothing_else() -> None:
    """`python -m benchmarks.speed --docs` writes what belongs there."""
    text = (record.DOCS / "speed.md").read_text()
    begin, end = record.MARKS
    assert text.count(begin) == 1 and text.count(end) == 1
    assert text.partition(begin)[2].partition(end)[0].strip() == record.section()
    for file in record.files():
        made = record.read(file)
        assert made["name"] == file.stem and made["kind"] == "speed"
        if made.get("growth"):
            with Image.open(record.DOCS / "figures" / f"{file.stem}.png") as image:
                assert image.info["Description"] == record.digest(made)


def test_the_page_names_every_group_and_option() -> None:
    text = (record.DOCS / "speed.md").read_text()
    for group in targets.GROUPS:
        assert f"`{group}`" in text
    for option in ("--quick", "--growth", "--only", "--device cuda", "--record", "--docs"):
        assert option in text
    assert f"{FULL.lstm_words:,} words" in text
