"""The files of the training of a digital model: its log, its checkpoints and the finished model."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import write_text
from aimc_bridge.sealed_files import (
    damaged,
    misfits,
    read_facts,
    read_sealed,
    write_facts,
    write_tensors,
)
from aimc_bridge.training.checkpoint import restore_optimizer
from benchmarks.studies.claims import DIRECTORY, TRAINING, changes, same_options
from benchmarks.studies.inputs import data_mark, same
from benchmarks.tasks import Task, device_of


def write_checkpoint(
    out: Path,
    task: Task,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    facts: dict[str, Any],
) -> None:
    """Write everything that a resumed training needs, and delete older checkpoints.

    checkpoint.json is replaced only after the tensors are on disk, so that it always names a whole
    file.

    Args:
        out: The folder of the training.
        task: The task; what it carries from batch to batch is stored too.
        model: The model.
        optimizer: Its optimizer; only the tensors of its state are stored.
        facts: What checkpoint.json says; "step" names the file.
    """
    tensors = {f"model.{name}": value for name, value in named_state(model).items()}
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
    tensors |= {f"carried.{name}": value for name, value in task.carried(model).items()}
    path = out / f"step-{facts['step']}.safetensors"
    seal = write_tensors(path, tensors)
    write_facts(out / "checkpoint.json", {**facts, "file": path.name, "tensors": seal})
    for old in out.glob("step-*.safetensors"):
        if old.name != path.name:
            old.unlink()


def named_state(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name, each shared tensor once.

    Args:
        model: The model.
    """
    state = model.state_dict()
    names = [name for name, _ in model.named_parameters()]
    names += [name for name, _ in model.named_buffers() if name in state]
    return {name: state[name] for name in names}


def read_checkpoint(out: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read the last checkpoint of a training.

    Args:
        out: The folder of the training.

    Returns:
        The facts in checkpoint.json, and the tensors by name.

    Raises:
        CheckpointError: If a file is missing or damaged.
    """
    pointer = out / "checkpoint.json"
    try:
        facts = read_facts(pointer)
        file = read_sealed(out / facts["file"])
        if facts.get("tensors", file.seal) != file.seal:
            raise CheckpointError(f"{out / facts['file']} is of another step")
        int(facts["step"]), float(facts["wall_s"])
        return facts, file.tensors
    except (ValueError, KeyError, TypeError, OSError) as error:  # a CheckpointError is a ValueError
        raise damaged(pointer, error, "remove the folder to start over") from None


def put_back(
    task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]
) -> None:
    """Put the weights, optimizer state and carried state of a checkpoint into a new model.

    Args:
        task: The task.
        model: The model, changed in place.
        optimizer: Its optimizer, changed in place.
        tensors: The tensors of the checkpoint, from `read_checkpoint`.

    Raises:
        CheckpointError: If a tensor is missing, unknown or has another shape or type. Nothing is
            changed then.
    """
    parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "carried": {}}
    for key, stored in tensors.items():
        kind, _, rest = key.partition(".")
        parts.setdefault(kind, {})[rest] = stored
    expected = named_state(model)
    if wrong := misfits(expected, parts["model"], exact=True):
        raise CheckpointError(
            f"the checkpoint is of another model, or damaged: {wrong[0]}; remove the folder to "
            "start over"
        )
    restore_optimizer(optimizer, parts["optimizer"], {})
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(parts["model"][name])
    task.carry(model, parts["carried"])


def check_same(out: Path, expected: dict[str, Any], recorded: dict[str, Any]) -> None:
    """Check that the training in a folder is the one that is asked for.

    Args:
        out: The folder.
        expected: The facts of the training that is asked for.
        recorded: The facts of the training in the folder.

    Raises:
        UsageError: If they differ.
    """
    before, now = (facts.get("inputs") or {} for facts in (recorded, expected))
    folders = (Path(facts.get(DIRECTORY) or Path.cwd()) for facts in (before, now))
    names = {name for name in expected if recorded.get(name) != expected[name]}
    names -= {"inputs", "options"}
    if not same_options(recorded.get("options") or {}, expected.get("options") or {}, *folders):
        names.add("options")
    if names:
        raise UsageError(
            f"{out} holds a run with another recipe, seed, precision or option of the task "
            f"({changes(sorted(names), recorded, expected)}); name another folder"
        )
    if TRAINING in before and not same(before[TRAINING], now[TRAINING]):
        raise UsageError(
            f"{out} holds a training on another {TRAINING} than the one there is now; put the "
            "former one back, or name another folder"
        )


def held_out_marks(task: Task, place: torch.device) -> dict[str, Any]:
    """Return the fingerprints of the data that a finished model is measured on, by name.

    Args:
        task: The task.
        place: Where the task has its data afterwards.
    """
    return {
        f"set of {split} data": data_mark(task, split, None, place)
        for split in ("validation", "test")
    }


def check_held_out(out: Path, task: Task, recorded: dict[str, Any], place: torch.device) -> None:
    """Check that a finished training was measured on the data that there are now.

    Args:
        out: The folder.
        task: The task.
        recorded: Its info.json; that of older versions has no fingerprints.
        place: Where the task has its data afterwards.

    Raises:
        UsageError: If the data are others.
    """
    before = recorded.get("inputs") or {}
    for name, now in held_out_marks(task, place).items():
        if name in before and not same(before[name], now):
            raise UsageError(
                f"the metrics in {out} are of another {name} than the one there is now; put the "
                "former one back, or name another folder"
            )


def keep_rows(log: Path, step: int) -> None:
    """Drop the rows of a log after a step; a resumed training writes them again.

    Args:
        log: The CSV file; nothing happens if it does not exist.
        step: The last step to keep; 0 empties the file.
    """
    if not log.exists():
        return
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    # the last line of a process that was killed, or of a full disk, may be cut
    whole = [line for line in lines if line.endswith("\n") and line.count(",") == 3]
    numbers = [line.partition(",")[0] for line in whole]
    rows = [
        line
        for line, number in zip(whole, numbers, strict=True)
        if not number.isdecimal() or int(number) <= step
    ]
    write_text(log, "".join(rows) if step else "")


def finish(
    out: Path,
    task: Task,
    model: nn.Module,
    facts: dict[str, Any],
    metrics: dict[str, dict[str, float]],
) -> None:
    """Write the trained weights and info.json, and delete the checkpoints.

    Args:
        out: The folder of the training.
        task: The task.
        model: The trained model.
        facts: Seed, recipe, precision, options, inputs, "total" steps, "steps_per_epoch" and
            "wall_s".
        metrics: Split -> metrics of the trained model.
    """
    info = {
        "task": task.name,
        "model": task.model_name,
        "dataset": task.dataset,
        "seed": facts["seed"],
        "steps": facts["total"],
        "epochs": round(facts["total"] / facts["steps_per_epoch"], 3),
        "batch_size": facts["recipe"]["batch_size"],
        "wall_s": round(facts["wall_s"], 1),
        "digital": metrics,
        "precision": facts["precision"],
        "options": facts["options"],
        "recipe": facts["recipe"],
        "inputs": facts.get("inputs", {}),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "accelerate")},
        },
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device_of(model).type == "cuda" else "cpu",
    }
    write_text(out / "info.json", json.dumps(info, indent=1) + "\n")
    plain = task.skeleton()  # on a GPU the weights of an LSTM are views of one tensor
    plain.load_state_dict(model.state_dict())
    write_tensors(out / "model.safetensors", named_state(plain))
    (out / "checkpoint.json").unlink(missing_ok=True)
    for old in out.glob("step-*.safetensors"):
        old.unlink()
