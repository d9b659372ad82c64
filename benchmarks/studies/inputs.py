"""inputs.json: which models and data the results in a study's folder were made from.

An option says where a model or data are, and not what they are. So their fingerprints are noted
with the first results, and compared each time a run goes on.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.errors import DataError, UsageError
from aimc_bridge.sealed_files import add_tensor, read_facts, write_facts
from benchmarks.studies.claims import CALIBRATION, TRAINING
from benchmarks.studies.folder import INPUTS
from benchmarks.tasks import Split, Task

DIGITAL = "digital model"
_CLOSE = 1e-4  # relative; processors round the last digits of images in different ways
SUMS = "sums"  # the entry of a fingerprint with numbers of the size of 1
_COUNT = 4  # of them
_CHUNK = 1 << 16  # numbers that are added up at once
_LARGEST = 1e6  # masks of minus infinity, and of the lowest float32, count as this
CPU = torch.device("cpu")
_MOST = 1 << 26  # numbers of training data that are compared: 21,000 images of CIFAR, a few seconds
_FEWEST = 2  # mini-batches that are compared, however large


class Inputs:
    """The inputs of the results in a folder.

    Attributes:
        folder: The folder of a study; it need not exist.
        writes: Whether this process writes the notes.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        """Prepare the notes; nothing is read or written yet.

        Args:
            folder: The folder of a study.
            writes: Whether this process writes the notes.
        """
        self.folder, self.writes = folder, writes

    @property
    def known(self) -> dict[str, Any]:
        """The inputs that are noted, by name; none in folders of older versions.

        Raises:
            CheckpointError: If the file is damaged.
        """
        path = self.folder / INPUTS
        return read_facts(path) if path.exists() else {}

    def check(self, name: str, now: Any) -> None:
        """Check that an input is the one that is noted, if one is.

        Args:
            name: What it is, such as "digital model".
            now: Its fingerprint.

        Raises:
            UsageError: If it is another one.
        """
        before = self.known.get(name)
        if before is not None and not same(before, now):
            raise UsageError(changed(self.folder, name))

    def note(self, name: str, now: Any, *, replace: bool = False) -> None:
        """Check an input, and note it if it is new.

        Args:
            name: What it is.
            now: Its fingerprint.
            replace: Whether it takes the place of another one, because there are no results of
                that.

        Raises:
            UsageError: If another one is noted.
        """
        if not replace:
            self.check(name, now)
        known = self.known
        if self.writes and (name not in known or (replace and known[name] != now)):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_facts(self.folder / INPUTS, {**known, name: now})

    def check_data(self, task: Task, place: torch.device = CPU) -> None:
        """Check that a task has the data that are noted.

        Args:
            task: The task.
            place: Where the task has its data.

        Raises:
            UsageError: If they are others.
        """
        for name, before in self.known.items():
            if isinstance(before, dict) and "split" in before:
                self.check(name, data_mark(task, before["split"], before["subset"], place))
            elif name == TRAINING:
                self.check(name, training_mark(task, before["batch_size"], before["seed"]))
            elif name == CALIBRATION:
                batches = task.calibration_batches(before["batches"])
                self.check(name, calibration_mark(batches))


def model_of(phase: str) -> str:
    """Return what the trained model of a phase is called.

    Args:
        phase: "finetune", "control" or "hwa".
    """
    return f"trained model ({phase})"


def changed(folder: Path, name: str) -> str:
    """Return the text of the error about an input that is not the one of the results.

    Args:
        folder: The folder of the results.
        name: What the input is.
    """
    return (
        f"the results in {folder} are of another {name} than the one there is now; "
        "put the former one back, or name another --out"
    )


def same(before: Any, now: Any) -> bool:
    """Return whether two fingerprints are of one thing.

    Of tables, what only one of them has is not compared. Numbers may differ by rounding.

    Args:
        before: A fingerprint, as plain data.
        now: Another one.
    """
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        return all(
            _close(before[key], now[key]) if key == SUMS else same(before[key], now[key])
            for key in before.keys() & now.keys()
        )
    if isinstance(before, float) and isinstance(now, float):
        return math.isclose(before, now, rel_tol=_CLOSE)
    return bool(before == now)


def _close(before: list[float], now: list[float]) -> bool:
    """Return whether numbers of the size of 1 differ by rounding alone."""
    pairs = zip(before, now, strict=False)
    return len(before) == len(now) and all(abs(a - b) <= _CLOSE for a, b in pairs)


def join(paths: Sequence[Path]) -> None:
    """Check that the notes of all shards of a run are of the same inputs.

    Args:
        paths: The files of the shards; those of older versions need not exist.

    Raises:
        DataError: If they differ.
    """
    notes = {path: read_facts(path) for path in paths if path.exists()}
    for path, facts in notes.items():
        first, others = next(iter(notes.items()))
        differs = sorted(n for n in facts if n in others and not same(others[n], facts[n]))
        if differs:
            raise DataError(f"{first} and {path} differ: another {', '.join(differs)}")


def fingerprint(model: nn.Module | Mapping[str, Tensor], *, halved: bool = False) -> str:
    """Return the SHA-256 of a model's parameters and buffers, with their names.

    Args:
        model: The model, or its state.
        halved: Whether numbers are rounded to half precision, as kept models are, so that both
            have one fingerprint.
    """
    state = model.state_dict() if isinstance(model, nn.Module) else model
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if halved and value.is_floating_point():
            value = value.half()
        digest.update(json.dumps(name).encode())
        add_tensor(digest, value)
    return digest.hexdigest()


def data_mark(
    task: Task, split: Split, subset: int | None, place: torch.device = CPU
) -> dict[str, Any]:
    """Return the fingerprint of held-out data, which is the same on every device.

    Args:
        task: The task. Its batches can be others on other devices: they are made on the CPU.
        split: "test" or "validation".
        subset: The number of samples (words); None means all.
        place: Where the task has its data, before and afterwards.
    """
    task.place(CPU)
    try:
        batches = ((batch, task.targets(batch)) for batch in task.batches(split, subset))
        return {"split": split, "subset": subset, **_mark(batches)}
    finally:
        task.place(place)


def training_mark(task: Task, batch_size: int, seed: int, *, most: int = _MOST) -> dict[str, Any]:
    """Return the fingerprint of training data: of their first mini-batches, and their number.

    Args:
        task: The task.
        batch_size: Samples of a mini-batch.
        seed: The seed of the order of the data.
        most: The number of numbers after which no more mini-batches are read. It is the same
            wherever fingerprints are compared.
    """
    loader = task.train_loader(batch_size, seed)
    batches = iter(loader)
    first = list(itertools.islice(batches, _FEWEST))
    numbers = sum(tensor.numel() for tensor in _tensors(first))
    return {
        "batch_size": batch_size,
        "seed": seed,
        "mini-batches": len(loader),
        **_mark(first),  # older versions noted this part alone
        "further": _mark(_up_to(batches, most - numbers)),
    }


def _up_to(batches: Iterable[Any], numbers: int) -> Iterator[Any]:
    """Yield batches until they have a number of numbers."""
    if numbers <= 0:
        return
    for batch in batches:
        yield batch
        numbers -= sum(tensor.numel() for tensor in _tensors(batch))
        if numbers <= 0:
            return


def calibration_mark(batches: Sequence[Any]) -> dict[str, Any]:
    """Return the fingerprint of the data that set input ranges.

    Args:
        batches: The batches, as `Task.calibration_batches` returns them.
    """
    return {"batches": len(batches), **_mark(batches)}


def _mark(batches: Iterable[Any]) -> dict[str, Any]:
    """Return the fingerprint of all tensors in some batches.

    It has the SHA-256 of all whole numbers. Other numbers are results of arithmetic, which
    processors round in different ways. Of them it has the mean square, and sums with random signs
    over their root sum of squares. Another order gives other sums, and so do other numbers, unless
    they are very few of very many.
    """
    digest = hashlib.sha256()
    generator = torch.Generator().manual_seed(0)

    def signs(*shape: int) -> Tensor:
        return 2.0 * torch.randint(0, 2, shape, generator=generator, dtype=torch.int8).double() - 1

    within = signs(_CHUNK, _COUNT)
    squares, count, sums = 0.0, 0, torch.zeros(_COUNT, dtype=torch.float64)
    for tensor in (tensor for batch in batches for tensor in _tensors(batch)):
        if tensor.is_floating_point():
            values = tensor.detach().to("cpu", torch.float32).flatten()
            for chunk in values.split(_CHUNK):
                finite = chunk.double().nan_to_num(0.0).clamp(-_LARGEST, _LARGEST)
                squares += float(finite.square().sum())
                sums += (finite @ within[: len(finite)]) * signs(_COUNT)
            count += values.numel()
        else:
            digest.update(tensor.detach().to("cpu", torch.int64).contiguous().numpy().data)
    return {
        "whole": digest.hexdigest(),
        "mean_square": squares / max(count, 1),
        SUMS: (sums / max(squares, 1e-30) ** 0.5).tolist(),
    }


def _tensors(batch: Any) -> Iterator[Tensor]:
    """Yield all tensors of a batch."""
    if isinstance(batch, Tensor):
        yield batch
    elif isinstance(batch, Mapping):
        for value in batch.values():
            yield from _tensors(value)
    elif isinstance(batch, (list, tuple)):
        for value in batch:
            yield from _tensors(value)
