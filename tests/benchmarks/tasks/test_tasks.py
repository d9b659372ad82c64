"""Properties of all three tasks: metrics against sums done by hand, seeds, options, files."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from aimc_bridge import calibrate, convert
from aimc_bridge.errors import CheckpointError, DataError, UsageError
from benchmarks import tasks
from presets import rasch2023
from tests.benchmarks.tasks.test_lstm import language


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_an_untrained_model_guesses(all_tasks, name) -> None:
    task = all_tasks[name]
    assert task.chance_error == pytest.approx(1 - 1 / task.n_classes)
    scores = task.evaluate(task.build(0), subset=200)
    assert scores["error"] > 0.5
    assert 0.5 * math.log(task.n_classes) < scores["loss"] < 1.6 * math.log(task.n_classes)


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_a_model_is_a_function_of_its_seed_alone(all_tasks, name) -> None:
    task = all_tasks[name]
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = task.build(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    other = task.build(3)
    for key, value in first.state_dict().items():
        assert torch.equal(value, other.state_dict()[key])
    differ = [
        not torch.equal(value, task.build(4).state_dict()[key])
        for key, value in first.state_dict().items()
    ]
    assert any(differ)


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_evaluation_is_repeatable_without_dropout_and_gives_the_mode_back(all_tasks, name) -> None:
    task = all_tasks[name]
    model = task.build(0).train()
    first = task.evaluate(model, subset=100)
    assert model.training
    assert task.evaluate(model, subset=100) == first
    undisturbed = task.build(0, dropout=0.0)
    undisturbed.load_state_dict(model.state_dict())
    assert task.evaluate(undisturbed, subset=100)["loss"] == pytest.approx(first["loss"], rel=1e-6)


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_a_subset_has_so_many_samples(all_tasks, name) -> None:
    task = all_tasks[name]
    count = sum(task.targets(batch).numel() for batch in task.batches("test", 150))
    if name == "lstm":  # The first word of a stream is not scored.
        assert 150 - 2 * task.evaluation_streams < count <= 150
    else:
        assert count == 150
    everything = sum(task.targets(batch).numel() for batch in task.batches("test"))
    lost = 2 * task.evaluation_streams if name == "lstm" else 1
    assert task.count("test") - lost < everything <= task.count("test")


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_the_probability_is_the_mean_of_what_the_right_class_gets(all_tasks, name) -> None:
    task = all_tasks[name]
    model = task.build(0, dropout=0.0).eval()
    total = count = 0.0
    with torch.no_grad():
        for batch in task.batches("test", 100):
            scores = task.logits(model, batch).double().exp()
            for row, right in zip(scores, task.targets(batch).tolist(), strict=True):
                total += float(row[right] / row.sum())
                count += 1
    metrics = task.evaluate(model, 100, probability=True)
    assert metrics["probability"] == pytest.approx(total / count, rel=1e-5)
    del metrics["probability"]
    assert metrics == task.evaluate(model, 100)


def flat(batch) -> list[Tensor]:
    values = batch.values() if isinstance(batch, dict) else batch
    return [v for v in values if isinstance(v, Tensor)]


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_training_batches_repeat_by_seed_and_epoch(all_tasks, name) -> None:
    task = all_tasks[name]
    loader, another = task.train_loader(8, 5), task.train_loader(8, 5)
    first = flat(next(loader.passing(1)))
    assert all(
        torch.equal(a, b) for a, b in zip(first, flat(next(another.passing(1))), strict=True)
    )
    later = flat(next(another.passing(2)))
    assert any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(first, later, strict=True)
    )


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_a_trained_model_is_read_back_and_others_are_refused(all_tasks, name, tmp_path) -> None:
    from safetensors.torch import load_file, save_model

    from aimc_bridge.sealed_files import write_tensors

    task = all_tasks[name]
    model, file = task.build(1), tmp_path / "model.safetensors"
    save_model(model, str(file))
    with pytest.warns(UserWarning, match="model.safetensors: no checksum"):
        loaded = task.load(tmp_path)
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])
    stored = load_file(file)
    write_tensors(file, stored)
    assert not task.load(file).training
    key = next(key for key, value in stored.items() if value.ndim > 1)
    for bad in (math.nan, math.inf):
        broken = {k: v.clone() for k, v in stored.items()}
        broken[key].view(-1)[-1] = bad
        write_tensors(file, broken)
        with pytest.raises(CheckpointError, match=f"{key} holds NaN or infinite values"):
            task.load(tmp_path)
    write_tensors(file, {k: v for k, v in stored.items() if k != key})
    with pytest.raises(CheckpointError, match="holds another model than"):
        task.load(tmp_path)
    write_tensors(file, {**stored, key: torch.zeros(3, 3)})
    with pytest.raises(CheckpointError, match="holds another model than"):
        task.load(tmp_path)
    file.write_bytes(b"")
    with pytest.raises(CheckpointError, match="not a safetensors file, or damaged"):
        task.load(tmp_path)
    file.unlink()
    with pytest.raises(CheckpointError, match=f"benchmarks.digital {name} --profile embedded"):
        task.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("nlp", {}, "unknown task 'nlp'; one of wrn, bert, lstm"),
        ("wrn", {"widht": 2}, "unknown option 'widht'.*dataset, depth, width, size"),
        ("wrn", {"width": "two"}, "width='two'.*allowed: a whole number"),
        ("wrn", {"width": True}, "width=True.*allowed: a whole number"),
        ("wrn", {"width": 0}, "no WRN-10-0"),
        ("wrn", {"depth": 12}, "no WRN-12-1: depth must be 10, 16, 22"),
        ("wrn", {"cutout": -1}, r"cutout=-1; allowed: 0 \(none\) or more"),
        ("wrn", {"dataset": "mnist"}, "unknown data set 'mnist'"),
        (
            "wrn",
            {"dataset": "cifar10-jpeg"},
            "one of digits, cifar10, cifar100",
        ),
        ("bert", {"encoder": "x"}, "encoder needs real"),
        ("bert", {"dropout": 1.0}, "allowed: 0 <= dropout < 1"),
        ("lstm", {"size": "huge"}, "unknown size 'huge'; one of tiny, small, paper"),
        ("lstm", {"width": 0}, "width=0; allowed: 1 or more"),
        ("lstm", {"width": 9, "size": "tiny"}, "width=9; allowed: one of size=tiny and width"),
        ("bert", {"dataset": "mrpc"}, "dataset='mrpc'; allowed: none with the embedded profile"),
        ("lstm", {"tied": 1}, "allowed: a true or false"),
        ("lstm", {"samples": -1}, "samples=-1"),
        ("lstm", {"dropout": -0.1}, "dropout=-0.1; allowed: 0 <= dropout < 1"),
    ],
)
def test_a_wrong_option_says_what_is_allowed(name, options, complaint, monkeypatch) -> None:
    monkeypatch.delenv("AIMC_BRIDGE_DATA", raising=False)
    with pytest.raises((UsageError, DataError), match=complaint) as caught:
        tasks.get(name, **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_or_split() -> None:
    with pytest.raises(
        UsageError, match="unknown profile 'big'; one of embedded, real, gpu, paper"
    ):
        tasks.get("wrn", "big")
    task = language()
    with pytest.raises(UsageError, match="unknown split 'train'"):
        task.evaluate(task.build(0), split="train")
    with pytest.raises(UsageError, match="subset=0"):
        task.evaluate(task.build(0), subset=0)


def test_options_are_words_of_key_and_value() -> None:
    options = tasks.parse_options(["size=paper", "tied=true", "samples=0", "dropout=0.1", "x=a=b"])
    assert options == {"size": "paper", "tied": True, "samples": 0, "dropout": 0.1, "x": "a=b"}
    for word in ("size", "=paper"):
        with pytest.raises(UsageError, match="is not KEY=VALUE"):
            tasks.parse_options([word])
    with pytest.raises(UsageError, match="width is given twice: width=650 and width=200; name it"):
        tasks.parse_options(["width=650", "depth=2", "width=200"])


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_parts_of_a_batch_are_all_of_it(all_tasks, name) -> None:
    """Each sample is in one replica's part.

    A stream of words stays with one replica.
    """
    task = all_tasks[name]
    batch = next(task.train_loader(6, 0).passing(0))
    targets = task.targets(batch).view(-1, 6) if name == "lstm" else task.targets(batch)[None]
    for count in (2, 3):
        parts = [task.targets(task.part(batch, index, count)) for index in range(count)]
        for index, part in enumerate(parts):
            assert torch.equal(part.view(-1, 6 // count), targets[:, index::count])
    model = task.build(0, dropout=0.0).eval()
    with torch.no_grad():
        whole = task.loss(model, batch)
        halves = [task.loss(model, task.part(batch, index, 2)) for index in range(2)]
    assert float(sum(halves) / 2) == pytest.approx(float(whole), rel=1e-5)


class Absent:
    """A test split that nobody may look at."""

    def __getattr__(self, name: str) -> None:
        raise AssertionError("the test split was read")

    __len__ = __getitem__ = __iter__ = lambda self, *_: self.gone  # type: ignore[assignment]


@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_nothing_is_chosen_by_the_test_split(name, tmp_path) -> None:
    """Both trainings, validation and calibration run without it.

    The trainings are the digital and the hardware-aware one.
    """
    from benchmarks.studies import trainings
    from benchmarks.studies.base import Study
    from benchmarks.studies.settings import Settings

    task = tasks.get(name)
    settings = Settings(hwa_batches=2, changes=("batch_size=8",))
    study = Study(task, settings, tmp_path)
    study.plan = dataclasses.replace(study.plan, validation_subset=80)
    splits = task.streams if name == "lstm" else task.splits
    splits["test"] = Absent()
    with pytest.raises(AssertionError, match="the test split was read"):
        task.evaluate(task.build(0), 40)
    task.digital_loss(task.build(0), next(task.digital_loader(8, 0).passing(0)))
    digital = task.build(0)
    analog = convert(digital, rasch2023, exclude=task.digital_names(digital))
    calibrate(analog, task.calibration_batches(1, batch_size=8), "percentile")
    recipe = settings.recipe_of(task)
    history = trainings.train(study, digital, analog, recipe, tmp_path / "hwa")
    assert history.validation_loss.notna().sum() == 1
    trainings.finetune(study, digital, recipe, tmp_path / "finetune")
    trainings.train_control(study, digital, analog, recipe, tmp_path / "control")


@pytest.mark.cuda
@pytest.mark.parametrize("name", tasks.names("embedded"))
def test_batches_on_a_gpu_are_those_of_a_cpu(name) -> None:
    on_cpu, on_gpu = tasks.get(name), tasks.get(name)
    on_gpu.place(torch.device("cuda"))
    if name == "wrn":
        assert on_gpu.splits["train"][0].is_cuda
    ours, theirs = (next(task.train_loader(8, 5).passing(1)) for task in (on_cpu, on_gpu))
    for a, b in zip(flat(ours), flat(theirs), strict=True):
        assert torch.allclose(a, b.cpu(), atol=1e-6)
    model = on_cpu.build(0).eval()
    metrics = on_cpu.evaluate(model, 64)
    again = on_gpu.evaluate(model.cuda(), 64)
    assert metrics["error"] == pytest.approx(again["error"], abs=0.05)
