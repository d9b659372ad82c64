"""Which run a folder holds: a path has several spellings, and a known model may lie elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from aimc_bridge.errors import UsageError
from benchmarks import ablation, digital, ladder, run
from benchmarks.digital_files import check_same
from benchmarks.studies import claims, inputs
from benchmarks.studies.claims import Claim, changes, differing, same_options

QUICK = [
    *("mlp", "--engine", "native", "--times", "1s", "--subset", "40", "--chips", "2"),
    *("--phases", "direct"),
]

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train two digital models, as a run keeps them and alone."""
    out = tmp_path_factory.mktemp("models")
    places = [out / "A" / "work" / "mlp" / "digital", out / "B"]
    for seed, place in enumerate(places):
        words = ["mlp", "--seed", str(seed), "--epochs", "1", "--out", str(place)]
        assert digital.main(words) == 0
    return [out / "A", out / "B"]


@pytest.fixture
def begun(models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Do a run with a relative path to a checkpoint, and return its folder."""
    shutil.copytree(models[0], tmp_path / "A")
    monkeypatch.chdir(tmp_path)
    assert run.main([*QUICK, "--checkpoint", "A/work/mlp/digital", "--out", "cp"]) == 0
    return tmp_path / "cp"


def test_the_names_of_fingerprints_are_those_of_the_notes() -> None:
    assert {"checkpoint": inputs.DIGITAL, "trained": inputs.model_of("hwa")} == claims.MARKS


def test_the_spelling_of_a_checkpoint_is_no_part_of_the_run(
    begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place = begun.parent
    for spelling in (
        f"{place}/A/work/mlp/digital",
        "./A/work/mlp/digital/",
        "A/work/mlp/digital/model.safetensors",
        "mlp=A/work/mlp/digital",
        "A",
    ):
        words = [*QUICK, "--checkpoint", spelling, "--out", str(begun), "--resume"]
        assert run.main(words) == 0, capsys.readouterr().err
    monkeypatch.chdir(place / "A")
    words = [*QUICK, "--checkpoint", "work/mlp/digital", "--out", str(begun), "--resume"]
    assert run.main(words) == 0
    (place / "A").rename(place / "A2")
    monkeypatch.chdir(place)
    words = [*QUICK, "--checkpoint", "A2", "--out", "cp", "--resume", "--chips", "3"]
    assert run.main(words) == 0


def test_another_model_is_refused_wherever_it_lies(
    begun: Path, models: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*QUICK, "--out", str(begun), "--resume"]
    assert run.main([*words, "--checkpoint", str(models[1])]) == 2
    assert "are of another digital model" in capsys.readouterr().err
    assert run.main(words) == 2  # without one, it would be trained
    told = "a run with other arguments (checkpoint ['A/work/mlp/digital'], now [])"
    assert told in capsys.readouterr().err


def test_without_a_fingerprint_the_place_counts_and_not_its_spelling(
    begun: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of older versions have neither fingerprints nor the working directory."""
    record = json.loads((begun / "run.json").read_text())
    assert record.pop(claims.DIRECTORY) == str(begun.parent)
    note = begun / "work" / "mlp" / "inputs.json"
    shutil.copytree(begun.parent / "A", begun.parent / "A2")
    for spelling, code in (
        ("A2", 2),
        ("A/work/mlp/digital", 0),
        (str(begun.parent / "A"), 0),
    ):
        (begun / "run.json").write_text(json.dumps(record))
        note.unlink(missing_ok=True)
        words = [*QUICK, "--checkpoint", spelling, "--out", str(begun), "--resume"]
        assert run.main(words) == code
    assert "(checkpoint ['A/work/mlp/digital'], now ['A2'])" in capsys.readouterr().err


def test_the_data_folder_is_that_of_the_option_or_of_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path)
    words = [*QUICK, "--digital-epochs", "1", "--out", "out"]
    assert run.main([*words, "--data-dir", "data"]) == 0
    monkeypatch.setenv("AIMC_BRIDGE_DATA", str(tmp_path / "data"))
    for more in ([], ["--data-dir", "./data/"], ["--data-dir", str(tmp_path / "data")]):
        assert run.main([*words, *more, "--resume"]) == 0
    (tmp_path / "data").rename(tmp_path / "other")  # what the fingerprints know may lie elsewhere
    assert run.main([*words, "--data-dir", "other", "--resume"]) == 0
    for note in tmp_path.glob("*/work/*/inputs.json"):
        note.unlink()
    (tmp_path / "data").mkdir()
    assert run.main([*words, "--data-dir", "data", "--resume"]) == 2
    assert "data_dir" in capsys.readouterr().err


@pytest.mark.parametrize("command", [ablation, ladder])
def test_other_studies_take_another_spelling_too(
    command: Any, models: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(models[0], tmp_path / "A")
    monkeypatch.chdir(tmp_path)
    words = ["mlp", "--out", "out", "--times", "1s", "--chips", "2", "--subset", "40"]
    if command is ablation:
        words += ["--hwa-batches", "1", "--only", "no noise"]
    else:
        words += ["--repeats", "2"]
    assert command.main([*words, "--checkpoint", "A"]) == 0
    (tmp_path / "A").rename(tmp_path / "A2")
    assert command.main([*words, "--checkpoint", "./A2", "--resume"]) == 0


@pytest.mark.parametrize(
    ("before", "now", "differs"),
    [
        ({"checkpoint": ["m"]}, {"checkpoint": ["mlp=./m/"]}, False),
        ({"checkpoint": {"mlp": "m"}}, {"checkpoint": ["m/model.safetensors"]}, False),
        ({"checkpoint": ["m"]}, {"checkpoint": ["n"]}, True),
        ({"checkpoint": ["m"]}, {"checkpoint": []}, True),
        ({"checkpoint": 3}, {"checkpoint": ["m"]}, True),
        ({"trained": ["t"]}, {"trained": ["mlp=../w/t"]}, False),
        ({"trained": ["t"]}, {"trained": ["u"]}, True),
        ({"data_dir": "m"}, {"data_dir": "m/"}, False),
        ({"data_dir": "m"}, {"data_dir": None}, True),
        ({"option": ["encoder=m"]}, {"option": ["encoder=./m"]}, False),
        ({"option": ["a=1", "b=2"]}, {"option": ["b=2", "a=1"]}, False),
        ({"option": ["encoder=m"]}, {"option": ["encoder=n"]}, True),
        ({"option": ["a=1"]}, {"option": ["a=2"]}, True),
        ({"seed": 0}, {"seed": 1}, True),
    ],
)
def test_places_are_compared_after_they_are_resolved(
    before: dict[str, Any], now: dict[str, Any], differs: bool, tmp_path: Path
) -> None:
    place = tmp_path / "w"
    (place / "m").mkdir(parents=True)
    former, new = ({"tasks": ["mlp"], **each} for each in (before, now))
    assert bool(differing(Claim(former, place), Claim(new, place))) == differs


def test_the_same_word_in_another_working_directory_is_another_place(tmp_path: Path) -> None:
    words = {"tasks": ["mlp"], "checkpoint": ["m"], "data_dir": None}
    first, second = (Claim(words, tmp_path / name) for name in "ab")
    assert differing(first, second) == ["checkpoint"]


def test_data_of_the_same_word_in_another_working_directory_are_others(tmp_path: Path) -> None:
    first, second = (Claim({"tasks": ["mlp"], "data_dir": "m"}, tmp_path / name) for name in "ab")
    assert differing(first, second) == ["data_dir"]
    assert differing(first, first) == []


def test_an_option_can_have_the_name_of_a_folder_by_chance(tmp_path: Path) -> None:
    """Two equal texts differ only if both are paths, and the message says how."""
    (tmp_path / "a" / "ptb").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    words = {"tasks": ["mlp"], "option": ["dataset=ptb"]}
    first, second = (Claim(words, tmp_path / name) for name in "ab")
    assert differing(first, second) == differing(second, first) == []
    (tmp_path / "b" / "ptb").mkdir()
    assert differing(first, second) == ["option"]
    assert changes(["option"], words, words).endswith("now ['dataset=ptb'] of another folder")


@pytest.mark.parametrize("text", ["x" * 300, "a\0b"])
def test_an_option_that_can_be_no_path_is_compared_as_a_text(text: str, tmp_path: Path) -> None:
    first, second = ({"text": text}, {"text": f"{text}."})
    assert same_options(first, dict(first), tmp_path, tmp_path)
    assert not same_options(first, second, tmp_path, tmp_path)


def test_a_digital_training_goes_on_from_another_working_directory(tmp_path: Path) -> None:
    for name in ("a/enc", "b/enc"):
        (tmp_path / name).mkdir(parents=True)

    def facts(text: str, folder: str) -> dict[str, Any]:
        return {"options": {"text": text}, "inputs": {claims.DIRECTORY: str(tmp_path / folder)}}

    check_same(tmp_path, facts("../a/enc", "b"), facts("enc", "a"))
    with pytest.raises(UsageError, match=r"\(options of another folder\); name another folder"):
        check_same(tmp_path, facts("enc", "b"), facts("enc", "a"))


def test_changes_are_told_with_both_values_and_only_where_they_are() -> None:
    before = {"seed": 0, "preset": {"pcm": {"g": 1, "h": 2}}, "x": list(range(100))}
    now = {"seed": 1, "preset": {"pcm": {"g": 3, "h": 2}}, "x": [], "y": "new"}
    told = changes(["preset", "seed", "y"], before, now)
    assert told == "preset.pcm.g 1, now 3; seed 0, now 1; y None, now 'new'"
    assert len(changes(["x"], before, now)) < 200
    many = {f"k{i}": i for i in range(9)}
    assert changes(sorted(many), {}, many, " and ").endswith("k4 None and 4; and 4 more")
