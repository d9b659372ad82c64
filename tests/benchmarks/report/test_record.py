"""Records: nothing lost on the way, and the tables of the pages are theirs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from aimc_bridge.errors import DataError, UsageError
from benchmarks import record as command
from benchmarks.report import __main__ as reporting
from benchmarks.report import figures, folders, pages, replication, run, tables
from benchmarks.report import record as records
from benchmarks.report.standing import EARLIER_ON_AIHWKIT, IN_FORCE, ON_AIHWKIT, STANDING

YEAR = 31536000.0


def rows() -> pd.DataFrame:
    """Return two chips at two times in two phases, and the digital model."""
    base = {"model": "M-1", "dataset": "D, subset of 10"}
    table_rows = [
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
                    table_rows.append({**base, **place, **more})
    table = pd.DataFrame(table_rows, columns=tables.COLUMNS)
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of records that replaces the committed ones."""
    monkeypatch.setattr(records, "FOLDER", tmp_path / "records")
    return tmp_path / "records"


def named(record: records.Record, name: str) -> records.Record:
    return dataclasses.replace(record, name=name)


# --- the format -----------------------------------------------------------------------------------


def test_rows_stand_on_one_line_each() -> None:
    data = {
        "name": "x",
        "about": {"list": ["a", [1, {"b": None}]], "none": {}, "empty": []},
        "parts": [{"rows": [[1, 2.5], ["é", None]]}, {}],
    }
    assert records.as_json(data) == (
        '{\n "name": "x",\n "about": {\n  "list": ["a", [1, {"b": null}]],\n  "none": {},\n'
        '  "empty": []\n },\n "parts": [\n  {\n   "rows": [\n    [1, 2.5],\n    ["é", null]\n   ]\n'
        "  },\n  {}\n ]\n}"
    )
    assert json.loads(records.as_json(data)) == data


def test_a_record_keeps_every_row_and_all_that_is_known(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    new = run.record_of(folder, "first")
    path = records.write(new, tmp_path / "records" / "first.json")
    record = records.read(path)
    assert record == new
    about = json.loads((folder / "run.json").read_text())
    for key in ("command", "arguments", "versions", "hardware"):
        assert getattr(record, key) == about[key]
    assert record.extra == {"studies": about["studies"]}
    pd.testing.assert_frame_equal(
        run.results_of(record)[["phase", "t_inference", "chip", "value"]],
        pd.read_csv(folder / "results.csv")[["phase", "t_inference", "chip", "value"]],
        check_dtype=False,
    )
    lines = path.read_text().splitlines()
    assert len([line for line in lines if '"M-1", "D, subset of 10"' in line]) == len(rows())
    assert not [p for p in path.parent.iterdir() if p != path]


def test_every_bit_of_a_value_is_kept(tmp_path: Path) -> None:
    """pandas reads some numbers a last bit off, unless it is told not to."""
    folder = finished(tmp_path / "run")
    table = rows()
    table.value = [0.1 + 0.2 + i * 1e-16 + 0.1234567890123456 * i for i in range(len(table))]
    table.to_csv(folder / "results.csv", index=False)
    assert run.results_of(run.record_of(folder, "x")).value.tolist() == table.value.tolist()


@pytest.mark.parametrize("folder", ["../shared/data", "'/my data/x'"])
def test_pages_do_not_show_the_data_folder_of_a_machine(folder: str, tmp_path: Path) -> None:
    record = run.record_of(finished(tmp_path / "run"), "a")
    record = dataclasses.replace(record, command=f"run wrn --data-dir {folder} --chips 2")
    assert record.shown_command == "run wrn --data-dir DIR --chips 2"


def test_damaged_records_and_bad_names_are_named(tmp_path: Path) -> None:
    record = run.record_of(finished(tmp_path / "run"), "a")
    path = records.write(record, tmp_path / "a.json")
    good = json.loads(path.read_text())
    wrong: list[tuple[Any, str]] = [
        ("{", "is not a record"),
        ("3", "is not a record"),
        ("[]", "lacks kind, name"),
        (json.dumps({"name": "a"}), "lacks kind, command, arguments"),
        (json.dumps({**good, "rows": []}), "has no rows"),
        (json.dumps({**good, "rows": [[1]]}), "has rows of another length than its columns"),
        (json.dumps({**good, "kind": "walk"}), "kind 'walk'; one of run, ablation"),
    ]
    for text, message in wrong:
        path.write_text(text)
        with pytest.raises(DataError, match=rf"a\.json:? {message}"):
            records.read(path)
    with pytest.raises(DataError, match="b.json is not a record"):
        records.read(tmp_path / "b.json")
    for name in ("../outside", "", "a b"):
        with pytest.raises(UsageError, match="--name .*; allowed: letters, digits, points"):
            records.write(named(record, name), tmp_path / "c.json")
    with pytest.raises(UsageError, match=r"--record 'a/b'; allowed"):
        records.check_name("a/b", "--record")


def test_a_digest_knows_every_cell(tmp_path: Path) -> None:
    record = run.record_of(finished(tmp_path / "run"), "a")
    cells = [list(row) for row in record.rows]
    cells[3][-1] += 1e-16
    other = dataclasses.replace(record, rows=cells)
    assert cells[3][-1] != record.rows[3][-1]
    digests = {records.digest(record), records.digest(other), records.digest(record, other)}
    assert len(digests) == 3 and records.digest(record) == records.digest(named(record, "a"))


# --- finished folders -----------------------------------------------------------------------------


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no finished run"):
        run.record_of(tmp_path, "x")
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "run.json").write_text('{"arguments": ')
    with pytest.raises(DataError, match=r"run\.json is damaged .*; put the former file back, or"):
        run.record_of(begun, "x")
    (begun / "run.json").write_text('{"arguments": {}}')
    with pytest.raises(DataError, match="not finished: run.json lacks command, versions"):
        run.record_of(begun, "x")
    half = finished(tmp_path / "half", arguments={"tasks": ["wrn", "lstm"]})
    with pytest.raises(DataError, match="not finished: lstm is missing"):
        run.record_of(half, "x")
    strange = finished(tmp_path / "strange")
    rows().drop(columns="seed").to_csv(strange / "results.csv", index=False)
    for read in (run.record_of, folders.records_of):
        with pytest.raises(DataError, match="other columns"):
            read(strange, "x")
    with pytest.raises(DataError, match="holds no finished run"):
        folders.kind_of(tmp_path)


def test_the_name_of_a_folder_is_the_records(tmp_path: Path) -> None:
    folder = finished(tmp_path / "my run")
    with pytest.raises(UsageError, match="--name 'my run'; allowed"):
        folders.records_of(folder)
    (record,) = folders.records_of(folder.rename(tmp_path / "mine"))
    assert (record.kind, record.name) == ("run", "mine")


def test_a_summary_is_made_again_from_results(tmp_path: Path) -> None:
    """The table, A* and the figures are made; nothing else is touched."""
    folder = finished(tmp_path / "run")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    folders.rebuild(folder)
    assert all(path.read_bytes() == data for path, data in before.items())
    text = (folder / "summary.md").read_text()
    table = rows()
    assert tables.markdown(tables.summary(table, "accuracy")) in text
    assert tables.markdown(tables.a_star_summary(table, 0.5)) in text
    assert "chance at 1/2 (classes)" in text and "preset rasch2023. Means" in text
    assert "`python -m benchmarks.run wrn`" in text and "`interval over` says what" in text
    for name in ("wrn.png", "dashboard.png"):
        assert (folder / "figures" / name).read_bytes().startswith(b"\x89PNG")


# --- the tables -----------------------------------------------------------------------------------


def test_the_table_has_a_line_per_phase_and_engine(tmp_path: Path, folder: Path) -> None:
    record = run.record_of(finished(tmp_path / "run"), "first")
    direct, hwa = run.lines_of(record)
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
        "1h": "?",  # This was not measured.
        "1d": "?",
        "1y": "74.00 ± 7.07 %",
        "A* 1s": "62.50 ± 17.68 % (-96.33 to 221.33)",
        "A* 1h": "?",
        "A* 1d": "?",
        "A* 1y": "60.00 ± 17.68 % (-98.83 to 218.83)",  # 1 - 0.16 / 0.4; t of 2 chips is 12.706.
        "interval over": "chips",
        "record": "[first](../benchmarks/records/first.json)",
    }
    assert (hwa["phase"], hwa["1y"]) == ("hardware-aware", "86.00 ± 1.41 %")
    assert run.table(records.of_kind("run")) == ""
    records.add(record)
    records.add(named(record, "another"))
    table = run.table(records.of_kind("run")).splitlines()
    assert table[0].startswith("| model | data | metric | phase | engine | samples | chips |")
    shown = ["another", "another", "first", "first"]
    assert [line.rpartition("[")[2].partition("]")[0] for line in table[2:6]] == shown
    assert table[6] == ""
    assert table[7].startswith("| model | data | phase | engine | samples | chips | A* 1s |")
    assert [line.rpartition("[")[2].partition("]")[0] for line in table[9:]] == shown


def test_beside_what_others_published(tmp_path: Path, folder: Path) -> None:
    """Published numbers have `?` if there are none, and A* is computed from them.

    Ours are those of the most samples.
    """
    lines = run.compare().splitlines()
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
    for name, run_folder in (("b", small), ("a", large)):
        records.add(run.record_of(run_folder, name))
    shown = run.compare()
    (line,) = [line for line in shown.splitlines() if "| this project | M-1 |" in line]
    assert "1,000 samples, 2 chips" in line and "[a](../benchmarks/records/a.json)" in line
    assert "86.00 ± 1.41 %" in line  # This is the hardware-aware phase.
    records.add(run.record_of(small, STANDING[0]))
    shown = run.compare()
    (line,) = [line for line in shown.splitlines() if "| this project | M-1 |" in line]
    assert f"[{STANDING[0]}]" in line  # It has few samples, but it is the recipe in force.
    records.add(run.record_of(small, STANDING[1]))
    shown = run.compare()
    lines = [line for line in shown.splitlines() if "| this project | M-1 |" in line]
    assert [f"[{name}]" in line for name, line in zip(STANDING, lines, strict=False)] == [True] * 2


def test_what_stands_is_there() -> None:
    assert set(STANDING) <= set(IN_FORCE)
    listed = (*IN_FORCE, *ON_AIHWKIT, *EARLIER_ON_AIHWKIT)
    assert len(set(listed)) == len(listed)
    assert [record.name for record in records.named(*listed)] == list(listed)


def test_results_and_earlier_share_the_records(tmp_path: Path, folder: Path) -> None:
    """Each record is in one of the two tables.

    Those in force stand in their order.
    """
    run_folder = finished(tmp_path / "run")
    for name in ("one", IN_FORCE[0], IN_FORCE[1]):
        records.add(run.record_of(run_folder, name))

    def names(table: str) -> list[str]:
        lines = table.partition("\n\n")[0].splitlines()[2:]
        return [line.rpartition("[")[2].partition("]")[0] for line in lines]

    in_force = [IN_FORCE[0], IN_FORCE[0], IN_FORCE[1], IN_FORCE[1]]
    assert names(run.results()) == in_force
    assert names(run.earlier()) == ["one", "one"]


# --- the pages ------------------------------------------------------------------------------------


def test_the_section_between_the_marks() -> None:
    begin, end = "<!-- results -->", "<!-- /results -->"
    assert pages.between(f"a\n{begin}\n\n| x |\n\n{end}\nb", "results") == (
        *(f"a\n{begin}", "| x |", f"{end}\nb"),
    )
    assert pages.between(f"{begin}{end}", "results") == (begin, "", end)
    for text in (f"{begin}{end}", begin, f"{begin}{end}{begin}{end}"):
        assert pages.between(text, "compare" if text.count(begin) == 1 else "results") is None


def empty_pages(root: Path) -> None:
    """Write every page with the marks of its sections and nothing between them."""
    (root / "docs").mkdir()
    for page in {section.page for section in pages.SECTIONS}:
        names = [section.name for section in pages.SECTIONS if section.page == page]
        marks = "\n".join(f"<!-- {name} -->\nold\n<!-- /{name} -->" for name in names)
        (root / page).write_text(f"# Page\n\n{marks}\n\nrest\n")


def test_tables_are_written_into_their_pages(tmp_path: Path, folder: Path) -> None:
    records.add(run.record_of(finished(tmp_path / "run"), "one"))
    empty_pages(tmp_path)
    drawn = [picture.path for picture in pages.pictures()]
    assert drawn == [Path("docs") / replication.IMAGE]  # the paper's curves need no record
    assert len(list(pages.problems(tmp_path))) == len(pages.SECTIONS) + len(drawn)
    written = pages.write(tmp_path)
    texts = dict.fromkeys(section.page for section in pages.SECTIONS)
    assert written == [tmp_path / path for path in (*texts, *drawn)]
    for section in pages.SECTIONS:
        text = (tmp_path / section.page).read_text()
        assert text.startswith("# Page\n") and text.endswith("\n\nrest\n") and "old" not in text
        cut = pages.between(text, section.name)
        assert cut is not None and cut[1] == (section.text() or pages.NOTHING)
    assert list(pages.problems(tmp_path)) == []
    before = (tmp_path / "docs" / "results.md").read_text()
    (tmp_path / "docs" / "speed.md").write_text("no marks\n")
    records.add(run.record_of(finished(tmp_path / "run"), IN_FORCE[0]))
    with pytest.raises(DataError, match=r"speed\.md needs the marks <!-- speed -->"):
        pages.write(tmp_path)
    # Nothing is written in this case.
    assert (tmp_path / "docs" / "results.md").read_text() == before


def test_what_is_out_of_step_is_named(tmp_path: Path, folder: Path) -> None:
    empty_pages(tmp_path)
    pages.write(tmp_path)
    records.add(run.record_of(finished(tmp_path / "run"), "one"))
    assert list(pages.problems(tmp_path)) == [
        "docs/results.md: compare does not show the records",
        "docs/results-earlier.md: earlier does not show the records",
    ]
    (folder / "one.json").rename(folder / "two.json")
    (folder / "three.json").write_text("{")
    problems = list(pages.problems(tmp_path))
    assert problems[0].startswith(f"{folder / 'three.json'} is not a record")
    assert problems[1:] == [f"{folder / 'two.json'} holds the record one"]


def test_figures_say_what_they_were_drawn_from(tmp_path: Path) -> None:
    drawing, axes = figures.new(1, 2, (4, 2), sharey=True)
    assert axes.shape == (1, 2)
    figures.save(drawing, tmp_path / "a.png", description="of these records")
    assert figures.description_of(tmp_path / "a.png") == "of these records"
    figures.save(drawing, tmp_path / "b.png")
    assert figures.description_of(tmp_path / "b.png") is None
    assert figures.description_of(tmp_path / "c.png") is None


def test_the_pages_show_the_records_and_nothing_else() -> None:
    """`python -m benchmarks.record write` writes all tables and figures."""
    assert list(pages.problems()) == []


# --- the commands ---------------------------------------------------------------------------------


def test_the_command(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    run_folder = finished(tmp_path / "run")

    def said(*words: str, code: int = 0) -> str:
        assert command.main(words) == code
        captured = capsys.readouterr()
        if code == 2:
            assert captured.out == "" and len(captured.err.strip().splitlines()) == 1
        return str(captured.err if code == 2 else captured.out)

    assert said("add", str(run_folder), "--name", "one", "--dry-run").strip() == str(
        folder / "one.json"
    )
    assert not folder.exists()
    assert json.loads(said("add", str(run_folder), "--name", "one", "--json"))["files"] == [
        str(folder / "one.json")
    ]
    assert "there is such a record" in said("add", str(run_folder), "--name", "one", code=2)
    said("add", str(run_folder), "--name", "one", "--replace")
    assert said("table").strip() == run.table(records.of_kind("run"))
    assert said("compare").strip() == run.compare()
    assert said("table", "speed").strip() == pages.NOTHING
    assert "Invalid value" in said("table", "walks", code=2)
    assert "holds no finished run" in said("add", str(tmp_path / "no"), "--name", "two", code=2)
    empty_pages(tmp_path)
    monkeypatch.setattr(pages, "ROOT", tmp_path)
    assert "does not show" in said("write", "--dry-run")
    assert json.loads(said("check", "--json", code=1))["problems"]
    assert str(tmp_path / "README.md") in said("write").splitlines()
    assert said("check").strip() == "every page shows the records"
    (tmp_path / "README.md").write_text("no marks\n")
    assert "README.md needs the marks" in said("write", code=2)
    assert said("check", code=1)


def test_reports_of_one_and_of_several_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = finished(tmp_path / "one"), finished(tmp_path / "two")
    assert reporting.main([str(first), "--dry-run"]) == 0
    assert not (first / "summary.md").exists()
    assert reporting.main([str(first)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(first / "summary.md")
    assert reporting.main([str(first), str(second)]) == 0
    table = capsys.readouterr().out
    assert table.endswith(f"\n\nReport: {tmp_path / 'comparison' / 'report.html'}\n")
    assert f"| {first} |" in table and f"| {second} |" in table and (second / "summary.md").exists()
    assert reporting.main([]) == 2
    assert reporting.main([str(tmp_path)]) == 2
    (tmp_path / "crosscheck.json").write_text("{}")
    assert reporting.main([str(tmp_path)]) == 2
    assert "holds no finished cross-check" in capsys.readouterr().err
    assert reporting.main([str(first), str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_a_lost_record_beside_its_results_says_what_saves_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no finished run .no run.json.; name the --out"):
        records.read_run(tmp_path)
    (tmp_path / "work").mkdir()
    with pytest.raises(DataError, match=r"run.json is missing; put the former .*--resume"):
        records.read_run(tmp_path)
