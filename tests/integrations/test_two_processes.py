"""DistributedDataParallel on two processes: the same weights on both, and noise of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from aimc_bridge import convert, hardware_aware
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import TrainingError
from presets import rasch2023
from tests.models import mlp, random
from tests.training.test_replicas import ROOT, free_port
from tests.training.test_training import recipe

LEARNING = {
    "noise_type": "pcm", "noise_scale": 2.0, "clip_type": "fixed", "clip_value": 0.9,
    "remap_every": 2, "learn_input_ranges": True, "learn_out_scales": True,
    "input_range_init_batches": 2,
}  # fmt: skip


def hand_written(rank: int) -> dict[str, Any]:
    """Train in a loop of one's own, with the model wrapped inside the block and outside."""
    model = convert(mlp(), rasch2023).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    noise: list[Tensor] = []
    with hardware_aware(model, recipe(**LEARNING), [optimizer]):
        wrapped = DistributedDataParallel(model)
        for step in range(4):
            wrapped(random(4, 12, seed=2 * step + rank)).square().mean().backward()
            noise.append(matrices_of(model)["0"].effective_weight().clone())
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
            optimizer.zero_grad()
    result = {"own": model.state_dict(), "own noise": noise}
    model = convert(mlp(), rasch2023).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    wrapped = DistributedDataParallel(model)
    with (
        pytest.raises(TrainingError, match="wrap the model inside the `with` block"),
        hardware_aware(model, recipe(**LEARNING), [optimizer]),
    ):
        wrapped(random(4, 12, seed=rank)).square().mean().backward()
        optimizer.step()
    return result


def in_trainer(out: Path) -> dict[str, Any]:
    """Train a small BERT with the Trainer of transformers."""
    from tests.integrations.test_transformers import bert, trainer_of

    model = convert(bert(), rasch2023)
    trainer = trainer_of(model, recipe(**LEARNING), out, samples=16, ddp_backend="gloo")
    noise: list[Tensor] = []
    trainer.seen = lambda m: noise.append(next(iter(matrices_of(m).values())).effective_weight())
    trainer.train()
    return {"trainer": model.state_dict(), "trainer noise": [w.clone() for w in noise]}


def in_lightning(out: Path) -> dict[str, Any]:
    """Train with Lightning."""
    from tests.integrations.test_lightning import DATA, Net, loader, trainer_of

    module = Net(rasch2023, "native")
    noise: list[Tensor] = []
    module.seen = lambda m: noise.append(matrices_of(m)["0"].effective_weight().clone())
    trainer = trainer_of(
        recipe(**LEARNING), out, devices=2, strategy="ddp", use_distributed_sampler=True
    )
    trainer.fit(module, loader(DATA))
    return {"lightning": module.net.state_dict(), "lightning noise": noise}


def replica(out: Path) -> None:
    """Train in all three ways; write what came of it to out/RANK.pt."""
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    findings = in_trainer(out) | in_lightning(out) | hand_written(rank)
    torch.save(findings, out / f"{rank}.pt")
    distributed.barrier()
    distributed.destroy_process_group()
    os._exit(0)  # as in tests.training.test_replicas


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Run two processes on this CPU, over gloo, as torchrun starts them."""
    out = tmp_path_factory.mktemp("two")
    module = "tests.integrations.test_two_processes"
    code = f"import pathlib, {module} as m; m.replica(pathlib.Path({str(out)!r}))"
    place = {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "0",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "ACCELERATE_USE_CPU": "1",
    }  # fmt: skip
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, **place, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    errors = [process.communicate(timeout=300)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    return [torch.load(out / f"{rank}.pt") for rank in "01"]


@pytest.mark.parametrize("way", ["own", "trainer", "lightning"])
def test_two_processes_train_the_same_weights(findings: Any, way: str) -> None:
    """Learned ranges and scales agree too, bit for bit; they have moved."""
    first, second = (found[way] for found in findings)
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    scales = [value for name, value in first.items() if name.endswith("out_scale")]
    assert scales and all(bool((scale != 1).any()) for scale in scales)


@pytest.mark.parametrize("way", ["own", "trainer", "lightning"])
def test_two_processes_have_noise_of_their_own(findings: Any, way: str) -> None:
    first, second = (found[f"{way} noise"] for found in findings)
    assert len(first) == len(second) > 1
    for one, other in zip(first, second, strict=True):
        assert float((one != other).float().mean()) > 0.9
