"""The report of a user's own sweeps: its numbers, its sentences, its files, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy import stats

from aimc_bridge import plotting, sweep_files
from aimc_bridge.errors import AimcError, DataError, UsageError
from benchmarks.report import __main__ as reporting
from benchmarks.report import sweep_table
from benchmarks.report.html import page

YEAR = 31536000.0


def table(start: float, end: float, metric: str = "accuracy", chips: int = 3) -> pd.DataFrame:
    """Return a sweep whose chips are 0.01 apart, around a mean at 1 s and one at 1 y."""
    rows = [
        [chip, 5 + chip, t_s, metric, mean + 0.01 * (chip - (chips - 1) / 2)]
        for t_s, mean in ((1.0, start), (YEAR, end))
        for chip in range(chips)
    ]
    return pd.DataFrame(rows, columns=sweep_files.COLUMNS)


def at(values: dict[float, list[float]], seed: int = 0) -> pd.DataFrame:
    """Return a sweep of accuracies: one per chip at each time."""
    rows = [
        [seed + chip, seed + chip, t_s, "accuracy", value]
        for t_s, of_chips in values.items()
        for chip, value in enumerate(of_chips)
    ]
    return pd.DataFrame(rows, columns=sweep_files.COLUMNS)


BOTH = {"direct": table(0.90, 0.60), "aware": table(0.91, 0.905)}


def made(tables: Any = BOTH, digital: Any = 0.92, chance: Any = None, **options: Any) -> page.Page:
    swept = plotting.checked(tables, digital, **options)
    return sweep_table.of_tables(swept, sweep_table.chances_of(swept, chance))


def cells(shown: page.Table) -> list[dict[str, str]]:
    return [dict(zip(shown.columns, row, strict=True)) for row in shown.rows]


def test_means_intervals_and_distances_are_those_of_the_table() -> None:
    (means,) = made().sections[0].tables
    first, last = cells(means)[:2]
    # chips at -0.01, 0, 0.01: sd 0.01, and t of 2 degrees of freedom
    half = 100 * stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(3)
    assert first == {
        "table": "direct",
        "time": "1s",
        "chips": "3",
        "mean": "90.00 %",
        "standard deviation": "1.00 points",
        "95 % interval": f"{90 - half:.2f} % to {90 + half:.2f} %",
        "less digital": "-2.00 points",
    }
    assert (last["time"], last["mean"], last["less digital"]) == ("1y", "60.00 %", "-32.00 points")
    assert list(means.keys) == ["table0", "table0", "table1", "table1"]


def test_a_star_is_the_share_of_the_lead_over_guessing() -> None:
    # accuracy and error rate of one model: A* is the same
    errors = {
        name: rows.assign(metric="error", value=1 - rows["value"]) for name, rows in BOTH.items()
    }
    for tables, digital, chance in ((BOTH, 0.92, 0.12), (errors, 0.08, 0.88)):
        stars = cells(made(tables, digital, chance).sections[0].tables[1])
        assert [row["A*"] for row in stars] == ["97.50 %", "60.00 %", "98.75 %", "98.12 %"]


def test_the_answer_says_loss_and_difference_with_their_intervals() -> None:
    direct, aware, difference = made().answer
    # every chip loses 30 points and half a point: paired, the intervals have no width
    assert direct == (
        "direct: accuracy is 90.00 % 1s after programming and 60.00 % 1y after it (mean of 3 "
        "chips): a loss of 30.00 points (equal on all chips, so without an interval). The digital "
        "model has 92.00 %."
    )
    assert "a loss of 0.50 points" in aware
    assert difference.startswith("aware less direct, 1y after programming: +30.50 points (equal on")


def test_a_change_within_its_interval_is_no_loss() -> None:
    rows = table(0.90, 0.90)
    rows.loc[rows.t_inference == YEAR, "value"] = [0.91, 0.89, 0.89]
    (told,) = made(rows, None).answer
    assert "no sure change" in told and "loss" not in told


def test_chips_that_change_alike_have_no_interval() -> None:
    """No spread is no certainty."""
    for end, said in ((0.9, "+0.00 points"), (0.85, "a loss of 5.00 points")):
        (answer,) = made({"a": table(0.9, end)}, None).answer
        assert answer.endswith(f": {said} (equal on all chips, so without an interval).")


@pytest.mark.parametrize("rounding", [0.0, 1e-7])
def test_chips_that_agree_have_no_interval_anywhere(rounding: float) -> None:
    rows = at({1.0: [0.9, 0.9, 0.9], YEAR: [0.85, 0.85, 0.85 + rounding]})
    shown = made(rows, 0.96, 0.5)
    (answer,) = shown.answer
    assert ": a loss of 5.00 points (equal on all chips, so without an interval)." in answer
    for part in shown.sections[0].tables:
        assert [row["95 % interval"] for row in cells(part)] == ["", ""]
    text = shown.html()
    assert "85.00 % to" not in text and "± 0" not in text
    assert "± " in made(table(0.9, 0.6)).html()


def test_an_interval_that_rounds_to_one_number_gets_more_digits() -> None:
    rows = at({1.0: [0.9, 0.9, 0.9], YEAR: [0.85, 0.85, 0.85001]})
    shown = made(rows, None)
    half = stats.t.ppf(0.975, 2) * 1e-5 / 3
    low, high = (100 * (0.85 + 1e-5 / 3 + sign * half) for sign in (-1, 1))
    assert cells(shown.sections[0].tables[0])[1]["95 % interval"] == f"{low:.3f} % to {high:.3f} %"
    (answer,) = shown.answer
    assert f"(95 % interval {90 - high:.3f} to {90 - low:.3f}, over chips)" in answer


EXACT, SPREAD = {YEAR: [0.85] * 3}, {YEAR: [0.70, 0.72, 0.71]}


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (EXACT, SPREAD, "-14.00 points (all chips of a agree, so without an interval)"),
        (SPREAD, EXACT, "+14.00 points (all chips of b agree, so without an interval)"),
        (EXACT, EXACT, "+0.00 points (all chips of a and of b agree, so without an interval)"),
        ({YEAR: [0.85]}, SPREAD, "-14.00 points (a single chip of a, so without an interval)"),
    ],
)
def test_tables_of_other_chips_without_an_interval_say_why(
    first: dict[float, list[float]], second: dict[float, list[float]], told: str
) -> None:
    shown = made({"a": at(first), "b": at(second, seed=10)}, None)
    assert shown.answer[-1] == f"b less a, 1y after programming: {told}."


def test_tables_that_end_at_different_times_are_not_compared() -> None:
    shown = made({"a": at({1.0: [0.9, 0.8]}), "b": at({YEAR: [0.8, 0.7]})}, None)
    assert shown.answer[-1] == (
        "b ends 1y after programming and a 1s after it, so they are not compared."
    )


def test_a_chip_more_at_one_time_says_why_there_is_no_interval() -> None:
    (answer,) = made(at({1.0: [0.9, 0.9], YEAR: [0.8]}), None).answer
    assert answer.endswith(
        ": a loss of 10.00 points (a single chip at 1y, so without an interval)."
    )


@pytest.mark.parametrize(
    ("metric", "values", "word"),
    [("loss", (0.1, 0.3), "loss"), ("loss", (0.3, 0.1), "gain"), ("f1", (0.3, 0.1), "change")],
)
def test_the_direction_of_a_metric_says_what_a_loss_is(
    metric: str, values: tuple[float, float], word: str
) -> None:
    (told,) = made(table(*values, metric), None).answer
    assert f": a {word} of " in told
    assert "%" not in told.replace("95 %", "")  # no share: as it is


def test_one_chip_has_no_interval() -> None:
    shown = made(table(0.9, 0.6, chips=1), None)
    assert shown.answer == (
        "Accuracy is 90.00 % 1s after programming and 60.00 % 1y after it (one chip).",
    )
    row = cells(shown.sections[0].tables[0])[0]
    assert (row["standard deviation"], row["95 % interval"]) == ("", "")
    assert "table" not in row


def test_each_metric_has_a_part_and_names_are_text() -> None:
    name = "<script>alert(1)</script>"
    both = pd.concat([table(0.9, 0.6), table(0.2, 0.9, "loss")])
    shown = made({name: both}, {"accuracy": 0.95}, caption="p<q")
    assert [section.title for section in shown.sections] == ["accuracy", "loss", "How to repeat"]
    text = shown.html()
    assert text.count("<script") == 1 and "p&lt;q" in text
    assert text.count("<svg role") + text.count('role="img"') >= 2
    assert ["seeds of chips", name, "5 to 7"] in shown.sections[-1].tables[0].rows


@pytest.mark.parametrize(
    ("digital", "chance", "message"),
    [
        (None, 0.1, "needs the digital model's value"),
        (0.92, 0.92, "no better than guessing"),
        (0.92, 0.95, "no better than guessing"),
        (0.92, {"loss": 0.1}, "chance names loss; the table has accuracy"),
    ],
)
def test_chance_without_meaning_is_refused(digital: Any, chance: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        made(BOTH, digital, chance)


def test_a_report_is_written_from_python(tmp_path: Path) -> None:
    path = sweep_table.write(tmp_path / "new" / "r.html", BOTH, 0.92, samples=500, chance=0.1)
    text = path.read_text(encoding="utf-8")
    assert "A*" in text and text.rstrip().endswith("</html>")


# --- files and the command ------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = [tuple(row) for row in BOTH["direct"].itertuples(index=False)]
    sweep_files.write_rows(tmp_path / "direct.csv", "mark", rows)  # as resume= does
    BOTH["aware"].to_csv(tmp_path / "aware.csv")  # as a user does, with the index
    return tmp_path


def test_the_command_makes_one_report_of_all_tables(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["direct.csv", "aware.csv", "--digital", "0.92", "--chance", "0.12", "--json"]
    assert reporting.main([*words, "--dry-run"]) == 0
    assert not (folder / "direct-report").exists()
    capsys.readouterr()
    assert reporting.main(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kinds"] == {"direct.csv": "sweep", "aware.csv": "sweep"}
    assert printed["answer"] == list(made().answer)
    for name in ("report.html", "figures/sweep.png", "figures/sweep.svg"):
        assert (folder / "direct-report" / name).stat().st_size > 1000
    text = (folder / "direct-report" / "report.html").read_text(encoding="utf-8")
    assert "60.00 %" in text and f"benchmarks.report {' '.join(words)}" in text


def test_values_of_a_file_come_back_to_the_last_bit(folder: Path) -> None:
    read = sweep_table.read(["direct.csv", "aware.csv"])
    for name, rows in read.items():
        assert rows["value"].tolist() == BOTH[name]["value"].tolist()
        assert rows["t_inference"].tolist() == BOTH[name]["t_inference"].tolist()


def test_files_of_one_name_have_their_paths_as_names(folder: Path) -> None:
    for place in ("a", "b"):
        (folder / place).mkdir()
        BOTH["aware"].to_csv(folder / place / "sweep.csv", index=False)
    assert list(sweep_table.read(["a/sweep.csv", "b/sweep.csv"])) == ["a/sweep.csv", "b/sweep.csv"]
    with pytest.raises(UsageError, match="named twice"):
        sweep_table.read(["a/sweep.csv", "a/sweep.csv"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file"),
        ("", "not a CSV file, or damaged"),
        ("\x00\x01", "has no column"),
        ("chip,t_inference,metric\n0,1,accuracy\n", "has no column value"),
        ("chip,t_inference,metric,value\n0,1,accuracy,high\n", "row 1 .* has value 'high'; a num"),
        (
            "chip,t_inference,metric,value\n0,1,accuracy,1\n0,1,accuracy,\n",
            r"x\.csv: row 2 below the header has no value \(an empty cell",
        ),
        ("chip,t_inference,metric,value\n0,1,accuracy,inf\n", "row 1 .* has value inf; a finite"),
        ("chip,t_inference,metric,value\n0,1,a,1\n0.5,1,a,1\n", "row 2 .* chip '0.5'; a whole"),
        ("chip,t_inference,metric,value\n", "no rows"),
        ("model,phase,engine,chip,t_inference,metric,value\n", "name the run's folder"),
        ("chip,seed,t_inference,metric,value,model,check\n0,0,1.0,a,0.5,m,bad\n", "damaged"),
    ],
)
def test_what_is_no_table_is_refused(folder: Path, text: str | None, message: str) -> None:
    path = folder / "x.csv"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(AimcError, match=message):
        plotting.checked(sweep_table.read([path]))


def test_bytes_that_are_no_text_are_refused(folder: Path) -> None:
    (folder / "x.csv").write_bytes(b"\xff\xfe\x00chip")
    with pytest.raises(DataError, match=r"x\.csv"):
        sweep_table.read([folder / "x.csv"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["direct.csv", "--digital", "high"], "--digital high; allowed: a number"),
        (["direct.csv", "--digital", "accuracy=1", "accuracy=2"], "once per metric"),
        (["direct.csv", "--digital", "loss=1"], "--digital loss=1: no metric 'loss' in the"),
        (["direct.csv", "--digital", "nan"], "--digital nan; allowed: a finite number"),
        (["direct.csv", "--chance", "0.1"], "needs the digital"),
        (["direct.csv", "--samples", "9"], "as --digital 0.96"),
        (["direct.csv", "--digital", "95", "--samples", "9"], "--digital is 95; leave out --sam"),
        (["two.csv", "--digital", "0.9"], "as --digital accuracy=NUMBER loss=NUMBER"),
        (["two.csv", "--digital", "accuracy=0.9", "--chance", "0.1"], "--chance 0.1: the tables"),
        (["direct.csv", "runs"], "name one kind alone"),
        (["direct.csv", "--merge", "whole"], "name one kind alone"),
        (["runs", "--digital", "0.9"], "--digital is for .csv files"),
        (["runs", "--samples", "10"], "--samples is for .csv files"),
    ],
)
def test_words_that_do_not_fit_are_refused(
    folder: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error is in the words of the command line, not in those of `plot`."""
    both = pd.concat([table(0.9, 0.8), table(0.9, 0.8, "loss")])
    both.to_csv(folder / "two.csv", index=False)
    assert reporting.main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "plot:" not in error
    assert "dict" not in error
