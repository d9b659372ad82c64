"""The answers behind a run's intervals: they are of the chips of its rows, or they do not count."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import digital, run
from benchmarks.report import __main__ as report

QUICK = ["mlp", "--engine", "native", "--times", "1s", "--subset", "60", "--phases", "direct"]
ANSWERS = Path("work/mlp/direct-native-60-answers.safetensors")

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the words of a run of a digital model, without --out."""
    out = tmp_path_factory.mktemp("model") / "model"
    assert digital.main(["mlp", "--epochs", "2", "--out", str(out)]) == 0
    return [*QUICK, "--checkpoint", str(out)]


@pytest.fixture(scope="module")
def shards(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("shards") / "run"
    for number in (1, 2):
        part = ["--chips", "4", "--shard", f"{number}/2", "--out", str(out)]
        assert run.main([*words, *part]) == 0
    return [out / "shard-1-of-2", out / "shard-2-of-2"]


def facts_of(out: Path) -> dict[str, Any]:
    study: dict[str, Any] = json.loads((out / "run.json").read_text())["studies"]["mlp"]
    return study


def test_chips_without_answers_leave_the_interval_over_chips(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is never that of the chips alone whose answers are there."""
    out = tmp_path / "out"
    assert run.main([*words, "--chips", "3", "--out", str(out)]) == 0
    assert facts_of(out)["intervals"] and facts_of(out)["changes"]
    former = (out / ANSWERS).read_bytes()
    (out / ANSWERS).unlink()
    capsys.readouterr()
    assert run.main([*words, "--chips", "5", "--out", str(out), "--resume"]) == 0
    note = " ".join(capsys.readouterr().err.split())
    assert "lacks answers of the chips with the seeds 0, 1, 2: intervals of" in note
    assert facts_of(out)["intervals"] == facts_of(out)["changes"] == []
    assert "| chips |" in (out / "summary.md").read_text()
    (out / ANSWERS).unlink()
    assert run.main([*words, "--chips", "5", "--out", str(out), "--resume"]) == 0
    note = " ".join(capsys.readouterr().err.split())
    assert "or remove the results of the same name to measure them again" in note
    (out / ANSWERS).write_bytes(former)
    assert run.main([*words, "--chips", "3", "--out", str(tmp_path / "three")]) == 0
    shutil.copyfile(out / ANSWERS, tmp_path / "three" / ANSWERS)
    assert run.main([*words, "--chips", "3", "--out", str(tmp_path / "three"), "--resume"]) == 0
    assert facts_of(tmp_path / "three")["intervals"]


def test_answers_of_another_model_do_not_count(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their seeds and times are those of the rows, and their errors are not."""
    out, other = tmp_path / "out", tmp_path / "other"
    assert run.main([*words, "--chips", "2", "--out", str(out)]) == 0
    assert run.main([*words, "--chips", "2", "--preset", "hermes", "--out", str(other)]) == 0
    shutil.copyfile(other / ANSWERS, out / ANSWERS)
    capsys.readouterr()
    assert run.main([*words, "--chips", "2", "--out", str(out), "--resume"]) == 0
    assert "holds answers of other chips" in " ".join(capsys.readouterr().err.split())
    assert facts_of(out)["intervals"] == []


def test_shards_are_joined_with_their_own_answers_alone(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of another shard, and a missing one, are named; nothing is left behind."""
    assert report.main([*map(str, shards), "--merge", str(tmp_path / "all")]) == 0
    (change,) = facts_of(tmp_path / "all")["changes"]
    assert change["units"] == 4
    for number, text in ((1, "lacks answers of the chips"), (0, "is missing"), (1, "is missing")):
        parts = [tmp_path / f"{text}-{number}-{part.name}" for part in shards]
        for part, copy in zip(shards, parts, strict=True):
            shutil.copytree(part, copy)
        (parts[number] / ANSWERS).unlink()
        if "lacks" in text:
            shutil.copyfile(parts[0] / ANSWERS, parts[1] / ANSWERS)
        capsys.readouterr()
        into = tmp_path / "into"
        assert report.main([*map(str, parts), "--merge", str(into)]) == 2
        error = capsys.readouterr().err
        assert f"{parts[number] / ANSWERS} {text}" in error
        assert "put the former file back" in error
        assert ("remove it" in error) == ("lacks" in text)
        assert not into.exists()
