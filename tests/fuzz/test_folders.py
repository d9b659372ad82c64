"""Damaged folders of runs, records and words of commands: one line of error, no traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aimc_bridge.errors import AimcError
from benchmarks import __main__ as commands
from benchmarks.report import folders
from benchmarks.report import record as records
from benchmarks.studies.folder import claim_in
from tests.fuzz.damage import CASES, SLOW, changed, damaged

RUN = {
    "command": "python -m benchmarks.run lstm",
    "arguments": {"tasks": ["lstm"], "chips": 2, "seed": 0, "times": [1.0, 3600.0]},
    "versions": {"torch": "2.11"},
    "hardware": {"cpu": "one"},
    "studies": {"lstm": {"digital": 0.9, "seconds": 1.0}},
}
COLUMNS = ["model", "dataset", "metric", "phase", "engine", "preset"]
COLUMNS += ["t_inference", "chip", "seed", "value"]
ROWS = "\n".join(
    f"lstm,tiny,loss,direct,native,rasch2023,{t},{chip},0,{1.5 + chip}"
    for t in ("1.0", "3600.0")
    for chip in (0, 1)
)
RESULTS = f"{','.join(COLUMNS)}\n{ROWS}\n".encode()
RECORD = min(records.FOLDER.glob("*.json"), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def judged(folder: Path) -> None:
    """Read a folder in every way: data or an AimcError that names a file or folder."""
    texts = ("model", "dataset", "metric", "phase", "engine", "preset")
    for read in (
        folders.kind_of,
        records.read_run,
        claim_in,
        lambda path: records.read_csv(path / "results.csv", COLUMNS, texts),
    ):
        try:
            read(folder)
        except AimcError as error:
            assert str(folder) in str(error)
            assert "\n" not in str(error).strip()


@CASES
@given(run=changed(RUN).map(json.dumps).map(str.encode) | damaged(json.dumps(RUN).encode()))
def test_run_json(folder: Path, run: bytes) -> None:
    (folder / "run.json").write_bytes(run)
    (folder / "results.csv").write_bytes(RESULTS)
    judged(folder)


@CASES
@given(results=damaged(RESULTS))
def test_results_csv(folder: Path, results: bytes) -> None:
    (folder / "run.json").write_text(json.dumps(RUN), encoding="utf-8")
    (folder / "results.csv").write_bytes(results)
    judged(folder)


@CASES
@given(
    data=changed(json.loads(RECORD.read_text(encoding="utf-8"))).map(json.dumps).map(str.encode)
    | damaged(RECORD.read_bytes())
)
def test_records(folder: Path, data: bytes) -> None:
    """A record is read with rows as long as its columns, or a DataError names the file."""
    path = folder / "record.json"
    path.write_bytes(data)
    try:
        record = records.read(path)
    except AimcError as error:
        assert str(path) in str(error)
        return
    assert record.kind in records.KINDS
    assert all(len(row) == len(record.columns) for row in record.rows)


OPTIONS = ["--chips", "--times", "--seed", "--preset", "--engine", "--set", "--device", "--phases"]
OPTIONS += ["--shard", "--out", "--subset", "--recipe", "--option", "--profile", "--digital-epochs"]
VALUES = ["0", "-1", "1", "2.5", "1h", "nan", "lstm", "mlp", "rasch2023", "native", "cpu", "x.toml"]
VALUES += ["1/2", "hwa", "noise_scale=2", "size=paper", "9" * 30, "default"]


WORD = st.sampled_from([*OPTIONS, *VALUES, "--quiet", "--json", "--resume"]) | st.text(max_size=6)
PAIR = st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES) | st.text(max_size=6)).map(list)


@SLOW
@given(parts=st.lists(PAIR | WORD.map(lambda word: [word]), max_size=5))
def test_words_of_the_command_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, parts: list[list[str]]
) -> None:
    """Any words end in exit code 0 or 2; a mistake is told in a few lines, without a traceback."""
    monkeypatch.chdir(folder)
    words = [word for part in parts for word in part if "\x00" not in word]
    code = commands.main(["run", *words, "--dry-run"])
    told = capfd.readouterr().err
    assert code in (0, 2)
    assert "Traceback" not in told and (code == 0 or told.strip())
