"""Digital training: a resumed run is the run that was never interrupted, bit for bit."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import math

import pytest
import torch
from torch import Tensor

from aimc_bridge.commands import Output
from aimc_bridge.errors import CheckpointError, TrainingError, UsageError
from benchmarks import digital, digital_files, tasks
from benchmarks.tasks import DigitalRecipe
from benchmarks.tasks.lstm import LanguageTask

QUIET = Output(quiet=True)
ADAMW = DigitalRecipe(epochs=2, batch_size=8, learning_rate=1e-2, weight_decay=0.1, grad_clip=1.0)
SGD = DigitalRecipe(
    epochs=0.5, batch_size=32, learning_rate=0.1, optimizer="sgd", weight_decay=1e-4
)


def language() -> LanguageTask:
    """Return a toy language; its training carries a state between batches and draws dropout."""
    generator = torch.Generator().manual_seed(0)
    words = {
        split: [f"w{int(i)}" for i in torch.randint(0, 9, (n,), generator=generator)]
        for split, n in (("train", 2000), ("validation", 200), ("test", 200))
    }
    return LanguageTask(words, "toy", "tiny", ADAMW, tied=True, dropout=0.2, samples=4, n_exact=5)


def small(name: str) -> tuple[tasks.Task, DigitalRecipe]:
    if name == "lstm":
        return language(), ADAMW
    return tasks.get("wrn"), SGD  # Batch normalisation has buffers, which are state too.


def states(model: torch.nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", ["lstm", "wrn"])
def test_a_resumed_run_gives_the_same_weights(name, tmp_path) -> None:
    """A run is stopped twice and then finished.

    It stops in the middle of an epoch and between its own checkpoints.
    """
    task, recipe = small(name)
    whole = digital.fit(task, tmp_path / "whole", recipe=recipe, device="cpu", output=QUIET)
    out = tmp_path / "stopped"
    for stop in (3, 9):
        torch.manual_seed(stop)  # What ran before must not matter.
        digital.fit(
            small(name)[0],
            out,
            recipe=recipe,
            device="cpu",
            resume=stop > 3,
            stop_after=stop,
            checkpoint_every=2,
            output=QUIET,
        )
        assert json.loads((out / "checkpoint.json").read_text())["step"] == stop
        assert len(list(out.glob("step-*.safetensors"))) == 1
        assert not (out / "model.safetensors").exists()
    again = digital.fit(small(name)[0], out, recipe=recipe, device="cpu", resume=True, output=QUIET)
    expected = states(whole)
    for key, value in states(again).items():
        assert torch.equal(value, expected[key]), key
    read = states(task.load(out))
    assert all(torch.equal(value, read[key]) for key, value in expected.items())
    assert not list(out.glob("step-*")) and not (out / "checkpoint.json").exists()
    info = json.loads((out / "info.json").read_text())
    other = json.loads((tmp_path / "whole" / "info.json").read_text())
    assert info["digital"] == other["digital"]
    with (out / "log.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert steps == sorted(set(steps))  # No row comes twice.


@pytest.mark.parametrize("name", ["lstm", "wrn"])
def test_bfloat16_trains_like_float32(name, tmp_path) -> None:
    """Forward passes run under autocast.

    Weights, optimizer and evaluation stay float32.
    """
    task, recipe = small(name)
    recipe = dataclasses.replace(recipe, epochs=recipe.epochs / 2)
    losses = {}
    for precision in digital.PRECISIONS:
        out = tmp_path / precision
        model = digital.fit(
            task, out, recipe=recipe, device="cpu", precision=precision, output=QUIET
        )
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        info = tasks.read_info(out)
        assert info["precision"] == precision
        assert info["digital"]["test"] == task.evaluate(model)
        losses[precision] = info["digital"]["validation"]["loss"]
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)


def test_a_precision_is_kept_and_an_unknown_one_refused(tmp_path) -> None:
    task, recipe = small("lstm")
    options = {"recipe": recipe, "device": "cpu", "output": QUIET}
    with pytest.raises(UsageError, match="unknown precision 'fp16'; one of fp32, bf16"):
        digital.fit(task, tmp_path / "a", precision="fp16", **options)
    digital.fit(task, tmp_path / "b", precision="bf16", stop_after=2, **options)
    with pytest.raises(UsageError, match="another recipe, seed, precision or option"):
        digital.fit(task, tmp_path / "b", resume=True, **options)
    pointer = tmp_path / "b" / "checkpoint.json"
    facts = json.loads(pointer.read_text())
    for name in ("precision", "sha256", "tensors"):
        del facts[name]  # A checkpoint from before there was a choice is a float32 one.
    pointer.write_text(json.dumps(facts))
    refused = pytest.raises(UsageError, match="another recipe, seed, precision or option")
    with refused, pytest.warns(UserWarning, match="checkpoint.json: no checksum"):
        digital.fit(task, tmp_path / "b", precision="bf16", resume=True, **options)
    with pytest.warns(UserWarning, match="checkpoint.json: no checksum"):
        digital.fit(task, tmp_path / "b", resume=True, **options)


def test_the_options_of_the_task_are_kept_and_belong_to_the_run(tmp_path) -> None:
    """Another augmentation trains another model.

    It cannot resume the run.
    """
    plain, recipe = small("wrn")
    how = {"recipe": recipe, "device": "cpu", "output": QUIET}
    cut = tasks.get("wrn", cutout=2, depth=None)
    digital.fit(cut, tmp_path, stop_after=2, **how)
    with pytest.raises(UsageError, match="another recipe, seed, precision or option"):
        digital.fit(plain, tmp_path, resume=True, **how)
    pointer = tmp_path / "checkpoint.json"
    facts = json.loads(pointer.read_text())
    assert facts.pop("options") == {"cutout": 2}
    del facts["sha256"], facts["tensors"]
    # A checkpoint from before options were noted can be resumed.
    pointer.write_text(json.dumps(facts))
    with pytest.warns(UserWarning, match="checkpoint.json: no checksum"):
        digital.fit(cut, tmp_path, resume=True, **how)
    assert tasks.read_info(tmp_path)["options"] == {"cutout": 2}


def test_another_seed_is_another_model(tmp_path) -> None:
    task, recipe = small("lstm")
    first, second = (
        states(
            digital.fit(
                task, tmp_path / str(seed), recipe=recipe, seed=seed, device="cpu", output=QUIET
            )
        )
        for seed in (0, 1)
    )
    assert not torch.equal(first["decoder.weight"], second["decoder.weight"])


def test_training_learns(tmp_path) -> None:
    """The language is eight words in a fixed circle: the model predicts each next one."""
    train = [f"w{i % 8}" for i in range(4000)]
    words = {"train": train, "validation": train[:400], "test": train[:400]}
    recipe = dataclasses.replace(ADAMW, epochs=6)
    task = LanguageTask(words, "circle", "tiny", recipe, tied=False, dropout=0.0)
    model = digital.fit(task, tmp_path / "run", device="cpu", output=QUIET)
    assert task.evaluate(model)["error"] < 0.05
    assert not model.training


def test_info_says_what_was_done(tmp_path) -> None:
    task, recipe = small("lstm")
    model = digital.fit(task, tmp_path / "run", recipe=recipe, seed=4, device="cpu", output=QUIET)
    info = tasks.read_info(tmp_path / "run")
    steps = round(recipe.epochs * len(task.digital_loader(recipe.batch_size, 4)))
    assert (info["task"], info["model"], info["dataset"]) == ("lstm", task.model_name, "toy")
    assert (info["steps"], info["seed"], info["epochs"]) == (steps, 4, 2.0)
    assert info["recipe"] == dataclasses.asdict(recipe)
    for split in ("validation", "test"):
        assert info["digital"][split] == task.evaluate(model, split=split)
    assert torch.__version__.startswith(info["versions"]["torch"])
    assert isinstance(info["wall_s"], float) and info["device"] == "cpu"


def test_weights_that_are_views_of_one_memory_are_kept(tmp_path) -> None:
    """cuDNN lays out an LSTM's weights like this on a GPU."""
    task, recipe = small("lstm")
    model = task.build(3)
    weights = list(model.lstm.parameters())
    memory = torch.cat([weight.detach().flatten() for weight in weights])
    parts = memory.split([weight.numel() for weight in weights])
    for weight, part in zip(weights, parts, strict=True):
        weight.data = part.view(weight.shape)
    facts = {"seed": 3, "total": 1, "steps_per_epoch": 1, "wall_s": 0.0}
    facts |= {"precision": "fp32", "options": {}}
    facts["recipe"] = dataclasses.asdict(recipe)
    digital_files.finish(tmp_path, task, model, facts, {})
    loaded = task.load(tmp_path).state_dict()
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("recipe", "step", "expected"),
    [
        # The warm-up is 10 of 100 steps: linear to the full rate, then a half cosine to nothing.
        (DigitalRecipe(1, 1, 0.2, warmup=0.1), 0, 0.02),
        (DigitalRecipe(1, 1, 0.2, warmup=0.1), 9, 0.2),
        (DigitalRecipe(1, 1, 0.2, warmup=0.1), 10, 0.2),
        (DigitalRecipe(1, 1, 0.2, warmup=0.1), 55, 0.1),
        (DigitalRecipe(1, 1, 0.2, warmup=0.1), 99, 0.1 * (1 - math.cos(math.pi / 90))),
        (DigitalRecipe(1, 1, 0.2, schedule="linear", warmup=0.0), 0, 0.2),
        (DigitalRecipe(1, 1, 0.2, schedule="linear", warmup=0.0), 75, 0.05),
    ],
)
def test_learning_rates(recipe, step, expected) -> None:
    assert digital.learning_rate(recipe, step, 100) == pytest.approx(expected)


def test_biases_and_normalisations_do_not_decay() -> None:
    task, recipe = small("wrn")
    model = task.build(0)
    decaying, others = digital.optimizer_for(model, recipe).param_groups
    assert (decaying["weight_decay"], others["weight_decay"]) == (1e-4, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decaying["params"]} == {
        name for name, p in model.named_parameters() if p.ndim > 1
    }
    assert len(decaying["params"]) + len(others["params"]) == len(names)
    with pytest.raises(UsageError, match="unknown optimizer 'lion'; one of sgd, adamw"):
        digital.optimizer_for(model, dataclasses.replace(recipe, optimizer="lion"))  # type: ignore[arg-type]


def test_a_diverging_training_says_so_and_leaves_no_model(tmp_path) -> None:
    task, recipe = small("lstm")
    wild = dataclasses.replace(recipe, learning_rate=1e30, grad_clip=None)
    with pytest.raises(TrainingError, match="diverged: loss .* at step .*lower --learning-rate"):
        digital.fit(task, tmp_path / "run", recipe=wild, device="cpu", output=QUIET)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def stopped(out) -> tuple[tasks.Task, DigitalRecipe]:
    task, recipe = small("lstm")
    digital.fit(task, out, recipe=recipe, device="cpu", stop_after=2, output=QUIET)
    return task, recipe


def test_folders_of_other_runs_are_refused(tmp_path) -> None:
    out = tmp_path / "run"
    task, recipe = stopped(out)
    with pytest.raises(UsageError, match="holds an unfinished run; --resume"):
        digital.fit(task, out, recipe=recipe, device="cpu", output=QUIET)
    with pytest.raises(UsageError, match="another recipe, seed, precision or option"):
        digital.fit(task, out, recipe=recipe, seed=1, resume=True, device="cpu", output=QUIET)
    digital.fit(task, out, recipe=recipe, resume=True, device="cpu", output=QUIET)
    with pytest.raises(UsageError, match="holds a finished run"):
        digital.fit(task, out, recipe=recipe, device="cpu", output=QUIET)
    again = functools.partial(digital.fit, task, out, resume=True, device="cpu", output=QUIET)
    again(recipe=recipe)
    slower = dataclasses.replace(recipe, learning_rate=recipe.learning_rate / 2)
    for other in ({"seed": 1}, {"precision": "bf16"}, {"recipe": slower}):
        with pytest.raises(UsageError, match="another recipe, seed, precision or option"):
            again(**{"recipe": recipe, **other})
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        digital.fit(task, file / "run", recipe=recipe, device="cpu", output=QUIET)


@pytest.mark.parametrize("what", ["pointer", "tensors", "gone"])
def test_a_damaged_checkpoint_is_named(tmp_path, what) -> None:
    out = tmp_path / "run"
    task, recipe = stopped(out)
    file = out / "checkpoint.json" if what == "pointer" else next(out.glob("step-*"))
    if what == "gone":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(CheckpointError, match="remove the folder to start over") as raised:
        digital.fit(task, out, recipe=recipe, resume=True, device="cpu", output=QUIET)
    assert str(raised.value).startswith(f"{file}")
    assert str(raised.value).count(str(file)) == 1


def test_an_empty_loader_leaves_nothing_behind(tmp_path) -> None:
    task, recipe = small("lstm")
    huge = dataclasses.replace(recipe, batch_size=100_000)
    with pytest.raises(ValueError, match="smaller than one batch"):
        digital.fit(task, tmp_path / "run", recipe=huge, device="cpu", output=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["gpt"], "unknown task 'gpt'"),
        (["wrn", "--profile", "big"], '"big" for --profile. Choose from: "embedded", "real"'),
        (["wrn", "-o", "width"], "option 'width' is not KEY=VALUE"),
        (["wrn", "--device", "tpu"], '"tpu" for --device. Choose from: "cpu", "cuda"'),
        (["lstm", "--profile", "real", "--data-dir", "/nowhere"], "no data folder /nowhere"),
        (["wrn", "--batch-size", "99999"], "smaller than one batch"),
        (["wrn", "--batch-size", "0"], "--batch-size 0; allowed: 1 or more"),
        (["wrn", "--learning-rate", "0"], "--learning-rate 0; allowed: a number above 0"),
        (["wrn", "--epochs", "inf"], "epochs inf; allowed: a finite number"),
        (["wrn", "--epochs", "-1"], "epochs -1.0; allowed: a finite number"),
        (["wrn", "bert"], "bert"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, complaint) -> None:
    out = tmp_path / "run"
    assert digital.main([*arguments, "--out", str(out)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert complaint in lines[0]
    assert not out.exists()


def test_a_training_needs_a_folder(capsys) -> None:
    assert digital.main(["wrn"]) == 2
    error = capsys.readouterr().err
    assert "--out" in error and "see python -m benchmarks.digital --help" in error


def test_several_processes_are_refused(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert digital.main(["wrn", "--out", str(tmp_path / "run")]) == 2
    assert "benchmarks.digital runs in one process" in capsys.readouterr().err


def test_the_command_trains_and_a_divergence_is_exit_code_1(tmp_path, capsys) -> None:
    short = ["wrn", "--epochs", "0.1", "--device", "cpu", "--seed", "2"]
    assert digital.main([*short, "--json", "--out", str(tmp_path / "a")]) == 0
    info = tasks.read_info(tmp_path / "a")
    assert info["steps"] == 4
    assert json.loads(capsys.readouterr().out) == info
    wild = [*short, "--learning-rate", "1e30", "--out", str(tmp_path / "b")]
    assert digital.main(wild) == 1
    assert "diverged" in capsys.readouterr().err


def test_a_dry_run_counts_the_steps_and_writes_nothing(tmp_path, capsys) -> None:
    words = ["wrn", "--epochs", "0.1", "--out", str(tmp_path / "run"), "--dry-run"]
    assert digital.main(words) == 0
    assert "WRN-10-1 on digits (8 x 8): 4 steps" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
