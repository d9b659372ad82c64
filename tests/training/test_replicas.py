"""Training on several processes."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from aimc_bridge import convert, train
from aimc_bridge.converted import matrices_of
from aimc_bridge.training import noisy_weight
from presets import ideal, rasch2023
from tests.models import DEVICES, assert_close, mlp, random, small_net
from tests.training.test_resume import EVERYTHING, cross_entropy
from tests.training.test_training import STILL, recipe

ROOT = Path(__file__).parents[2]

# --- several processes ---


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


def replica(out: Path) -> None:
    """Run all of the checks that need two processes; write the findings to out/RANK.pt."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    findings: dict[str, Any] = {}

    # Without noise: the whole mini-batch, in two parts.
    analog = convert(mlp(), ideal)
    how = recipe(learning_rate=0.1, momentum=0.9, grad_clip=0.5)
    loss = lambda m, b: m(b).square().mean()  # noqa: E731
    data = [random(8, 12, seed=i) for i in range(4)]
    part = lambda b, index, count: b[index::count]  # noqa: E731
    train(analog, data, loss, recipe=how, split=part, progress=False, cpu=True)
    findings["averaged"] = analog.state_dict()

    # Two mini-batches make a step and one is left over: gradients are averaged in steps alone.
    analog = convert(mlp(), ideal)
    more = {"split": part, "gradient_accumulation_steps": 2}
    train(analog, data[:3], loss, recipe=how, progress=False, cpu=True, **more)
    findings["accumulated"] = analog.state_dict()

    # A training with everything: the weights of the replicas at the end, and the noise that each of
    # them gets.
    analog = convert(small_net(), rasch2023)
    images = [(random(8, 2, 4, 4, seed=i), torch.arange(8) % 3) for i in range(6)]
    how = recipe(**{**EVERYTHING, "distill_weight": 0.0, "epochs": 1, "lr_drop_on_stall": False})
    halves = lambda b, index, count: tuple(x[index::count] for x in b)  # noqa: E731
    train(analog, images, cross_entropy, recipe=how, split=halves, progress=False, cpu=True)
    findings["everything"] = analog.state_dict()

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
    findings["injected"] = torch.stack(seen)

    # A loader without split: replicas take turns, and the first one alone writes files.
    read: list[int] = []

    class Carried:
        def state_dict(self) -> dict[str, Tensor]:
            return {"rank": torch.tensor(rank)}

        def load_state_dict(self, state: dict[str, Tensor]) -> None:
            findings["carried"] = state

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
    findings["read"] = read
    torch.save(findings, out / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # gloo's threads may outlive the group, and C++ then aborts a process that ends as usual.
    os._exit(0)


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Run two processes on this CPU, over gloo."""
    out = tmp_path_factory.mktemp("replicas")
    code = f"from pathlib import Path; from tests.training.test_replicas import replica\n" \
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
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    return out, [torch.load(out / f"{rank}.pt") for rank in "01"]


def test_replicas_average_their_gradients(replicas: Any) -> None:
    """Two halves of each mini-batch are the whole one in one process.

    The clipped norm is the same too.
    """
    analog = convert(mlp(), ideal)
    how = recipe(learning_rate=0.1, momentum=0.9, grad_clip=0.5)
    loss = lambda m, b: m(b).square().mean()  # noqa: E731
    data = [random(8, 12, seed=i) for i in range(4)]
    train(analog, data, loss, recipe=how, progress=False, cpu=True)
    start = convert(mlp(), ideal).state_dict()
    for name, value in analog.state_dict().items():
        for findings in replicas[1]:
            assert_close(findings["averaged"][name], value, name)
    assert float((start["0.weight"] - analog.state_dict()["0.weight"]).abs().max()) > 0.01


def test_replicas_accumulate_their_gradients(replicas: Any) -> None:
    """Two mini-batches and the one left over are those of one process.

    Each is in two halves.
    """
    analog = convert(mlp(), ideal)
    optimizer = torch.optim.SGD(analog.parameters(), lr=0.1, momentum=0.9)
    data = [random(8, 12, seed=i) for i in range(3)]
    for group in (data[:2], data[2:]):
        optimizer.zero_grad()
        for batch in group:
            (analog(batch).square().mean() / 2).backward()
        nn.utils.clip_grad_norm_(analog.parameters(), 0.5)
        optimizer.step()
    for name, value in analog.state_dict().items():
        for findings in replicas[1]:
            assert_close(findings["accumulated"][name], value, name)


def test_replicas_end_with_the_same_weights(replicas: Any) -> None:
    """They agree bit for bit.

    This includes ranges that start from each replica's own data, and statistics.
    """
    first, second = (findings["everything"] for findings in replicas[1])
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    start = convert(small_net(), rasch2023).state_dict()
    moved = {name for name, value in first.items() if not torch.equal(value, start[name])}
    assert {"0.weight", "0.crossbar.input_range", "4.crossbar.out_scale", "1.running_var"} <= moved


def test_the_noise_of_a_replica_is_a_function_of_seed_step_and_replica(replicas: Any) -> None:
    """It is drawn from the stream of that name.

    Replicas and steps share no draws.
    """
    matrix = matrices_of(convert(mlp(), DEVICES))["2"]
    spec = recipe(noise_type="pcm", noise_scale=3.0).spec
    clean = matrix.normalised_weight()
    errors = []
    for rank, findings in enumerate(replicas[1]):
        assert len(findings["injected"]) == 4
        for step, weight in enumerate(findings["injected"]):
            expected = noisy_weight(matrix, spec, 3.0, 5, ("inject", "2", step, rank))
            assert_close(weight, expected, f"replica {rank}, step {step}", 1e-5)
            errors.append((weight - clean).flatten())
    assert len(errors) == 8
    for index, error in enumerate(errors):
        for other in errors[:index]:
            assert float((error - other).abs().max()) > 0.01


def test_replicas_take_turns_and_the_first_writes(replicas: Any) -> None:
    out, findings = replicas
    # Mini-batch 6 has no partner.
    assert [replica["read"] for replica in findings] == [[0, 2, 4], [1, 3, 5]]
    names = {path.name for path in (out / "run").iterdir()} - {"tensorboard"}
    assert names == {"checkpoint.json", "metrics.csv", "step-3.safetensors"}
    tensors = load_file(out / "run" / "step-3.safetensors")
    assert [int(tensors[f"carried.{rank}.rank"]) for rank in (0, 1)] == [0, 1]
    # Each gets its own again.
    assert [int(replica["carried"]["rank"]) for replica in findings] == [0, 1]
    with (out / "run" / "metrics.csv").open() as file:
        last = list(csv.DictReader(file))[-1]
    assert float(last["validation_loss"]) == 0.0  # The first replica's value counts.
