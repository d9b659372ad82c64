"""Runs in parts: shards share their trainings, and the merged run is the whole run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import run
from benchmarks.report import __main__ as report
from benchmarks.studies.shards import _without_shard

ROOT = Path(__file__).parents[2]
WORDS = [
    *("wrn", "--engine", "native", "--chips", "3", "--subset", "40", "--times", "1s", "1d"),
    *("--hwa-batches", "2", "--digital-epochs", "1"),
]

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert run.main([*WORDS, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Run two shards, in two processes at the same time: one trains, the other one waits."""
    out = tmp_path_factory.mktemp("shards") / "run"
    command = [sys.executable, "-m", "benchmarks.run", *WORDS, "--out", str(out)]
    processes = [
        subprocess.Popen([*command, "--shard", f"{number}/2"], cwd=ROOT, stderr=subprocess.PIPE)
        for number in (1, 2)
    ]
    for process in processes:
        _, error = process.communicate(timeout=600)
        assert process.returncode == 0, error.decode()
    return [out / "shard-1-of-2", out / "shard-2-of-2"]


def test_merged_shards_are_the_whole_run(
    whole: Path, shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "all"
    assert report.main([*map(str, reversed(shards)), "--merge", str(into)]) == 0
    assert capsys.readouterr() == (f"Report: {into / 'report.html'}\n", "")
    assert (into / "results.csv").read_bytes() == (whole / "results.csv").read_bytes()
    merged, expected = (json.loads((out / "run.json").read_text()) for out in (into, whole))
    assert merged["arguments"] == expected["arguments"]
    assert merged["command"] == shlex.join(["python", "-m", "benchmarks.run", *WORDS])
    for fact in ("intervals", "samples", "validation", "analog_weights"):
        assert merged["studies"]["wrn"].get(fact) == expected["studies"]["wrn"].get(fact)
    # only one of the two trained
    weights = {(part / "work/wrn/hwa.safetensors").read_bytes() for part in shards}
    assert len(weights) == 1


def test_wrong_shards_are_refused(
    whole: Path, shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, again = tmp_path / "other", tmp_path / "again"
    shutil.copytree(shards[1], other)
    shutil.copytree(shards[0], again)
    record = json.loads((other / "run.json").read_text())
    record["arguments"]["seed"] = 5
    (other / "run.json").write_text(json.dumps(record))
    for parts, text in (
        ([shards[0]], "shards are missing: 2/2"),
        ([shards[0], again], "both shard 1/2"),
        ([whole, shards[0]], "is no shard of a run"),
        ([shards[0], other], "are not of one run (seed 0 and 5)"),
    ):
        into = tmp_path / f"into-{len(text)}"
        assert report.main([*map(str, parts), "--merge", str(into)]) == 2
        assert text in capsys.readouterr().err
        assert not into.exists()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--shard", "1/2"], "--shard needs --out"),
        (["--shard", "3/2", "--out", "x"], "there is no such shard"),
        (["--shard", "4/5", "--out", "x"], "shard 4/5 of 3 chips has no chip"),
    ],
)
def test_shards_that_cannot_be(
    words: list[str], text: str, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main([*WORDS, *words]) == 2
    assert text in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_words_of_the_whole_run() -> None:
    words = ["lstm", "--shard", "1/2", "--out", "a b", "--seed", "3", "--resume", "--out=c"]
    assert _without_shard(words) == ["lstm", "--seed", "3"]
