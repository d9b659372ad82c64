"""Records of runs: nothing lost on the way, and the README's table is theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from aimc_bridge.errors import DataError, UsageError
from benchmarks import record as records
from benchmarks.report import tables
from benchmarks.report.standing import EARLIER_ON_AIHWKIT, IN_FORCE, ON_AIHWKIT, STANDING

ROOT = Path(__file__).parent.parent
YEAR = 31536000.0


def rows() -> pd.DataFrame:
    """Two chips at two times in two phases, and the digital model."""
    base = {"model": "M-1", "dataset": "D, subset of 10"}
    made = [
        {**base, "metric": metric, "phase": "digital", "engine": "digital", "value": value}
        for metric, value in (("accuracy", 0.9), ("error", 0.1))
    ]
    for phase, drop in (("direct", 0.1), ("hwa", 0.02)):
        for t_s in (1.0, YEAR):
            for chip in (0, 1):
                accuracy = 0.9 - drop * (chip + 1) - (0.01 if t_s > 1 else 0.0)
                place = {"phase": phase, "engine": "native", "t_inference": t_s, "chip": chip}
                for metric, value in (("accuracy", accuracy), ("error", 1 - accuracy)):
                    more = {"metric": metric, "value": value, "seed": chip, "preset": "rasch2023"}
                    made.append({**base, **place, **more})
    table = pd.DataFrame(made, columns=tables.COLUMNS)
    return table.astype({"chip": "Int64"})


def finished(folder: Path, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows().to_csv(folder / "results.csv", index=False)
    about = {
        "command": "python -m benchmarks.run wrn",
        "arguments": {"tasks": ["wrn"], "seed": 0, "preset": "rasch2023"},
        "versions": {"torch": "2.11.0"},
        "hardware": {"cores": 2},
        "studies": {
            "wrn": {
                "model": "M-1",
                "dataset": "D",
                "metric": "accuracy",
                "chance_error": 0.5,
                "samples": {"D, subset of 10": 10},
                "digital": {"steps": 3},
            }
        },
        **changes,
    }
    (folder / "run.json").write_text(json.dumps(about))
    return folder


def test_a_record_keeps_every_row_and_all_that_is_known(tmp_path) -> None:
    run = finished(tmp_path / "run")
    file = records.write(records.record_of(run, "first"), tmp_path / "records")
    record = records.read(file)
    about = json.loads((run / "run.json").read_text())
    for key in ("command", "arguments", "versions", "hardware", "studies"):
        assert record[key] == about[key]
    pd.testing.assert_frame_equal(
        records.results_of(record)[["phase", "t_inference", "chip", "value"]],
        pd.read_csv(run / "results.csv")[["phase", "t_inference", "chip", "value"]],
        check_dtype=False,
    )
    lines = file.read_text().splitlines()
    assert len([line for line in lines if '"M-1", "D, subset of 10"' in line]) == len(rows())


def test_the_table_has_a_line_a_phase_and_engine(tmp_path) -> None:
    record = records.record_of(finished(tmp_path / "run"), "first")
    direct, hwa = records.lines_of(record)
    assert direct == {
        "task": "wrn",
        "model": "M-1",
        "data": "D",
        "metric": "accuracy",
        "phase": "direct conversion",
        "engine": "native",
        "samples": "10",
        "chips": "2",
        "digital": "90.00 %",
        "1s": "75.00 ± 7.07 %",
        "1h": "?",  # not measured
        "1d": "?",
        "1y": "74.00 ± 7.07 %",
        "A* 1s": "62.50 ± 17.68 % (-96.33 to 221.33)",
        "A* 1h": "?",
        "A* 1d": "?",
        "A* 1y": "60.00 ± 17.68 % (-98.83 to 218.83)",  # 1 - 0.16 / 0.4; t of 2 chips 12.706
        "record": "[first](../benchmarks/records/first.json)",
    }
    assert (hwa["phase"], hwa["1y"]) == ("hardware-aware", "86.00 ± 1.41 %")
    assert records.table(tmp_path / "none") == ""
    records.write(record, tmp_path / "records")
    records.write({**record, "name": "another"}, tmp_path / "records")
    table = records.table(tmp_path / "records").splitlines()
    assert table[0].startswith("| model | data | metric | phase | engine | samples | chips |")
    named = ["another", "another", "first", "first"]
    assert [line.rpartition("[")[2].partition("]")[0] for line in table[2:6]] == named
    assert table[6] == ""
    assert table[7].startswith("| model | phase | engine | samples | chips | A* 1s |")
    assert [line.rpartition("[")[2].partition("]")[0] for line in table[9:]] == named


def test_a_run_that_is_not_finished_is_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="holds no finished run"):
        records.record_of(tmp_path, "x")
    half = finished(tmp_path / "half", arguments={"tasks": ["wrn", "lstm"]})
    with pytest.raises(DataError, match="not finished: lstm is missing"):
        records.record_of(half, "x")
    strange = finished(tmp_path / "strange")
    rows().drop(columns="seed").to_csv(strange / "results.csv", index=False)
    with pytest.raises(DataError, match="other columns"):
        records.record_of(strange, "x")


def test_damaged_records_and_bad_names_are_named(tmp_path) -> None:
    file = tmp_path / "a.json"
    for text in ("{", '{"name": "a"}', "3"):
        file.write_text(text)
        with pytest.raises(DataError, match=r"a\.json"):
            records.read(file)
    record = records.record_of(finished(tmp_path / "run"), "../outside")
    with pytest.raises(UsageError, match=r"--name '../outside'"):
        records.write(record, tmp_path)


def test_the_command(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    run = finished(tmp_path / "run")
    invoke = CliRunner().invoke
    assert invoke(records.app, ["add", str(run), "--name", "one"]).exit_code == 0
    again = invoke(records.app, ["add", str(run), "--name", "one"])
    assert again.exit_code == 2 and "there is such a record" in again.stderr
    assert invoke(records.app, ["add", str(run), "--name", "one", "--replace"]).exit_code == 0
    shown = invoke(records.app, ["table"])
    assert shown.exit_code == 0
    assert shown.stdout.strip() == records.table(tmp_path / "records")
    wrong = invoke(records.app, ["add", str(tmp_path / "no"), "--name", "two"])
    assert wrong.exit_code == 2
    assert len(wrong.stderr.strip().splitlines()) == 1


def test_the_section_between_the_marks() -> None:
    begin, end = "<!-- results -->", "<!-- /results -->"
    assert records.section(f"a\n{begin}\n\n| x |\n\n{end}\nb", "results") == "| x |"
    assert records.section(f"{begin}{end}", "results") == ""
    assert records.section(f"{begin}{end}", "compare") is None


def test_tables_are_written_into_their_pages(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(records, "FOLDER", tmp_path / "benchmarks" / "records")
    (tmp_path / "benchmarks").mkdir()
    records.write(records.record_of(finished(tmp_path / "run"), "one"))
    (tmp_path / "docs").mkdir()
    for place in set(records.PAGES.values()):
        names = [name for name, page in records.PAGES.items() if page == place]
        marks = "\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->" for name in names)
        (tmp_path / place).write_text(f"# Page\n\n{marks}\n\nrest\n")
    assert CliRunner().invoke(records.app, ["write"]).exit_code == 0
    for name, place in records.PAGES.items():
        text = (tmp_path / place).read_text()
        assert text.startswith("# Page\n") and text.endswith("\n\nrest\n") and "old" not in text
        assert records.section(text, name) == records.TABLES[name]()
    (tmp_path / "README.md").write_text("no marks\n")
    assert CliRunner().invoke(records.app, ["write"]).exit_code == 2


def test_beside_what_others_published(tmp_path) -> None:
    """Published numbers with `?` where there are none, A* from them; ours of the most samples."""
    lines = records.compare(tmp_path).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head, body = rows[0], [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]
    assert head[3:] == ["metric", "digital", "1s", "1h", "1d", "1y", "A* 1h", "A* 1y", "source"]
    wide = next(row for row in body if row["model"] == "WideResNet-16-4")
    assert (wide["1s"], wide["1h"], wide["1y"]) == ("76.95 %", "?", "76.94 %")
    # 1 - (0.2306 - 0.2150) / (0.99 - 0.2150)
    assert wide["A* 1y"] == "97.99 %"
    ours = [row for row in body if row[""] == "this project"]
    assert all(row["digital"] == "?" for row in ours)
    small, large = (finished(tmp_path / name) for name in ("small", "large"))
    about = json.loads((large / "run.json").read_text())
    about["studies"]["wrn"]["samples"]["D, subset of 10"] = 1000
    (large / "run.json").write_text(json.dumps(about))
    for name, run in (("b", small), ("a", large)):
        records.write(records.record_of(run, name), tmp_path / "records")
    shown = records.compare(tmp_path / "records")
    (line,) = [line for line in shown.splitlines() if "| this project | M-1 |" in line]
    assert "1,000 samples, 2 chips" in line and "[a](benchmarks/records/a.json)" in line
    assert "86.00 ± 1.41 %" in line  # of the hardware-aware phase
    records.write(records.record_of(small, STANDING[0]), tmp_path / "records")
    shown = records.compare(tmp_path / "records")
    (line,) = [line for line in shown.splitlines() if "| this project | M-1 |" in line]
    assert f"[{STANDING[0]}]" in line  # few samples, but the recipe in force
    records.write(records.record_of(small, STANDING[1]), tmp_path / "records")
    shown = records.compare(tmp_path / "records")
    lines = [line for line in shown.splitlines() if "| this project | M-1 |" in line]
    assert [f"[{name}]" in line for name, line in zip(STANDING, lines, strict=False)] == [True] * 2


def test_what_stands_is_there() -> None:
    assert set(STANDING) <= set(IN_FORCE)
    named = (*IN_FORCE, *ON_AIHWKIT, *EARLIER_ON_AIHWKIT)
    assert len(set(named)) == len(named)
    assert all((records.FOLDER / f"{name}.json").exists() for name in named)


def test_results_and_earlier_share_the_records(tmp_path) -> None:
    """Each is in one of the two tables; those in force stand in their order."""
    run = finished(tmp_path / "run")
    for name in ("one", IN_FORCE[0], IN_FORCE[1]):
        records.write(records.record_of(run, name), tmp_path / "records")

    def names(table: str) -> list[str]:
        lines = table.partition("\n\n")[0].splitlines()[2:]
        return [line.rpartition("[")[2].partition("]")[0] for line in lines]

    in_force = [IN_FORCE[0], IN_FORCE[0], IN_FORCE[1], IN_FORCE[1]]
    assert names(records.results(tmp_path / "records")) == in_force
    assert names(records.earlier(tmp_path / "records")) == ["one", "one"]


def test_the_pages_show_the_records_and_nothing_else() -> None:
    """`python -m benchmarks.record write` writes what belongs there."""
    files = sorted(records.FOLDER.glob("*.json"))
    for name, place in records.PAGES.items():
        shown = records.section((ROOT / place).read_text(), name)
        assert shown == records.TABLES[name](), f"{place}: python -m benchmarks.record write"
    for file in files:
        assert records.read(file)["name"] == file.stem
