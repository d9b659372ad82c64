"""Runs of training: cut short and gone on with, on several processes, validated, watched."""

from __future__ import annotations

import copy
import csv
import importlib.machinery
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from aimc_bridge import HWATraining, calibrate, convert, drift, program, restore, train
from aimc_bridge.errors import CapabilityError, CheckpointError, TrainingError, UsageError
from aimc_bridge.registry import matrices_of
from aimc_bridge.training import learning_rate_factor, noisy_weight, progress, train_digital
from aimc_bridge.training.checkpoint import optimizer_state
from presets import ideal, rasch2023
from tests.models import DEVICES, QUIET, RANGED, assert_close, linear, mlp, only, random
from tests.test_training import PLAIN, STILL, recipe, small_net

ROOT = Path(__file__).parent.parent
# everything a recipe can do, in a few steps
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
    """Convolution, batch normalisation, dropout: all that a training can remember or draw."""
    net = small_net()
    return nn.Sequential(*net[:4], nn.Dropout(0.2), net[4])


def cross_entropy(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


class Interrupted(Exception):
    """What stops a training in a test."""


def work(folder: Path | None, stop: int | None = None, kill: bool = False, **options: Any) -> Any:
    """A training with everything; in mini-batch `stop` it fails, or its process is killed.

    Returns: (state dict, history).
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
    """Weights and history by the `keep` of a run that wrote nothing and never stopped."""
    return {keep: work(None, keep=keep) for keep in ("last", "best")}


def assert_same_run(found: Any, expected: Any) -> None:
    for name, value in expected[0].items():
        assert torch.equal(found[0][name], value), name
    assert found[1].equals(expected[1])


# --- cut short, and gone on with ---


def test_a_killed_process_is_gone_on_with_bit_for_bit(uninterrupted: Any, tmp_path: Path) -> None:
    """SIGKILL in the middle of an epoch; nothing is flushed or closed."""
    code = f"from pathlib import Path; from tests.test_training_runs import work\n" \
        f"work(Path({str(tmp_path)!r}), 10, True)"  # fmt: skip
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    facts = json.loads((tmp_path / "checkpoint.json").read_text())
    assert (facts["step"], facts["state"]["epoch"], facts["state"]["position"]) == (9, 1, 3)
    with (tmp_path / "metrics.csv").open() as file:
        assert [int(row["step"]) for row in csv.DictReader(file)] == list(range(10))
    found = work(tmp_path, resume=True)
    assert_same_run(found, uninterrupted["last"])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(18))
    assert [float(row["loss"]) for row in rows] == found[1].loss.tolist()
    assert [bool(row["validation_loss"]) for row in rows] == [
        (i + 1) % 5 == 0 or i == 17 for i in range(18)
    ]


@pytest.mark.parametrize("keep", ["last", "best"])
@pytest.mark.parametrize("stops", [(0,), (6,), (4, 9), (17, 0)])
def test_an_interrupted_run_ends_as_if_it_had_not_been(
    uninterrupted: Any, tmp_path: Path, stops: tuple[int, ...], keep: str
) -> None:
    """In the first and the last mini-batch, at an epoch's end, and more than once."""
    for index, stop in enumerate(stops):
        torch.manual_seed(index)  # what ran before must not matter
        with pytest.raises(Interrupted):
            work(tmp_path, stop, keep=keep, resume=index > 0)
    assert_same_run(work(tmp_path, keep=keep, resume=True), uninterrupted[keep])
    assert_same_run(work(tmp_path, keep=keep, resume=True), uninterrupted[keep])  # all done
    kept = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    best = json.loads((tmp_path / "checkpoint.json").read_text())["best_step"]
    assert kept == ([f"best-{best}.safetensors"] if keep == "best" else []) + [
        "step-18.safetensors"
    ]


@pytest.mark.parametrize("kind", ["list", "passing"])
@pytest.mark.parametrize("optimizer", ["SGD", "Adagrad"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_resume_on_both_engines(
    engine: str, tmp_path: Path, kind: str, optimizer: str, accumulate: int
) -> None:
    """Other loaders, optimizers and accumulation; on aihwkit's tiles too."""
    data = [random(4, 12, seed=i) for i in range(6)]

    class Loader:
        """Counts what is read."""

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
    found = go(tmp_path, resume=True)
    assert_same_run(found, expected)
    if kind == "passing":  # mini-batch 8 or 9 of all is the third or fourth of epoch 1
        assert found[2][0] == (1, 3 if accumulate == 1 else 2)


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    """Another recipe or seed, no word of resume, damaged files: each says what to do."""
    with pytest.raises(Interrupted):
        work(tmp_path, 7)
    with pytest.raises(UsageError, match="holds a training; resume=True goes on with it"):
        work(tmp_path)
    with pytest.raises(UsageError, match=r"another training \(recipe .*; repeat its arguments"):
        work(tmp_path, resume=True, fields={"noise_scale": 1.0})
    with pytest.raises(UsageError, match="keep 'last', now 'best'"):
        work(tmp_path, resume=True, keep="best")
    whole = tmp_path / "step-6.safetensors"
    for file in (whole, tmp_path / "checkpoint.json", tmp_path / "metrics.csv"):
        before = file.read_bytes()
        file.write_bytes(before[: len(before) // 2])
        with pytest.raises(CheckpointError, match=f"{file.name}.*(damaged|lacks)"):
            work(tmp_path, resume=True)
        file.write_bytes(before)
    other = convert(mlp(), rasch2023)
    facts = json.loads((tmp_path / "checkpoint.json").read_text())
    shutil.rmtree(tmp_path / "tensorboard", ignore_errors=True)
    assert facts["file"] == whole.name
    from aimc_bridge.training.checkpoint import load_model, read_tensors

    with pytest.raises(CheckpointError, match="of another model"):
        load_model(other, read_tensors(whole))


def test_a_state_that_no_file_can_hold_is_named() -> None:
    layer = nn.Linear(2, 2)
    optimizer = torch.optim.LBFGS(layer.parameters())
    optimizer.state[layer.weight]["old_dirs"] = [torch.zeros(2)]
    with pytest.raises(CheckpointError, match="LBFGS keeps 'old_dirs' as a list"):
        optimizer_state(optimizer)


# --- several processes ---


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def replica(out: Path) -> None:
    """What each of two processes does; its findings go to out/RANK.pt."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    found: dict[str, Any] = {}

    # no noise: the whole mini-batch, in two parts
    analog = convert(mlp(), ideal)
    how = recipe(learning_rate=0.1, momentum=0.9, grad_clip=0.5)
    loss = lambda m, b: m(b).square().mean()  # noqa: E731
    data = [random(8, 12, seed=i) for i in range(4)]
    part = lambda b, index, count: b[index::count]  # noqa: E731
    train(analog, data, loss, recipe=how, split=part, progress=False, cpu=True)
    found["averaged"] = analog.state_dict()

    # everything: what the replicas end with, and what each of them is injected
    analog = convert(small_net(), rasch2023)
    images = [(random(8, 2, 4, 4, seed=i), torch.arange(8) % 3) for i in range(6)]
    how = recipe(**{**EVERYTHING, "distill_weight": 0.0, "epochs": 1, "lr_drop_on_stall": False})
    halves = lambda b, index, count: tuple(x[index::count] for x in b)  # noqa: E731
    train(analog, images, cross_entropy, recipe=how, split=halves, progress=False, cpu=True)
    found["everything"] = analog.state_dict()

    analog = convert(mlp(), DEVICES)
    matrix = matrices_of(analog)["2"]
    seen: list[Tensor] = []

    def watched(m: nn.Module, batch: Tensor) -> Tensor:
        value = loss(m, batch)
        seen.append(
            matrix.effective_weight().clone() / matrix.grid.expand_columns(matrix.column_scale())
        )
        return value

    how = recipe(noise_type="pcm", noise_scale=3.0, learning_rate=STILL)
    train(analog, data, watched, recipe=how, split=part, seed=5, progress=False, cpu=True)
    found["injected"] = torch.stack(seen)

    # a loader without split: replicas take turns; files are the first one's alone
    read: list[int] = []

    class Carried:
        def state_dict(self) -> dict[str, Tensor]:
            return {"rank": torch.tensor(rank)}

        def load_state_dict(self, state: dict[str, Tensor]) -> None:
            found["carried"] = state

    def counted(m: nn.Module, batch: Tensor) -> Tensor:
        read.append(int(batch[0, 0]))
        return loss(m, batch)

    turns = [torch.full((2, 12), float(i)) for i in range(7)]
    options: dict[str, Any] = {"folder": out / "run", "carried": Carried(), "checkpoint_every": 1}
    validate = lambda m: float(rank)  # noqa: E731
    for resume in (False, True):
        train(
            convert(mlp(), ideal), turns, counted, recipe=recipe(), validate=validate,
            resume=resume, progress=False, cpu=True, **options,
        )  # fmt: skip
    found["read"] = read
    torch.save(found, out / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # gloo's threads may outlive the group, and C++ then aborts a process that ends as usual
    os._exit(0)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Two processes on this CPU, over gloo."""
    out = tmp_path_factory.mktemp("replicas")
    code = f"from pathlib import Path; from tests.test_training_runs import replica\n" \
        f"replica(Path({str(out)!r}))"  # fmt: skip
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    said = [one.communicate(timeout=300)[1] for one in running]
    assert [one.returncode for one in running] == [0, 0], "\n".join(said)
    return out, [torch.load(out / f"{rank}.pt") for rank in "01"]


def test_replicas_average_their_gradients(replicas: Any) -> None:
    """Two halves of each mini-batch are the whole one in one process, clipped norm included."""
    analog = convert(mlp(), ideal)
    how = recipe(learning_rate=0.1, momentum=0.9, grad_clip=0.5)
    loss = lambda m, b: m(b).square().mean()  # noqa: E731
    data = [random(8, 12, seed=i) for i in range(4)]
    train(analog, data, loss, recipe=how, progress=False, cpu=True)
    start = convert(mlp(), ideal).state_dict()
    for name, value in analog.state_dict().items():
        for found in replicas[1]:
            assert_close(found["averaged"][name], value, name)
    assert float((start["0.weight"] - analog.state_dict()["0.weight"]).abs().max()) > 0.01


def test_replicas_end_with_the_same_weights(replicas: Any) -> None:
    """Bit for bit, ranges that start from each replica's own data and statistics included."""
    one, other = (found["everything"] for found in replicas[1])
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    start = convert(small_net(), rasch2023).state_dict()
    moved = {name for name, value in one.items() if not torch.equal(value, start[name])}
    assert {"0.weight", "0.crossbar.input_range", "4.crossbar.out_scale", "1.running_var"} <= moved


def test_the_noise_of_a_replica_is_a_function_of_seed_step_and_replica(replicas: Any) -> None:
    """The very draws of the stream named by them; replicas and steps share none."""
    matrix = matrices_of(convert(mlp(), DEVICES))["2"]
    spec = recipe(noise_type="pcm", noise_scale=3.0).spec
    clean = matrix.normalised_weight()
    errors = []
    for rank, found in enumerate(replicas[1]):
        assert len(found["injected"]) == 4
        for step, weight in enumerate(found["injected"]):
            wanted = noisy_weight(matrix, spec, 3.0, 5, ("inject", "2", step, rank))
            assert_close(weight, wanted, f"replica {rank}, step {step}", 1e-5)
            errors.append((weight - clean).flatten())
    assert len(errors) == 8
    for index, one in enumerate(errors):
        for other in errors[:index]:
            assert float((one - other).abs().max()) > 0.01


def test_replicas_take_turns_and_the_first_writes(replicas: Any) -> None:
    out, found = replicas
    assert [one["read"] for one in found] == [[0, 2, 4], [1, 3, 5]]  # 6 has no partner
    names = {path.name for path in (out / "run").iterdir()} - {"tensorboard"}
    assert names == {"checkpoint.json", "metrics.csv", "step-3.safetensors"}
    tensors = load_file(out / "run" / "step-3.safetensors")
    assert [int(tensors[f"carried.{rank}.rank"]) for rank in (0, 1)] == [0, 1]
    assert [int(one["carried"]["rank"]) for one in found] == [0, 1]  # each its own again
    with (out / "run" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["validation_loss"]) == 0.0  # the first replica's word


# --- the optimizer's pace ---


def test_schedules_end_at_zero() -> None:
    """Linear and cosine after the warm-up, by hand; stalls and drops multiply."""
    base = {"warmup_batches": 2, "warmup_factor": 0.5}
    linear = recipe(**base, lr_schedule="linear").spec
    cosine = recipe(**base, lr_schedule="cosine").spec
    for step, wanted in {0: 0.5, 1: 0.5, 2: 1.0, 6: 0.5, 9: 0.125}.items():
        assert learning_rate_factor(linear, step, 0, 10) == pytest.approx(wanted)
    for step in range(2, 10):
        wanted = (1 + math.cos(math.pi * (step - 2) / 8)) / 2
        assert learning_rate_factor(cosine, step, 0, 10) == pytest.approx(wanted)
    stalling = recipe(lr_drop_on_stall=True, lr_drop_factor=0.9, lr_drop_epochs=(2,)).spec
    assert learning_rate_factor(stalling, 5, 2, 10, stalls=3) == pytest.approx(0.9**4)
    assert learning_rate_factor(recipe().spec, 5, 2, 10, stalls=3) == 1.0


def test_a_schedule_needs_an_end() -> None:
    """A training that cannot begin leaves the model as it was."""
    analog = convert(mlp(), ideal).eval()
    batches = (random(2, 12) for _ in range(3))
    with pytest.raises(UsageError, match="lr_schedule='cosine' ends with the run.*max_batches="):
        quick(analog, batches, recipe(lr_schedule="cosine"), compile="eager")
    assert not any(module.training for module in analog.modules())
    assert not any("forward" in module.__dict__ for module in analog.modules())
    history = quick(convert(mlp(), ideal), batches, recipe(lr_schedule="linear"), max_batches=2)
    assert list(history.learning_rate / recipe().spec.learning_rate) == [1.0, 0.5]


def quick(model: nn.Module, loader: Any, how: HWATraining, **options: Any) -> Any:
    """`train` with a mean square as loss, on the CPU."""
    loss = options.pop("loss", lambda m, b: m(b).square().mean())
    return train(model, loader, loss, recipe=how, progress=False, cpu=True, **options)


@pytest.mark.parametrize("validated", [True, False])
def test_the_rate_drops_when_validation_stalls(validated: bool) -> None:
    """Once for each value no better than the best before; without validation, for each epoch."""
    values = iter([3.0, 2.0, 2.0, 2.5, 1.0, 1.0])
    stalls = [0, 0, 0, 1, 2, 2]  # before each epoch
    how = recipe(lr_drop_on_stall=True, lr_drop_factor=0.5, learning_rate=1e-12, epochs=6)
    if validated:
        options: dict[str, Any] = {"validate": lambda m: next(values)}
    else:
        losses = iter([3.0, 2.0, 2.0, 2.5, 1.0, 1.0])
        options = {"loss": lambda m, b: m(b).sum() * 0 + next(losses)}
    history = quick(convert(mlp(), ideal), [random(2, 12)], how, **options)
    assert list(history.learning_rate) == pytest.approx([1e-12 * 0.5**n for n in stalls])


def test_the_recipes_optimizer() -> None:
    """AdamW as torch's own, decay on weight matrices alone."""
    model = mlp()
    analog = convert(model, ideal)
    how = recipe(optimizer="adamw", learning_rate=0.01, weight_decay=0.1)
    data = [random(4, 12, seed=i) for i in range(5)]
    quick(analog, data, how)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    for batch in data:
        optimizer.zero_grad()
        model(batch).square().mean().backward()
        optimizer.step()
    for name, parameter in model.named_parameters():
        assert_close(dict(analog.named_parameters())[name], parameter, name)


# --- validation, and what is kept ---


def test_validation_sees_a_clean_model_in_eval_mode_and_changes_no_training() -> None:
    """Nothing injected, no dropout, float32 under autocast; the run is the one without it."""
    how = recipe(noise_type="pcm", noise_scale=3.0, learning_rate=0.01, learn_input_ranges=True)
    data = [random(4, 12, seed=i) for i in range(4)]
    states, seen = [], []

    def validate(m: nn.Module) -> float:
        matrix = matrices_of(m)["0"]
        assert not any(module.training for module in m.modules())
        assert_close(matrix.effective_weight(), matrix.clean_weight(), "clean", 1e-6)
        torch.rand(7)
        output = m(random(3, 12))
        seen.append(output.dtype)
        return float(output.square().mean())

    for check in (None, validate):
        analog = convert(mlp(), QUIET)
        calibrate(analog, data)
        options = {"validate": check, "validate_every": 2, "mixed_precision": "bf16"}
        history = quick(analog, data, how, **(options if check else {"mixed_precision": "bf16"}))
        states.append(analog.state_dict())
    assert seen == [torch.float32] * 2
    assert history.validation_loss.notna().tolist() == [False, True, False, True]
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize("keep", ["last", "best"])
def test_which_weights_are_kept(keep: str) -> None:
    """The best is the first of the lowest."""
    seen: list[Tensor] = []
    values = iter([3.0, 1.0, 2.0, 1.0])

    def validate(m: nn.Module) -> float:
        seen.append(only(m).clean_weight())
        return next(values)

    analog = convert(nn.Linear(12, 5), ideal)
    data = [random(2, 12, seed=i) for i in range(4)]
    quick(analog, data, recipe(learning_rate=0.1), validate=validate, validate_every=1, keep=keep)
    assert len({float(w.sum()) for w in seen}) == 4
    assert torch.equal(only(analog).clean_weight(), seen[1 if keep == "best" else 3])


def test_options_that_cannot_be(tmp_path: Path) -> None:
    analog = convert(mlp(), ideal)
    bad: dict[str, dict[str, Any]] = {
        'keep=\'first\'; allowed: "last" or "best"': {"keep": "first"},
        'keep="best" needs validate=': {"keep": "best"},
        "resume=True needs folder=": {"resume": True},
        "max_batches=0; allowed: 1 or more": {"max_batches": 0},
        "checkpoint_every=0; allowed: 1 or more": {"checkpoint_every": 0},
        'validate returned accuracy; allowed: .*"loss" in it': {
            "validate": lambda m: {"accuracy": 1.0}
        },
    }
    for match, options in bad.items():
        with pytest.raises(UsageError, match=match):
            quick(analog, [random(2, 12)], recipe(), **options)
    with pytest.raises(TrainingError, match="validation's loss is nan after 1 mini-batches"):
        quick(analog, [random(2, 12)], recipe(), validate=lambda m: math.nan)


# --- watched ---


def test_an_epoch_at_chance_stops_with_advice() -> None:
    """A guess costs ln K; 50 mini-batches at least tell it from a bad start."""
    guess = math.log(5)

    def loss_of(value: float) -> Any:
        return lambda m, b: m(b).sum() * 0 + value

    data = [random(2, 12)] * 60
    how = recipe(learning_rate=1e-9)
    with pytest.raises(TrainingError, match="epoch 0 is 1.6094 in the mean of 60.*lower the"):
        quick(convert(mlp(), ideal), data, how, loss=loss_of(guess), chance_loss=guess)
    quick(convert(mlp(), ideal), data, how, loss=loss_of(0.98 * guess), chance_loss=guess)
    quick(convert(mlp(), ideal), data[:49], how, loss=loss_of(guess), chance_loss=guess)
    # a distilling student is judged by its own loss
    teacher = mlp()
    with pytest.raises(TrainingError, match="no|forgotten"):
        quick(
            convert(mlp(), ideal), data, recipe(learning_rate=1e-9, distill_weight=0.9),
            loss=loss_of(guess), chance_loss=guess, teacher=teacher,
        )  # fmt: skip


def test_tensorboard_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []
    asked: dict[str, Any] = {}

    class Writer:
        def __init__(self, log_dir: str, purge_step: int) -> None:
            asked.update(log_dir=log_dir, purge_step=purge_step)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            asked["closed"] = True

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    package = types.ModuleType("tensorboard")
    package.__spec__ = importlib.machinery.ModuleSpec("tensorboard", None)
    monkeypatch.setitem(sys.modules, "tensorboard", package)
    monkeypatch.setitem(sys.modules, module.__name__, module)
    analog = convert(mlp(), ideal)
    history = quick(analog, [random(2, 12)] * 2, recipe(), folder=tmp_path, validate=lambda m: 1)
    assert asked == {"log_dir": str(tmp_path / "tensorboard"), "purge_step": 0, "closed": True}
    assert ("loss", history.loss[1], 1) in written
    assert ("validation_loss", 1.0, 1) in written


def test_the_bar_says_loss_metric_noise_rate_and_time_left(capsys: Any) -> None:
    report = progress.Report(10, [], None, True)
    with report:
        row = {"step": 0, "epoch": 0, "loss": 2.5, "noise_scale": 1.5, "learning_rate": 1e-3}
        report.add({k: float(v) for k, v in row.items()}, {"loss": 0.7, "accuracy": 0.8})
    shown = report.bar.tasks[0].fields["now"]
    assert shown == ("epoch 0 loss 2.5000 noise 1.50 lr 1.00e-03 validation: loss 0.7 accuracy 0.8")
    names = [type(column).__name__ for column in report.bar.columns]
    assert "TimeRemainingColumn" in names and (report.bar.tasks[0].total == 10)


# --- ranges after a calibration ---


@pytest.mark.parametrize("start", ["calibrated", "data"])
def test_ranges_after_a_calibration(engine: str, start: str) -> None:
    """ "calibrated" keeps what was set; "data" starts anew from the first mini-batches."""
    preset = QUIET if engine == "native" else RANGED
    analog = convert(nn.Linear(60, 50), preset, engine=engine)
    calibrate(analog, [random(20, 60)])
    before = only(analog).input_ranges()
    data = [random(20, 60, seed=i) * (2 + i) for i in range(4)]
    how = recipe(
        learn_input_ranges=True, input_range_init_batches=3, learning_rate=STILL,
        input_range_start=start,
    )  # fmt: skip
    quick(analog, data, how)
    after = only(analog).input_ranges()
    assert before is not None and after is not None
    from_data = sum(float(x.std(correction=0)) * 3.0 for x in data[:3]) / 3
    wanted = float(before[0, 0]) if start == "calibrated" else from_data
    assert float(after[0, 0]) == pytest.approx(wanted, rel=1e-3)
    assert abs(from_data / float(before[0, 0]) - 1) > 0.5


# --- the control ---


def test_the_control_is_plain_training_of_the_digital_model() -> None:
    """By hand, with a noisy recipe: its noise, clip and remap are not for the digital model."""
    model, twin = dropping_net(), dropping_net()
    fields = {**EVERYTHING, "optimizer": "sgd", "lr_schedule": "linear", "lr_drop_on_stall": False}
    data = [(random(8, 2, 4, 4, seed=i), torch.arange(8) % 3) for i in range(4)]
    teacher = small_net().eval()
    model[4].p = twin[4].p = 0.0
    history = train_digital(
        model, data, cross_entropy, recipe=recipe(**fields), teacher=teacher, max_batches=9,
        progress=False, cpu=True,
    )  # fmt: skip
    assert list(history.noise_scale) == [0.0] * 9
    groups = [
        {"params": [p for p in twin.parameters() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in twin.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.SGD(groups, lr=0.01, momentum=recipe().spec.momentum)
    for step in range(9):
        rate = 0.1 if step < 3 else (9 - step) / 6
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * rate
        x, y = data[step % 4]
        scores = twin(x)
        with torch.no_grad():
            target = (teacher(x) / 2.0).softmax(1)
        follow = (target * (target.log() - (scores / 2.0).log_softmax(1))).sum(1).mean()
        value = 0.7 * functional.cross_entropy(scores, y) + 0.3 * 4.0 * follow
        assert float(history.loss[step]) == pytest.approx(float(value.detach()), rel=1e-4)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 1.0)
        optimizer.step()
    for (name, mine), theirs in zip(
        model.state_dict().items(), twin.state_dict().values(), strict=True
    ):
        assert_close(mine, theirs, name, 1e-4)


def test_the_control_sees_the_same_data_in_the_same_order() -> None:
    orders: list[list[float]] = []
    for kind in ("train", "digital"):
        seen: list[float] = []

        def loss(m: nn.Module, batch: list[Tensor], seen: list[float] = seen) -> Tensor:
            seen.append(float(batch[0].sum()))
            return m(batch[0]).square().mean()

        data = torch.utils.data.TensorDataset(random(12, 12))
        loader = DataLoader(data, batch_size=3, shuffle=True)
        how = recipe(noise_type="pcm", noise_scale=1.0, learning_rate=STILL, epochs=2)
        if kind == "train":
            train(convert(mlp(), rasch2023.change(input_range="none", dac_bits=None, why="test")),
                  loader, loss, recipe=how, progress=False, cpu=True)  # fmt: skip
        else:
            train_digital(mlp(), loader, loss, recipe=how, progress=False, cpu=True)
        orders.append(seen)
    assert orders[0] == orders[1]
    assert sorted(orders[0][:4]) != pytest.approx(sorted(orders[0][4:]))  # shuffled anew


# --- compiled ---


@pytest.mark.filterwarnings("ignore")  # torch's own, while it compiles
def test_a_compiled_training_is_the_same() -> None:
    """By the backend that needs no C++ compiler; inductor takes half a minute to start."""
    states = []
    how = recipe(
        noise_type="pcm", noise_scale=2.0, learn_input_ranges=True, input_range_init_batches=1,
        learning_rate=0.01, distill_weight=0.5,
    )  # fmt: skip
    for compiled in (False, "aot_eager"):
        analog = convert(nn.Sequential(linear(12, 5), nn.Tanh()), rasch2023)
        data = [random(4, 12, seed=i) for i in range(3)]
        kinds = set()

        def loss(m: nn.Module, batch: Tensor, kinds: set[str] = kinds) -> Tensor:
            kinds.add(type(m).__name__)
            return m(batch).square().mean()

        teacher = linear(12, 5, seed=3)
        quick(analog, data, how, compile=compiled, teacher=teacher, loss=loss)
        assert kinds == {"OptimizedModule" if compiled else "Sequential"}
        assert all("forward" not in module.__dict__ for module in analog.modules())
        states.append(analog.state_dict())
    for name, value in states[0].items():
        assert_close(states[1][name], value, name, 1e-5)


def test_aihwkits_tiles_are_not_compiled() -> None:
    analog = convert(mlp(), ideal, engine="aihwkit")
    with pytest.raises(CapabilityError, match='compile=True.*engine="native"'):
        quick(analog, [random(2, 12)], recipe(), compile=True)


def test_a_copy_of_a_model_under_training_options_is_plain() -> None:
    """After a training the model can be copied and pickled: nothing of the run hangs on it."""
    analog = convert(mlp(), QUIET)
    quick(analog, [random(4, 12)] * 2, recipe(learn_input_ranges=True), validate=lambda m: 1.0)
    again = copy.deepcopy(analog)
    assert torch.equal(again(random(2, 12)), analog(random(2, 12)))
    assert PLAIN["noise_type"] == "none"
