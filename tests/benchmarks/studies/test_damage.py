"""Damaged files of a run: one message names the file and the damage once, and says what to do."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest

from aimc_bridge.errors import CheckpointError, DataError
from benchmarks import digital, run
from benchmarks.studies import finished_parts

QUICK = [
    *("mlp", "--engine", "native", "--times", "1s", "--subset", "40", "--workers", "1"),
    *("--hwa-batches", "2", "--chips", "2", "--digital-epochs", "1", "--seeds", "1"),
]
DAMAGED = [
    *("parts.json", "inputs.json", "digital-40.json", "layers-direct.json", "layers-hwa.json"),
    *("direct-native-40.csv", "hwa.safetensors", "digital/model.safetensors"),
    *("digital/info.json", "direct-native-40-answers.safetensors"),
    "digital-40-answers.safetensors",
]

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    assert run.main([*QUICK, "--out", str(out)]) == 0
    return out


def complaint(out: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Return the error of the run that goes on in a folder."""
    capsys.readouterr()
    assert run.main([*QUICK, *more, "--out", str(out), "--resume"]) == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("error:"))
    return line


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_once_with_what_to_do(
    finished: Path, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / "work" / "mlp" / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + b"\0" * 8)
    line = complaint(out, capsys)
    assert line.count(str(path)) == 1
    assert "damaged" in line
    assert "resume=" not in line
    assert len(re.findall(r"(remove|delete) (it|its folder)\b", line)) == 1


@pytest.mark.parametrize("name", ["hwa.safetensors", "digital"])
def test_a_removed_model_is_trained_again(finished: Path, name: str, tmp_path: Path) -> None:
    """That is the advice, and the results stay."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / "work" / "mlp" / name
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    assert run.main([*QUICK, "--out", str(out), "--resume"]) == 0
    assert path.exists()
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_the_advice_about_a_damaged_checkpoint_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The run that names a checkpoint does not train it: its folder alone is not to be removed."""
    training = ["mlp", "--epochs", "1", "--out", str(tmp_path / "model")]
    assert digital.main(training) == 0
    path = tmp_path / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    words = [*QUICK, "--phases", "direct", "--checkpoint", str(tmp_path / "model")]
    for command, line in ((run, words), (digital, [*training, "--resume"])):
        capsys.readouterr()
        assert command.main(line) == 2
        error = " ".join(capsys.readouterr().err.split())
        assert f"{path}: " in error
        assert error.endswith(
            "; put the former file back, or remove its folder to train the model again, with the "
            "command that trained it"
        )
    shutil.rmtree(tmp_path / "model")
    assert digital.main([*training, "--resume"]) == 0
    assert run.main(words) == 0


def test_a_damaged_record_of_a_run_is_replaced_by_that_of_an_equal_one(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the advice says: run.json of a run with the same options; what was measured stays."""
    out, other = tmp_path / "run", tmp_path / "other"
    shutil.copytree(finished, out)
    path = out / "run.json"
    path.write_bytes(path.read_bytes()[:-10])
    line = complaint(out, capsys)
    assert line.count(str(path)) == 1 and "damaged" in line
    assert "or a copy of that of a run with the same options" in line
    assert run.main([*QUICK, "--out", str(other)]) == 0
    shutil.copyfile(other / "run.json", path)
    chips = (out / "work" / "mlp" / "hwa-native-40.csv").stat().st_mtime_ns
    assert run.main([*QUICK, "--out", str(out), "--resume"]) == 0
    assert (out / "work" / "mlp" / "hwa-native-40.csv").stat().st_mtime_ns == chips
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


def test_a_damaged_history_can_be_removed(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / "work" / "mlp" / "hwa.csv"
    path.write_bytes(b"\xff")
    assert f"{path} is damaged" in (line := complaint(out, capsys))
    assert "remove it; without it the record says nothing of the validation" in line
    path.unlink()
    assert run.main([*QUICK, "--out", str(out), "--resume"]) == 0


def test_another_checksum_is_one_advice(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of the library is left out."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / "work" / "mlp" / "hwa.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    line = complaint(out, capsys)
    assert "do not fit its checksum); put the former file back" in line
    assert "use a copy" not in line


def test_an_error_of_the_task_without_a_text_stays_itself(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught, finished_parts.measuring_again(tmp_path / "a.csv"):
        raise DataError
    assert str(caught.value) == ""


def test_the_notes_of_parts_say_what_is_lost_with_them(tmp_path: Path) -> None:
    """The seconds are, and whose chips a file holds."""
    parts = finished_parts.Parts(tmp_path / "parts.json", keep=True)
    parts.timed("a", lambda: None)
    parts.path.write_text("{")
    with pytest.raises(CheckpointError, match="how long .* took, and takes every file of c"):
        finished_parts.Parts(parts.path, keep=True).recall()


@pytest.mark.parametrize("more", [(), ("--chips", "3")])
def test_chips_of_another_model_are_refused_in_words_of_the_command(
    finished: Path, more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both readers of the file speak to a user who passes no resume=: that of the run, of sweep."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    place = out / "work" / "mlp"
    shutil.copyfile(place / "hwa-native-40.csv", place / "direct-native-40.csv")
    line = complaint(out, capsys, *more)
    assert f"{place / 'direct-native-40.csv'}: rows of another sweep" in line
    assert line.endswith("; remove it to measure these chips again")
    assert line.count("remove") == 1


def test_a_changed_digit_is_refused_with_one_advice(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    path = out / "work" / "mlp" / "direct-native-40.csv"
    with path.open(newline="") as file:
        header, first, *rows = list(csv.reader(file))
    first[header.index("value")] = "0.123"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, first, *rows])
    line = complaint(out, capsys)
    assert "does not fit its checksum); remove it to measure these chips again" in line
    assert line.count("remove") == 1
