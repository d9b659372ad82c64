"""Runs in parts: shards share their trainings, and the merged run is the whole run."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import digital, run, tasks
from benchmarks.report import __main__ as report
from benchmarks.studies.shards import _sound, _without_shard
from benchmarks.tasks import registry
from benchmarks.tasks.mlp import DigitsTask

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
    other, again, three = tmp_path / "other", tmp_path / "again", tmp_path / "three"
    shutil.copytree(shards[1], other)
    shutil.copytree(shards[0], again)
    record = json.loads((other / "run.json").read_text())
    record["arguments"]["seed"] = 5
    (other / "run.json").write_text(json.dumps(record))
    shutil.copytree(shards[1], three)
    record["arguments"] |= {"seed": 0, "shard": "2/3"}
    (three / "run.json").write_text(json.dumps(record))
    for parts, text in (
        ([shards[0]], "shards are missing: 2/2; run them, and name their folders"),
        ([shards[0], shards[0]], f"{shards[0]} is named twice; name the folder of each shard once"),
        ([shards[0], again], "both shard 1/2"),
        ([whole, shards[0]], "is no shard of a run"),
        ([shards[0], other], "are not of one run (seed 0 and 5)"),
        ([shards[0], three], "are not of one run (shard '1/2' and '2/3')"),
    ):
        into = tmp_path / "into"
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


# --- what a merge needs ---

TINY = ["mlp", "--engine", "native", "--chips", "3", "--subset", "40", "--times", "1s", "1d"]
SEVERAL = [*TINY, "--hwa-batches", "2", "--digital-epochs", "1", "--seeds", "2", "--workers", "1"]


def both_shards(words: list[str], out: Path) -> list[str]:
    """Run two shards, one after the other, and return their folders."""
    for number in (1, 2):
        assert run.main([*words, "--out", str(out), "--shard", f"{number}/2"]) == 0
    return [str(out / f"shard-{number}-of-2") for number in (1, 2)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("models")
    for seed in ("0", "1"):
        words = ["mlp", "--seed", seed, "--epochs", "1", "--out", str(out / seed)]
        assert digital.main(words) == 0
    return [out / "0", out / "1"]


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_a_merge_needs_the_folders_of_the_shards_alone(
    with_checkpoint: bool,
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No checkpoint, no task and its data, and not the working directory of the shards."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(models[0], "ck")
    words = [*TINY, "--checkpoint", "ck"] if with_checkpoint else SEVERAL
    assert run.main([*words, "--out", "one"]) == 0
    parts = [str(tmp_path / part) for part in both_shards(words, Path("parts"))]
    shutil.rmtree("ck")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a merge asks for a task")

    with monkeypatch.context() as patch:
        patch.setattr(registry, "find", refuse)
        patch.setattr(registry.Task, "load", refuse)
        for module in (tasks, registry):
            patch.setattr(module, "get", refuse)
        assert report.main([*parts, "--merge", "all"]) == 0
    one, merged = tmp_path / "one", tmp_path / "elsewhere" / "all"
    assert (merged / "results.csv").read_bytes() == (one / "results.csv").read_bytes()
    records = [json.loads((out / "run.json").read_text()) for out in (merged, one)]
    times = ("wall_s", "interrupted")
    assert records[1].pop("command") == f"{records[0].pop('command')} --out one"
    for record in records:
        for facts in (
            record["studies"]["mlp"],
            *record["studies"]["mlp"].get("others", {}).values(),
        ):
            facts["digital"].pop("wall_s", None)
            assert facts["layers"]
            for name in times:
                facts.pop(name)
    assert records[0] == records[1]
    pages = [(out / "summary.md").read_text() for out in (merged, one)]
    assert pages[0].split("\n", 3)[3] == pages[1].split("\n", 3)[3]


def test_a_merged_run_grows(tmp_path: Path) -> None:
    words = [*SEVERAL, "--phases", "direct"]
    parts = both_shards(words, tmp_path / "parts")
    assert report.main([*parts, "--merge", str(tmp_path / "all")]) == 0
    assert run.main([*words, "--chips", "4", "--out", str(tmp_path / "all"), "--resume"]) == 0
    assert run.main([*words, "--chips", "4", "--out", str(tmp_path / "one")]) == 0
    results = [(tmp_path / out / "results.csv").read_bytes() for out in ("all", "one")]
    assert results[0] == results[1]


def test_shards_of_two_models_are_named_with_their_checkpoints(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = []
    for number in (1, 2):
        words = [*TINY, "--checkpoint", str(models[number - 1]), "--shard", f"{number}/2"]
        assert run.main([*words, "--out", str(tmp_path / str(number))]) == 0
        parts.append(tmp_path / str(number) / f"shard-{number}-of-2")
    capsys.readouterr()
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "all")]) == 2
    error = capsys.readouterr().err
    assert f"{parts[1] / 'work/mlp/inputs.json'} differ: another digital model" in error
    for part, model in zip(parts, models, strict=True):
        assert f"{part} was run with --checkpoint {model}" in error
    assert not (tmp_path / "all").exists()


def test_shards_of_other_test_data_are_named_with_their_data(
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same model: the error speaks of the data, and not of the model."""
    words = [*TINY, "--checkpoint", str(models[0])]
    targets = DigitsTask.targets
    parts = [tmp_path / str(number) / f"shard-{number}-of-2" for number in (1, 2)]
    assert run.main([*words, "--shard", "1/2", "--out", str(parts[0].parent)]) == 0
    monkeypatch.setattr(DigitsTask, "targets", lambda self, batch: (targets(self, batch) + 1) % 10)
    assert run.main([*words, "--shard", "2/2", "--out", str(parts[1].parent)]) == 0
    capsys.readouterr()
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "all")]) == 2
    error = capsys.readouterr().err
    assert "differ: another set of test data (digital-40)" in error
    assert "digital model is another" not in error
    for part in parts:  # without notes, as in older versions, the numbers tell
        (part / "work" / "mlp" / "inputs.json").unlink()
        for answers in part.glob("work/mlp/*answers.safetensors"):
            answers.unlink()
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "all")]) == 2
    assert "accuracy 0." in capsys.readouterr().err


def test_an_unfinished_shard_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parts = both_shards([*TINY, "--digital-epochs", "1", "--phases", "direct"], tmp_path / "p")
    record = json.loads((Path(parts[1]) / "run.json").read_text())
    claim = {name: record[name] for name in ("arguments", "directory")}
    (Path(parts[1]) / "run.json").write_text(json.dumps(claim))
    capsys.readouterr()
    assert report.main([*parts, "--merge", str(tmp_path / "all")]) == 2
    assert f"{parts[1]} is not finished" in capsys.readouterr().err


# --- files that are not there, or damaged ---


@pytest.fixture(scope="module")
def direct(models: list[Path], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return two shards, with answers."""
    words = [*TINY, "--checkpoint", str(models[0]), "--phases", "direct"]
    return [Path(part) for part in both_shards(words, tmp_path_factory.mktemp("direct"))]


def refused(parts: list[Path], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the error of a merge, which leaves nothing behind."""
    into = parts[0].parent / "all"
    capsys.readouterr()
    assert report.main([*map(str, parts), "--merge", str(into)]) == 2
    assert not into.exists()
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("name", ["digital-40.json", "direct-native-40.csv"])
@pytest.mark.parametrize("missing", [(0,), (1,), (0, 1)])
def test_missing_results_are_called_missing(
    direct: list[Path],
    missing: tuple[int, ...],
    name: str,
    answers: bool,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In whichever shard they are missing, and whether the task keeps answers or not."""
    parts = [Path(shutil.copytree(part, tmp_path / part.name)) for part in direct]
    for part in parts if not answers else ():
        for path in part.glob("work/mlp/*answers.safetensors"):
            path.unlink()
    paths = [parts[number] / "work" / "mlp" / name for number in missing]
    for path in paths:
        path.unlink()
    error = refused(parts, capsys)
    assert "missing" in error and "damaged" not in error
    assert "go on with" in error and "(--resume)" in error
    if len(paths) == 1:
        assert f"{paths[0]} is missing" in error
    assert str(parts[0].parent / "all") not in error


@pytest.mark.parametrize("number", [0, 1])
def test_a_cut_sweep_says_what_to_do(
    direct: list[Path], number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [Path(shutil.copytree(part, tmp_path / part.name)) for part in direct]
    path = parts[number] / "work" / "mlp" / "direct-native-40.csv"
    lines = path.read_text().splitlines(keepends=True)
    for rest in ("".join(lines[:-1]), "", "\0"):
        path.write_text(rest)
        assert f"error: {path}: " in (error := refused(parts, capsys))
        assert error.endswith(
            "; remove it and go on with this shard (--resume) to measure its chips again"
        )


def test_other_files_come_from_the_shard_that_has_them(direct: list[Path], tmp_path: Path) -> None:
    parts = [Path(shutil.copytree(part, tmp_path / part.name)) for part in direct]
    (parts[0] / "work" / "mlp" / "layers-direct.json").unlink()
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "all")]) == 0
    assert (tmp_path / "all" / "work" / "mlp" / "layers-direct.json").exists()


def test_a_merge_names_its_own_options(
    direct: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into, empty = tmp_path / "all", tmp_path / "empty"
    empty.mkdir()
    for part, text in (
        (tmp_path / "none", f"{tmp_path / 'none'} is no folder; name the folders of all shards"),
        (empty, f"{empty} holds no record of a run; name the folders of all shards"),
        (direct[0], f"--merge {into} is not empty; name another folder"),
    ):
        if part == direct[0]:
            into.mkdir()
            (into / "mine.txt").write_text("mine")
        assert report.main([str(part), str(direct[1]), "--merge", str(into)]) == 2
        error = capsys.readouterr().err
        assert text in error and "--out" not in error


COPIED = (
    *("hwa.safetensors", "hwa.csv", "layers-direct.json", "layers-hwa.json", "parts.json"),
    *("digital/model.safetensors", "digital/info.json", "hwa-training/metrics.csv"),
)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def test_a_damaged_file_comes_from_the_shard_with_a_sound_one(
    shards: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If none has one, the file is named with what to do, and that works."""
    parts = [Path(shutil.copytree(part, tmp_path / part.name)) for part in shards]
    paths = [[part / "work" / "wrn" / name for part in parts] for name in COPIED]
    for first, _ in paths:
        cut(first)
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "one")]) == 0
    for (_, second), name in zip(paths, COPIED, strict=True):
        assert (tmp_path / "one" / "work" / "wrn" / name).read_bytes() == second.read_bytes()
    for first, second in paths:
        former = second.read_bytes()
        cut(second)
        error = refused(parts, capsys)
        assert str(first) in error and "damaged" in error
        assert "put the former file back, or remove it in all shards and go on with one" in error
        second.write_bytes(former)
    for first, second in paths[:3]:
        first.unlink()
        second.unlink()
    words = ["--shard", "2/2", "--out", str(tmp_path), "--resume"]
    assert run.main([*WORDS, *words]) == 0
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "two")]) == 0
    results = [(tmp_path / into / "results.csv").read_bytes() for into in ("one", "two")]
    assert results[0] == results[1]


def test_a_table_is_the_one_that_most_shards_have(tmp_path: Path) -> None:
    """It has no checksum: one that is cut at the end of a row, or changed, looks sound."""
    paths = [tmp_path / f"{number}.csv" for number in range(3)]
    whole, shorter, other = "a,b\n1,2\n3,4\n", "a,b\n1,2\n", "a,b\n1,2\n3,9\n"
    for contents, expected in (
        ((shorter, whole, whole), 1),
        ((other, whole, whole), 1),
        ((whole, whole, other), 0),
        ((shorter, whole), 1),
        (("a,b\n1,", shorter, whole), 2),
    ):
        named = paths[: len(contents)]
        for path, content in zip(named, contents, strict=True):
            path.write_text(content)
        assert _sound(named) == paths[expected]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("work/mlp/digital-40.json", "remove it and go on with this shard (--resume) to measure"),
        (
            "work/mlp/direct-native-40-answers.safetensors",
            "remove it and the results of the same name and go on with that shard (--resume)",
        ),
        ("work/mlp/inputs.json", "whether this shard is of the same models and data"),
        ("run.json", "and go on with this shard (--resume)"),
        ("results.csv", "or go on with the run (--resume), which writes it again"),
    ],
)
def test_a_merge_says_what_to_do_about_a_damaged_file(
    direct: list[Path], name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [Path(shutil.copytree(part, tmp_path / part.name)) for part in direct]
    cut(parts[1] / name)
    error = refused(parts, capsys)
    assert error.count(str(parts[1] / name)) == 1
    assert "damaged" in error and text in error
    assert "--out" not in error


def test_a_missing_table_of_results_is_missing(
    direct: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = [Path(shutil.copytree(part, tmp_path / part.name)) for part in direct]
    (parts[1] / "results.csv").unlink()
    error = refused(parts, capsys)
    assert f"{parts[1] / 'results.csv'} is missing; copy it again, or go on" in error
    assert "Errno" not in error


def test_the_record_of_another_shard_saves_what_is_done(
    direct: list[Path], models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the advice says: its run.json with the number of the shard changed, and --resume."""
    parts = [Path(shutil.copytree(part, tmp_path / part.name)) for part in direct]
    record = (parts[0] / "run.json").read_text()
    words = [*TINY, "--checkpoint", str(models[0]), "--phases", "direct"]
    words += ["--shard", "2/2", "--out", str(tmp_path), "--resume"]
    cut(parts[1] / "run.json")
    assert run.main(words) == 2
    assert "damaged" in (error := capsys.readouterr().err) and "of another" in error
    (parts[1] / "run.json").unlink()
    assert run.main(words) == 2
    assert "is missing; put the former file back, or a copy" in capsys.readouterr().err
    assert "is missing; put the former file back, or a copy" in refused(parts, capsys)
    (parts[1] / "run.json").write_text(record)
    assert 'are both shard 1/2; name one, or correct "shard" in' in refused(parts, capsys)
    (parts[1] / "run.json").write_text(record.replace('"shard": "1/2"', '"shard": "x"'))
    assert f"{parts[1] / 'run.json'}: shard='x'; allowed" in refused(parts, capsys)
    (parts[1] / "run.json").write_text(record.replace('"shard": "1/2"', '"shard": "2/2"'))
    (parts[1] / "work" / "mlp" / "digital-40.json").unlink()
    assert run.main(words) == 0
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "all")]) == 0
    assert report.main([*map(str, direct), "--merge", str(tmp_path / "sound")]) == 0
    results = [(tmp_path / into / "results.csv").read_bytes() for into in ("all", "sound")]
    assert results[0] == results[1]
