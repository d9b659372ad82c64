"""Trainings that were cut short: they go on, bit for bit."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from aimc_bridge import convert, drift, program, restore, train
from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.sealed_files import (
    misfits,
    read_facts,
    read_tensors,
    write_facts,
    write_tensors,
)
from aimc_bridge.training.checkpoint import Folder, load_model, optimizer_state
from presets import rasch2023
from tests.models import RANGED, mlp, random, small_net
from tests.test_sealed_files import CHANGES, changed, flips, header
from tests.training.test_training import recipe

ROOT = Path(__file__).parents[2]
# This is everything a recipe can do, in a few steps.
EVERYTHING: dict[str, Any] = {
    "noise_type": "pcm",
    "noise_scale": 2.0,
    "ramp_batches": 9,
    "drop_connect": 0.05,
    "clip_type": "layer_gaussian",
    "clip_value": 2.5,
    "remap_every": 4,
    "learn_input_ranges": True,
    "input_range_init_batches": 10,
    "learn_out_scales": True,
    "optimizer": "adamw",
    "learning_rate": 0.01,
    "weight_decay": 0.01,
    "grad_clip": 1.0,
    "warmup_batches": 3,
    "warmup_factor": 0.1,
    "lr_schedule": "cosine",
    "lr_drop_on_stall": True,
    "lr_drop_factor": 0.5,
    "distill_weight": 0.3,
    "distill_temperature": 2.0,
    "epochs": 3,
}


class Jittered(Dataset[tuple[Tensor, Tensor]]):
    """Images with an augmentation that draws from torch's default generator."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return random(2, 4, 4, seed=index) + 0.1 * torch.randn(2, 4, 4), torch.tensor(index % 3)


def dropping_net() -> nn.Sequential:
    """Return a network with all that a training can remember or draw.

    It has a convolution, batch normalisation and dropout.
    """
    net = small_net()
    return nn.Sequential(*net[:4], nn.Dropout(0.2), net[4])


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


class Interrupted(Exception):
    """The exception that stops a training in a test."""


def work(folder: Path | None, stop: int | None = None, kill: bool = False, **options: Any) -> Any:
    """Run a training with everything.

    Args:
        folder: The folder for checkpoints; None writes nothing.
        stop: The mini-batch in which the training fails, if any.
        kill: Kill the process in that mini-batch instead.
        **options: Options of `train`, and `fields` of the recipe.

    Returns:
        The state dict and the history.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = dropping_net()
    analog = convert(model, rasch2023)
    calls = 0

    def loss(m: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        nonlocal calls
        calls += 1
        if calls - 1 == stop:
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise Interrupted
        return cross_entropy(m, batch)

    def validate(m: nn.Module) -> dict[str, float]:
        program(m, 77)
        drift(m, 3600.0)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            score = cross_entropy(m, (random(9, 2, 4, 4), torch.arange(9) % 3))
        restore(m)
        return {"loss": float(score), "twice": 2 * float(score)}

    loader = DataLoader(Jittered(), batch_size=4, shuffle=True, generator=torch.Generator())
    try:
        history = train(
            analog,
            loader,
            loss,
            recipe=recipe(**{**EVERYTHING, **options.pop("fields", {})}),
            teacher=model,
            validate=validate,
            validate_every=5,
            folder=folder,
            checkpoint_every=3,
            seed=3,
            progress=False,
            cpu=True,
            **options,
        )
    finally:
        torch.set_num_threads(threads)
    return {k: v.clone() for k, v in analog.state_dict().items()}, history


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, Any]:
    """Return weights and history, by `keep`, of a run that wrote nothing and never stopped."""
    return {keep: work(None, keep=keep) for keep in ("last", "best")}


def assert_same_run(resumed: Any, expected: Any) -> None:
    for name, value in expected[0].items():
        assert torch.equal(resumed[0][name], value), name
    assert resumed[1].equals(expected[1])


# --- cut short, and gone on with ---


def test_a_killed_process_is_gone_on_with_bit_for_bit(uninterrupted: Any, tmp_path: Path) -> None:
    """SIGKILL comes in the middle of an epoch.

    Nothing is flushed or closed.
    """
    code = f"from pathlib import Path; from tests.training.test_resume import work\n" \
        f"work(Path({str(tmp_path)!r}), 10, True)"  # fmt: skip
    process = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert process.returncode == -signal.SIGKILL
    facts = json.loads((tmp_path / "checkpoint.json").read_text())
    assert (facts["step"], facts["state"]["epoch"], facts["state"]["position"]) == (9, 1, 3)
    with (tmp_path / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(10))
    resumed = work(tmp_path, resume=True)
    assert_same_run(resumed, uninterrupted["last"])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(18))
    assert [float(row["loss"]) for row in rows] == resumed[1].loss.tolist()
    assert [bool(row["validation_loss"]) for row in rows] == [
        (i + 1) % 5 == 0 or i == 17 for i in range(18)
    ]


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("stops", [(0,), (6,), (4, 9), (17, 0)])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    uninterrupted: Any, tmp_path: Path, stops: tuple[int, ...], keep: str
) -> None:
    """Runs stop at several places, and more than once.

    The places are the first and the last mini-batch, and the end of an epoch.
    """
    for index, stop in enumerate(stops):
        torch.manual_seed(index)  # What ran before must not matter.
        with pytest.raises(Interrupted):
            work(tmp_path, stop, keep=keep, resume=index > 0)
    assert_same_run(work(tmp_path, keep=keep, resume=True), uninterrupted[keep])
    assert_same_run(work(tmp_path, keep=keep, resume=True), uninterrupted[keep])  # All is done.
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    best = json.loads((tmp_path / "checkpoint.json").read_text())["best_step"]
    assert files == ([f"best-{best}.safetensors"] if keep == "best" else []) + [
        "step-18.safetensors"
    ]


@pytest.mark.parametrize("kind", ["list", "passing"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_on_both_engines(
    engine: str, tmp_path: Path, kind: str, optimizer: str, accumulate: int
) -> None:
    """Other loaders, optimizers and accumulation work, on aihwkit's tiles too."""
    data = [random(4, 12, seed=i) for i in range(6)]

    class Loader:
        """A loader that notes what is read."""

        def __init__(self) -> None:
            self.read: list[tuple[int, int]] = []

        def passing(self, epoch: int, start: int = 0) -> Any:
            for position in range(start, 6):
                self.read.append((epoch, position))
                yield data[(position + epoch) % 6]

        def __iter__(self) -> Any:
            raise AssertionError("passing is there")

        def __len__(self) -> int:
            return 6

    def go(folder: Path | None, stop: int | None = None, resume: bool = False) -> Any:
        analog = convert(mlp(), RANGED, engine=engine)
        calls = []

        def loss(m: nn.Module, batch: Tensor) -> Tensor:
            calls.append(1)
            if len(calls) - 1 == stop:
                raise Interrupted
            return m(batch).square().mean()

        how = recipe(
            noise_type="gaussian", noise_scale=1.0, learn_input_ranges=True, epochs=2,
            input_range_init_batches=9, clip_type="fixed", clip_value=0.9, remap_every=3,
        )  # fmt: skip
        loader: Any = Loader() if kind == "passing" else data
        built = getattr(torch.optim, optimizer)(analog.parameters(), lr=0.01)
        history = train(
            analog, loader, loss, recipe=how, optimizer=built, folder=folder, resume=resume,
            checkpoint_every=1, progress=False, cpu=True, gradient_accumulation_steps=accumulate,
        )  # fmt: skip
        read = loader.read if kind == "passing" else None
        return {k: v.clone() for k, v in analog.state_dict().items()}, history, read

    expected = go(None)
    with pytest.raises(Interrupted):
        go(tmp_path, 9)
    resumed = go(tmp_path, resume=True)
    assert_same_run(resumed, expected)
    if kind == "passing":  # Mini-batch 8 or 9 of all is the third or fourth of epoch 1.
        assert resumed[2][0] == (1, 3 if accumulate == 1 else 2)


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    """Each error says what to do.

    The cases are another recipe or seed, no resume=True, and damaged files.
    """
    with pytest.raises(Interrupted):
        work(tmp_path, 7)
    with pytest.raises(UsageError, match="holds a training; resume=True goes on with it"):
        work(tmp_path)
    with pytest.raises(UsageError, match=r"another training \(recipe .*; repeat its arguments"):
        work(tmp_path, resume=True, fields={"noise_scale": 1.0})
    with pytest.raises(UsageError, match="keep 'last', now 'best'"):
        work(tmp_path, resume=True, keep="best")
    whole = tmp_path / "step-6.safetensors"
    saved = whole.read_bytes()
    for file in (whole, tmp_path / "checkpoint.json", tmp_path / "metrics.csv"):
        before = file.read_bytes()
        file.write_bytes(before[: len(before) // 2])
        match = f"{file.name}.*(damaged|lacks).* start over"
        with pytest.raises(CheckpointError, match=match):
            work(tmp_path, resume=True)
        file.write_bytes(before)
    whole.unlink()
    with pytest.raises(CheckpointError, match="no such file; remove the folder to start over"):
        work(tmp_path, resume=True)
    whole.write_bytes(saved)
    other = convert(mlp(), rasch2023)
    facts = json.loads((tmp_path / "checkpoint.json").read_text())
    shutil.rmtree(tmp_path / "tensorboard", ignore_errors=True)
    assert facts["file"] == whole.name
    with pytest.raises(CheckpointError, match="of another model"):
        load_model(other, read_tensors(whole))


def test_a_state_that_no_file_can_hold_is_named() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.LBFGS(layer.parameters())
    optimizer.state[layer.weight]["old_dirs"] = [torch.zeros(2)]
    with pytest.raises(CheckpointError, match="LBFGS keeps 'old_dirs' as a list"):
        optimizer_state(optimizer)


def test_what_a_killed_process_left_half_written_goes(tmp_path: Path) -> None:
    """The next checkpoint removes it; the files of others stay."""
    folder = Folder(tmp_path, {}, resume=False, writer=True)
    names = (".step-1.99.partial.safetensors", ".best-1.99.partial.safetensors", "notes.txt")
    for name in names:
        (tmp_path / name).write_bytes(b"half")
    folder.write(2, {}, {"model.a": torch.ones(2)})
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["checkpoint.json", "notes.txt", "step-2.safetensors"]


@pytest.mark.parametrize("change", CHANGES)
def test_a_damaged_checkpoint_leaves_the_model_as_it_is(change: str, tmp_path: Path) -> None:
    """With the checksum of before, and with one that fits: then the model refuses the tensors."""
    with pytest.raises(Interrupted):
        work(tmp_path, 7)
    whole, pointer = tmp_path / "step-6.safetensors", tmp_path / "checkpoint.json"
    tensors = changed(whole, change)
    if change == "key deleted":
        del tensors[next(name for name in tensors if name.startswith("model."))]
    save_file(tensors, whole, metadata=header(whole))
    with pytest.raises(CheckpointError, match="do not fit its checksum.*start over"):
        work(tmp_path, resume=True)
    write_tensors(whole, tensors)
    with pytest.raises(CheckpointError, match="is not the file of checkpoint.json"):
        work(tmp_path, resume=True)
    facts = read_facts(pointer)
    analog = convert(mlp(), rasch2023)
    before = {name: value.clone() for name, value in analog.state_dict().items()}
    model = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    if misfits(before, model, exact=True):
        with pytest.raises(CheckpointError, match="another model, or damaged"):
            load_model(analog, model)
    else:
        assert change == "key added"  # it is no tensor of the model
    assert all(torch.equal(analog.state_dict()[k], v) for k, v in before.items())
    for wrong in (
        {"file": 3},
        {"step": "x"},
        {"run": 3},
        {"state": {"step": "x"}},
        {"optimizer": 3},
    ):
        write_facts(pointer, {**facts, **wrong, "tensors": None})
        with pytest.raises(CheckpointError, match="start over|another model, or damaged"):
            work(tmp_path, resume=True)


def test_no_flipped_bit_of_a_checkpoint_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        work(tmp_path, 7)
    whole = tmp_path / "step-6.safetensors"
    folder = Folder(tmp_path, read_facts(tmp_path / "checkpoint.json")["run"], True, True)
    data = whole.read_bytes()
    assert folder.read() is not None
    for damaged in flips(data, 200):
        whole.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="start over"):
            folder.read()
