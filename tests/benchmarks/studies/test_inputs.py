"""What a run's results were made from: models and data that change under their path are noticed."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from aimc_bridge.errors import UsageError
from aimc_bridge.sealed_files import read_facts, read_tensors, write_facts, write_tensors
from benchmarks import digital, run, tasks
from benchmarks.report import __main__ as report
from benchmarks.studies import inputs
from benchmarks.studies.folder import INPUTS
from benchmarks.tasks.data import Loader
from benchmarks.tasks.mlp import DigitsTask

QUICK = [
    *("mlp", "--engine", "native", "--times", "1s", "--subset", "40"),
    *("--hwa-batches", "2", "--chips", "2"),
]
TRAIN_LOADER = DigitsTask.train_loader
OTHER = "of another digital model than the one there is now"

pytestmark = pytest.mark.usefixtures("no_data")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Train two digital models."""
    out = tmp_path_factory.mktemp("models")
    for seed in ("0", "1"):
        words = ["mlp", "--seed", seed, "--epochs", "1", "--out", str(out / seed)]
        assert digital.main(words) == 0
    return [out / "0", out / "1"]


def files_of(out: Path) -> dict[str, bytes]:
    """Return the contents of all files in a folder."""
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_checkpoint_that_changes_under_its_path_is_refused(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The results stay as they are, and the run goes on with the former model."""
    place, out = tmp_path / "ck", tmp_path / "out"
    shutil.copytree(models[0], place)
    words = [*QUICK, "--checkpoint", str(place), "--out", str(out)]
    assert run.main([*words, "--phases", "direct"]) == 0
    before = files_of(out)
    shutil.rmtree(place)
    shutil.copytree(models[1], place)
    capsys.readouterr()
    for more in (["--phases", "control"], ["--phases", "direct", "--chips", "3"]):
        assert run.main([*words, *more, "--resume"]) == 2
        assert OTHER in capsys.readouterr().err
    after = files_of(out)
    after.pop(".lock", None)
    assert after == before
    shutil.rmtree(place)
    shutil.copytree(models[0], place)
    assert run.main([*words, "--phases", "control", "--resume"]) == 0


@pytest.mark.parametrize("changes", [False, True])
def test_results_without_notes_are_checked_once(
    models: list[Path], changes: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folders of older versions have none: the digital model is measured again."""
    place, out = tmp_path / "ck", tmp_path / "out"
    shutil.copytree(models[0], place)
    words = [*QUICK, "--checkpoint", str(place), "--phases", "direct", "--out", str(out)]
    assert run.main(words) == 0
    note = out / "work" / "mlp" / INPUTS
    noted = read_facts(note)
    note.unlink()
    if changes:
        shutil.rmtree(place)
        shutil.copytree(models[1], place)
    capsys.readouterr()
    assert run.main([*words, "--resume"]) == (2 if changes else 0)
    if changes:
        assert "of another digital model, or of other test data," in capsys.readouterr().err
        assert inputs.DIGITAL not in read_facts(note)
    else:
        assert read_facts(note) == noted


TARGETS, BATCHES = DigitsTask.targets, DigitsTask.batches


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("targets", lambda *args: (TARGETS(*args) + 1) % 10),
        # labels and the mean square of the pixels stay as they are
        ("batches", lambda *args: ((x.flip(-1), y) for x, y in BATCHES(*args))),
    ],
)
def test_other_data_are_refused(
    name: str,
    other: Callable[..., Any],
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = [*QUICK, "--checkpoint", str(models[0]), "--phases", "direct", "--out", str(out)]
    assert run.main(words) == 0
    monkeypatch.setattr(DigitsTask, name, other)
    capsys.readouterr()
    assert run.main([*words, "--resume"]) == 2
    assert "of another set of test data (digital-40) than" in capsys.readouterr().err


def test_trainings_on_other_data_are_not_compared(
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    words = [*QUICK, "--checkpoint", str(models[0]), "--out", str(out)]
    assert run.main([*words, "--phases", "control"]) == 0
    with monkeypatch.context() as other:
        other.setattr(DigitsTask, "train_loader", lambda self, n, seed: doubled(self, n, seed))
        capsys.readouterr()
        assert run.main([*words, "--phases", "control", "hwa", "--resume"]) == 2
        assert "of another set of training data than" in capsys.readouterr().err
        hwa = ["--phases", "hwa", "--out", str(tmp_path / "hwa")]
        assert run.main([*words, *hwa]) == 0
    weights = tmp_path / "hwa" / "work" / "mlp" / "hwa.safetensors"
    with_control = ["--trained", str(weights), "--phases", "control", "hwa"]
    assert run.main([*words, *with_control, "--out", str(tmp_path / "both")]) == 2
    assert "another set of training data): repeat" in capsys.readouterr().err
    assert run.main([*words, "--phases", "control", "hwa", "--resume"]) == 0


def test_ranges_from_other_data_are_refused(
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*QUICK, "--checkpoint", str(models[0]), "--out", str(tmp_path / "out")]
    assert run.main([*words, "--phases", "direct"]) == 0
    former = DigitsTask.calibration_batches
    monkeypatch.setattr(
        DigitsTask, "calibration_batches", lambda *args: [2 * x for x in former(*args)]
    )
    for more in (["direct", "hwa"], ["direct", "--chips", "3"]):
        capsys.readouterr()
        assert run.main([*words, "--phases", *more, "--resume"]) == 2
        assert "of another set of calibration data than" in capsys.readouterr().err


def test_a_digital_model_of_other_training_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused in a run, also where nothing but the digital model was trained.

    An unfinished training does not go on with other data either.
    """
    words = [*QUICK, "--digital-epochs", "1", "--out", str(tmp_path / "out")]
    assert run.main([*words, "--phases", "direct"]) == 0
    task = tasks.get("mlp")
    digital.fit(task, tmp_path / "alone", stop_after=1)
    monkeypatch.setattr(DigitsTask, "train_loader", lambda self, n, seed: doubled(self, n, seed))
    capsys.readouterr()
    assert run.main([*words, "--phases", "direct", "hwa", "--resume"]) == 2
    assert "of another set of training data than" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"alone holds a training on another set of training data"):
        digital.fit(task, tmp_path / "alone", resume=True)


@pytest.mark.parametrize("split", ["validation", "test"])
def test_metrics_of_a_digital_model_on_other_data_are_refused(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are the same, and the metrics in info.json are not those of the data."""
    out = tmp_path / "out"
    words = ["mlp", "--epochs", "1", "--out", str(out)]
    assert digital.main(words) == 0
    assert digital.main([*words, "--resume"]) == 0
    info = (out / "info.json").read_text()

    def other(task: DigitsTask, asked: str, subset: int | None = None) -> Iterator[Any]:
        for x, y in BATCHES(task, asked, subset):
            yield (x.flip(-1) if asked == split else x), y

    monkeypatch.setattr(DigitsTask, "batches", other)
    capsys.readouterr()
    assert digital.main([*words, "--resume"]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert f"the metrics in {out} are of another set of {split} data than" in error
    older = json.loads(info)
    del older["inputs"][f"set of {split} data"]  # older versions did not note it
    (out / "info.json").write_text(json.dumps(older))
    assert digital.main([*words, "--resume"]) == 0


def doubled(task: DigitsTask, batch_size: int, seed: int) -> Loader:
    """Return the training data of the digits with all pixels twice as bright."""
    loader = TRAIN_LOADER(task, batch_size, seed)
    make = loader.make

    def brighter(*args: Any) -> tuple[Tensor, Tensor]:
        images, labels = make(*args)
        return 2 * images, labels

    return Loader(loader.plan, brighter, loader.size, seed)


def relabelled(task: DigitsTask, batch_size: int, seed: int) -> Loader:
    """Return the training data of the digits with other labels from the third mini-batch on."""
    loader, made = TRAIN_LOADER(task, batch_size, seed), itertools.count()
    make = loader.make

    def other(*args: Any) -> tuple[Tensor, Tensor]:
        images, labels = make(*args)
        return images, labels if next(made) < 2 else (labels + 1) % 10

    return Loader(loader.plan, other, loader.size, seed)


def test_training_data_that_differ_late_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many mini-batches are compared as have a given number of numbers, and at least two."""
    task = tasks.get("mlp")
    assert isinstance(task, DigitsTask)
    two = [inputs.training_mark(task, 8, 0, most=most) for most in (0, 2 * 8 * 65)]
    older = {name: value for name, value in two[0].items() if name != "further"}
    three = inputs.training_mark(task, 8, 0, most=2 * 8 * 65 + 1)
    whole = inputs.training_mark(task, 8, 0)
    monkeypatch.setattr(DigitsTask, "train_loader", lambda self, n, seed: relabelled(self, n, seed))
    assert two[0] == two[1] == inputs.training_mark(task, 8, 0, most=0)
    assert not inputs.same(three, inputs.training_mark(task, 8, 0, most=2 * 8 * 65 + 1))
    assert not inputs.same(whole, inputs.training_mark(task, 8, 0))
    assert inputs.same(older, inputs.training_mark(task, 8, 0))  # it has the first two alone
    monkeypatch.setattr(DigitsTask, "train_loader", lambda self, n, seed: doubled(self, n, seed))
    assert not inputs.same(older, inputs.training_mark(task, 8, 0))


@pytest.mark.parametrize("keep", ["best", "last"])
def test_other_validation_data_are_refused_where_they_choose_the_weights(
    keep: str,
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [*QUICK, "--checkpoint", str(models[0]), "--keep", keep]
    words += ["--validate-every", "1", "--out", str(tmp_path / "out")]
    assert run.main([*words, "--phases", "hwa"]) == 0

    def mirrored(task: DigitsTask, split: str, *args: Any) -> Any:
        batches = BATCHES(task, split, *args)
        return ((x.flip(-1), y) for x, y in batches) if split == "validation" else batches

    monkeypatch.setattr(DigitsTask, "batches", mirrored)
    capsys.readouterr()
    code = run.main([*words, "--phases", "hwa", "control", "--resume"])
    assert code == (2 if keep == "best" else 0)
    told = "of another set of validation data than" in capsys.readouterr().err
    assert told == (keep == "best")


@pytest.mark.parametrize("phase", ["finetune", "control", "hwa"])
def test_a_trained_model_that_is_replaced_is_refused(
    models: list[Path], phase: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without chips of the former one, the new one is taken."""
    out = tmp_path / "out"
    words = [*QUICK, "--checkpoint", str(models[0]), "--phases", phase, "--out", str(out)]
    assert run.main(words) == 0
    weights = out / "work" / "mlp" / f"{phase}.safetensors"
    changed = read_tensors(weights)
    changed["fc.bias"] = changed["fc.bias"] + 1.0
    write_tensors(weights, changed)
    capsys.readouterr()
    assert run.main([*words, "--resume"]) == 2
    assert f"of another trained model ({phase}) than" in capsys.readouterr().err
    for path in weights.parent.glob(f"{phase}-*"):
        if path.is_file():
            path.unlink()
    assert run.main([*words, "--resume"]) == 0


def test_shards_of_other_inputs_are_not_joined(
    models: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = [*QUICK, "--checkpoint", str(models[0]), "--phases", "direct", "--out", str(out)]
    parts = [out / f"shard-{number}-of-2" for number in (1, 2)]
    for number in (1, 2):
        assert run.main([*words, "--shard", f"{number}/2"]) == 0
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "all")]) == 0
    note = parts[1] / "work" / "mlp" / INPUTS
    write_facts(note, {**read_facts(note), inputs.DIGITAL: "0" * 64})
    capsys.readouterr()
    assert report.main([*map(str, parts), "--merge", str(tmp_path / "other")]) == 2
    assert "differ: another digital model" in capsys.readouterr().err


def test_a_fingerprint_is_the_same_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has larger batches, which are padded to other lengths."""
    task = tasks.get("bert")
    gpu = torch.device("cuda")
    mark = inputs.data_mark(task, "test", None)
    task.place(gpu)
    size = task.at_once  # type: ignore[attr-defined]
    assert inputs.data_mark(task, "test", None, gpu) == mark
    assert task.at_once == size != 64  # type: ignore[attr-defined]
    monkeypatch.setattr(task, "place", lambda device: setattr(task, "at_once", 2))
    assert inputs.data_mark(task, "test", None) != mark


def test_masks_of_minus_infinity_have_a_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    task = tasks.get("mlp")
    lowest = torch.finfo(torch.float32).min
    for fill in (-torch.inf, torch.inf, torch.nan, lowest):
        masked = torch.tensor([[1.0, fill, 2.0, fill]])
        monkeypatch.setattr(task, "batches", lambda *_, x=masked: [(x, torch.tensor([1]))])
        mark = inputs.data_mark(task, "test", None)
        assert inputs.same(mark, json.loads(json.dumps(mark)))
        assert mark["sums"] != [0.0] * 4


def test_batches_that_do_not_depend_on_their_seed_are_refused_before_a_training(
    models: list[Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls = itertools.count()
    monkeypatch.setattr(
        DigitsTask, "train_loader", lambda self, n, seed: TRAIN_LOADER(self, n, next(calls))
    )
    words = [*QUICK, "--checkpoint", str(models[0]), "--out", str(tmp_path / "out")]
    assert run.main([*words, "--phases", "finetune"]) == 2
    assert "gives other batches each time; they must depend on its seed" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fingerprints_of_models_and_data() -> None:
    """Half precision changes a fingerprint unless it is that of the halved model."""
    task = tasks.get("mlp")
    model = task.build(0)
    halved = {name: value.half().float() for name, value in model.state_dict().items()}
    assert inputs.fingerprint(model) != inputs.fingerprint(halved)
    assert inputs.fingerprint(model, halved=True) == inputs.fingerprint(halved, halved=True)
    names = ("hidden.1.weight", "hidden.2.weight")
    swapped = {**halved, names[0]: halved[names[1]], names[1]: halved[names[0]]}
    assert inputs.fingerprint(swapped) != inputs.fingerprint(halved)
    mark = json.loads(json.dumps(inputs.data_mark(task, "test", 40)))
    assert inputs.same(mark, inputs.data_mark(task, "test", 40))
    assert not inputs.same(mark, {**mark, "mean_square": mark["mean_square"] * 1.001})
    first, *rest = mark["sums"]
    assert inputs.same(mark, {**mark, "sums": [first + 1e-6, *rest]})
    assert not inputs.same(mark, {**mark, "sums": [first + 1e-3, *rest]})
    assert not inputs.same(mark, {**mark, "sums": rest})
    assert inputs.same(mark, {**mark, "mean_square": mark["mean_square"] * (1 + 1e-6)})
    assert not inputs.same(mark, inputs.data_mark(task, "test", 41))
    assert inputs.same(mark, {**mark, "of a later version": 1})
