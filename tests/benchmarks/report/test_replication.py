"""docs/replication.md: verdicts, rows that are not measured, reasons, figures, the claim."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest

from benchmarks import tasks
from benchmarks.report import claim, replication, run
from benchmarks.report import record as records
from benchmarks.report.replication import AGREES, DIFFERS, OPEN, Cell, verdict
from benchmarks.report.standing import ROWS, TILE_WISE
from benchmarks.studies.ladder.rungs import LADDER
from benchmarks.tasks.published import DAY, HOUR, YEAR
from presets import rasch2023

RESNET = replication.WANTED[1]
DATA = "CIFAR-10"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of records that replaces the committed ones."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    return tmp_path / "records"


def of_stars(
    name: str,
    stars: dict[tuple[str, float], tuple[float, float, float]],
    *,
    scaling: str = "column",
    digital: float = 0.06,
    interval: bool = True,
) -> records.Record:
    """Return the record of a run of ResNet-32 whose two chips have these A* (mean, low, high)."""
    columns = ["model", "dataset", "metric", "phase", "engine", "preset", "t_inference"]
    columns += ["chip", "seed", "value"]
    rows: list[list[Any]] = [
        ["ResNet-32", DATA, "error", "digital", "digital", None, None, None, 0, digital]
    ]
    for (phase, t_s), (mean, _, _) in stars.items():
        for chip, off in ((0, 0.001), (1, -0.001)):
            error = digital + (1 - mean - off) * (0.9 - digital)
            place = [phase, "native", "rasch2023", t_s, chip, chip]
            rows.append(["ResNet-32", DATA, "error", *place, error])
    intervals = [
        {
            **{"phase": phase, "engine": "native", "data": DATA, "t_inference": t_s, "minus": ""},
            **{"mean": mean, "low": low, "high": high, "over": "chips, samples"},
        }
        for (phase, t_s), (mean, low, high) in stars.items()
    ]
    study = {
        **{"model": "ResNet-32", "dataset": DATA, "metric": "accuracy", "chance_error": 0.9},
        "samples": {DATA: 10_000},
        "intervals": intervals if interval else [],
    }
    preset = (
        rasch2023.change(weight_scaling=scaling, why="test") if scaling != "column" else rasch2023
    )
    return records.Record(
        *("run", name, "python -m benchmarks.run resnet32"),
        {"tasks": ["resnet32"], "preset_data": preset.to_dict()},
        *({}, {}, columns, rows),
        {"studies": {"resnet32": study, "other": {"control": {}}}},
    )


def lines(text: str) -> list[list[str]]:
    """Return the cells of the lines of the page's table, without the headings."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in table[2:]]


def verdicts_of(text: str, kind: str) -> list[str]:
    """Return the digital difference and the verdicts of ResNet-32's row of a kind."""
    listed = lines(text)
    at = next(i for i, x in enumerate(listed) if x[0].startswith("ResNet-32") and x[1] == kind)
    ours, words = listed[at + 1], listed[at + 2]
    assert words[2] == "verdict", ours
    return words[3:8]


def test_a_verdict_is_about_the_whole_interval() -> None:
    """The margin is a point; where the paper loses 20 points of A*, it is 2."""
    inside, across = Cell(0.98, 0.975, 0.985, "x"), Cell(0.98, 0.96, 1.0, "x")
    assert verdict(inside, 0.98) == AGREES
    assert verdict(inside, 0.9849) == AGREES  # 0.985 - 0.9849 and 0.975 - 0.9849 are within 0.01
    assert verdict(inside, 0.9851) == OPEN
    assert verdict(across, 0.98) == OPEN
    assert verdict(Cell(0.98, 0.972, 0.988, "x"), 0.961) == DIFFERS
    assert verdict(Cell(0.98, 0.972, 0.988, "x"), 0.999) == DIFFERS
    wide = Cell(0.81, 0.79, 0.82, "x")
    assert verdict(wide, 0.80) == AGREES and verdict(wide, 0.81) == OPEN
    assert verdict(inside, 0.98, about=True) == OPEN
    assert verdict(inside, None) == verdict(None, 0.98) == OPEN
    assert verdict(Cell(0.98, math.nan, math.nan, ""), 0.98) == OPEN


def test_published_stars_are_the_papers_formula() -> None:
    rows = {(x.phase, x.scaling): x for x in tasks.find("resnet32").published}
    # 1 - (0.1335 - 0.058) / (0.9 - 0.058)
    assert rows["direct", "tile"].star(1.0) == pytest.approx(0.910333, abs=1e-6)
    assert rows["direct", "column"].star(YEAR) == pytest.approx(1 - 0.1683 / 0.842)
    assert rows["hwa", "column"].star(YEAR) == pytest.approx(1 - 0.0256 / 0.842)
    (words,) = (x for x in tasks.find("lstm").published if x.phase == "direct")
    assert words.star(YEAR) == pytest.approx(1 - (0.8211 - 0.729) / (0.9999 - 0.729))
    assert words.star(2.0) is None


def test_a_page_without_records_says_how_to_measure_each_row() -> None:
    text = replication.section()
    assert f"({replication.IMAGE})" in text and "the reason is not measured" not in text
    names = [name for wanted in replication.WANTED for name in wanted.records]
    assert {*names} == {*ROWS[:4], *TILE_WISE}
    for name in names:
        (line,) = [x for x in text.splitlines() if f"--out runs/{name}`" in x]
        assert line.startswith("- ") and f"`python -m benchmarks.record add runs/{name}`" in line
        assert ("--preset tile.toml" in line) == (name in TILE_WISE)
        assert ("(direct conversion, one scale per tile)" in line) == (name in TILE_WISE)
        assert ("hardware-aware" in line) == (name not in TILE_WISE)
    column = [x for x in text.splitlines() if f"--out runs/{ROWS[1]}`" in x]
    assert "(direct conversion, one scale per column; hardware-aware): " in column[0]
    assert sum("not measured" in cell for line in lines(text) for cell in line[:4]) == len(
        [row for wanted in replication.WANTED for row in replication.rows_of(wanted)]
    )


def test_a_record_fills_its_rows_with_a_verdict_each() -> None:
    """The paper's A*: 98.82, 98.48, 97.98, 96.96 trained; 94.98 at one second, column-wise."""
    records.add(
        of_stars(
            ROWS[1],
            {
                ("hwa", 1.0): (0.985, 0.980, 0.990),
                ("hwa", HOUR): (0.95, 0.945, 0.955),
                ("hwa", DAY): (0.98, 0.96, 1.0),
                ("direct", 1.0): (0.952, 0.949, 0.955),
            },
        )
    )
    text = replication.section()
    assert verdicts_of(text, "hardware-aware") == ["+0.20 points", AGREES, DIFFERS, OPEN, OPEN]
    column = verdicts_of(text, "direct conversion, one scale per column")
    assert column == ["+0.20 points", AGREES, OPEN, OPEN, OPEN]
    (ours,) = [x for x in lines(text) if "98.50 (98.00 to 99.00)" in x]
    assert ours[2] == "ResNet-32, 10,000 samples, 2 chips" and ours[3] == "6.00 %"
    assert ours[4:8] == [
        "98.50 (98.00 to 99.00)",
        "95.00 (94.50 to 95.50)",
        "98.00 (96.00 to 100.00)",
        "?",
    ]
    assert ours[8].endswith(f"({records.LINK}{ROWS[1]}.json); over chips, samples")
    assert f"runs/{ROWS[1]}`" not in text and f"runs/{TILE_WISE[1]}`" in text
    assert "- ResNet-32, CIFAR-10: the reason is not measured" in text


def test_tile_wise_rows_are_compared_with_tile_wise_chips_alone() -> None:
    stars = {("direct", 1.0): (0.91, 0.905, 0.915), ("direct", YEAR): (0.5, 0.48, 0.52)}
    records.add(of_stars(ROWS[1], stars))
    assert f"--out runs/{TILE_WISE[1]}`" in replication.section()
    records.add(of_stars(TILE_WISE[1], stars, scaling="tile"))
    words = verdicts_of(replication.section(), "direct conversion, one scale per tile")
    assert words == ["+0.20 points", AGREES, OPEN, OPEN, DIFFERS]


def test_an_interval_over_chips_alone_decides_nothing() -> None:
    records.add(of_stars(ROWS[1], {("hwa", 1.0): (0.988, 0.987, 0.989)}, interval=False))
    text = replication.section()
    assert verdicts_of(text, "hardware-aware")[1:] == [OPEN] * 4
    assert "over chips alone" in text and "the reason" not in text


def test_a_reason_is_what_a_record_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    records.add(of_stars(ROWS[1], {("hwa", 1.0): (0.95, 0.945, 0.955)}))
    records.add(of_stars("rows-resnet32-long", {("hwa", 1.0): (0.98, 0.975, 0.985)}))
    monkeypatch.setattr(
        replication, "REASONS", (("rows-resnet32-long", "trained ten times as long"),)
    )
    text = replication.section()
    (line,) = [x for x in text.splitlines() if "ten times as long" in x]
    assert line.startswith(
        "- ResNet-32, CIFAR-10, hardware-aware, trained ten times as long: 1s 98.00"
    )
    assert "(97.50 to 98.50)" in line and "rows-resnet32-long.json" in line
    assert "the reason is not measured" not in text


def test_rows_are_in_the_table_of_results_too(monkeypatch: pytest.MonkeyPatch) -> None:
    record = of_stars(ROWS[1], {("hwa", 1.0): (0.95, 0.945, 0.955)})
    study = {"resnet32": record.extra["studies"]["resnet32"]}
    rows = [[*row[:2], "accuracy", *row[3:-1], 1 - row[-1]] for row in record.rows]
    record = dataclasses.replace(record, rows=[*record.rows, *rows], extra={"studies": study})
    records.add(record)
    records.add(dataclasses.replace(record, name="another"))
    assert f"[{ROWS[1]}]" in run.results() and "[another]" not in run.results()
    assert f"[{ROWS[1]}]" in run.compare() and f"[{ROWS[1]}]" not in run.earlier()
    assert "27.9" not in run.compare()  # nothing of direct conversion


def test_the_figure_is_drawn_from_records_and_published_numbers(tmp_path: Path) -> None:
    before = replication.mark()
    path = tmp_path / "a.png"
    replication.draw(path, before)
    records.add(of_stars(ROWS[1], {("hwa", 1.0): (0.95, 0.945, 0.955)}))
    assert replication.mark() != before
    again = tmp_path / "b.png"
    replication.draw(again, before)
    assert path.read_bytes() != again.read_bytes()


# --- the replication's claim ----------------------------------------------------------------------


def climbed(dataset: str = "CIFAR-100") -> records.Record:
    """Return a ladder of two chips that lose nothing on the first rung and 5 points on the last."""
    rows: list[list[Any]] = [["digital", None, None, None, 0.75, 0.25, []]]
    for rung, lost in ((LADDER[0].key, 0.0), (LADDER[-1].key, 0.05)):
        for t_s in (1.0, YEAR):
            for chip in (0, 1):
                value = 0.7 + 0.01 * chip - (lost + 0.01 * chip * bool(lost)) * (t_s > 1)
                rows.append([rung, t_s, chip, chip, value, 1 - value, []])
    facts = {
        **{"model": "WideResNet-16-4", "dataset": dataset, "metric": "accuracy"},
        **{"samples": 300, "layers": []},
    }
    return records.Record(
        *("ladder", "ladder-wrn", "python -m benchmarks.ladder wrn", {}, {}, {}),
        ["row", "t_inference", "chip", "seed", "accuracy", "error", "layers"],
        rows,
        {"studies": {"wrn": facts}},
    )


def test_the_claim_without_a_record_says_how_to_measure_it() -> None:
    assert claim.committed() is None
    text = claim.section()
    assert f"Not measured yet: `{claim.COMMAND}`" in text and claim.IMAGE not in text
    assert (
        "| the replication's, WideResNet-16-4 | its own | 78.50 % | 76.95 % | ? | ? | 76.94 % |"
        in text
    )
    records.add(climbed("CIFAR-10"))
    assert claim.committed() is None  # a ladder of other data is not of this claim


def test_the_claim_is_the_first_and_the_last_rung(tmp_path: Path) -> None:
    records.add(climbed())
    record = claim.committed()
    assert record is not None
    listed = lines(claim.section())
    assert [x[1] for x in listed] == ["its own", "`scalar_drift`", "`rasch2023`"]
    assert listed[1][-1] == "0.00"  # on both chips, so without an interval
    assert "70.50 ± 0.71 %" in listed[1] and "65.00 ± 0.00 %" in listed[2]
    # losses of 5 and 6 points: the mean is 5.5, and t of two chips is 12.706
    assert listed[2][-1] == "5.50 (-0.85 to 11.85)"
    path = tmp_path / "claim.png"
    claim.draw(record, path, claim.mark(record))
    assert path.read_bytes().startswith(b"\x89PNG")
