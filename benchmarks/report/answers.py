"""Files of right and wrong answers, per chip, time and test sample.

A file holds one bit per sample, in the order in which the task evaluates its samples. The order is
the same for the digital model and for all chips, so they are compared sample by sample.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from aimc_bridge.converted import ProgrammedChip, is_converted, record_of
from aimc_bridge.errors import DataError
from aimc_bridge.sealed_files import damaged, read_facts, read_tensors, write_tensors
from aimc_bridge.sweep_files import read_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Bits = NDArray[np.bool_]

_SUFFIX = "-answers.safetensors"
_ROUNDING = 1e-9
_IN_A_SHARD = "and go on with that shard (--resume)"

Key = tuple[int, float]
"""The seed of a chip, and seconds after programming. Digital models have the time NaN."""


class Kept(NamedTuple):
    """The answers behind the rows of one phase of a training.

    Attributes:
        digital: The file of the digital model.
        chips: The file of the chips.
        seeds: The seeds of the chips of the rows; the file may hold more.
    """

    digital: Path
    chips: Path
    seeds: tuple[int, ...]


Files = Mapping[tuple[str, str, str], Kept | None]
"""(phase, engine, data) -> the files of one training; None if they are not those of its rows."""


def path_of(results: Path) -> Path:
    """Return where the answers behind a file of results are kept.

    Args:
        results: The CSV file of a sweep, or the JSON file of a digital model.
    """
    return results.with_name(f"{results.stem}{_SUFFIX}")


class Answers:
    """The answers of a digital model or of the chips of a sweep, in one file.

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        """Prepare the answers; nothing is read or written yet.

        Args:
            path: The file. Answers that it holds are kept, unless the same chip at the same time is
                measured again.
        """
        self.path = path

    def add(self, chip: ProgrammedChip | None, right: Tensor) -> None:
        """Add the answers of one evaluation, and write the file.

        Args:
            chip: The chip that the model holds; None for a digital model.
            right: Whether each sample was right, bool, shape (n,).

        Raises:
            CheckpointError: If the file is damaged.
        """
        known = read(self.path) if self.path.exists() else {}
        known = {key: bits for key, bits in known.items() if len(bits) == len(right)}
        key = (0, math.nan) if chip is None else (chip.seed, float(chip.t_inference or 0.0))
        rows = {_text(k): (k, bits) for k, bits in known.items()}
        rows[_text(key)] = (key, right.cpu().numpy().astype(bool))
        _write(self.path, list(rows.values()), len(right))


def _write(path: Path, rows: list[tuple[Key, Bits]], samples: int) -> None:
    """Write a file of answers."""
    import numpy as np

    write_tensors(
        path,
        {
            "seed": torch.tensor([key[0] for key, _ in rows]),
            "t_inference": torch.tensor([key[1] for key, _ in rows], dtype=torch.float64),
            "samples": torch.tensor([samples]),
            "bits": torch.from_numpy(np.packbits([bits for _, bits in rows], axis=1)),
        },
    )


def _text(key: Key) -> str:
    return f"{key[0]} {key[1]!r}"  # NaN is not equal to itself


def read(path: Path, again: str = "to measure them again") -> dict[Key, Bits]:
    """Read a file of answers.

    Args:
        path: The file.
        again: What the user does after a damaged file is removed, for the error.

    Returns:
        Key -> whether each sample was right, shape (n,).

    Raises:
        CheckpointError: If the file is damaged.
    """
    import numpy as np

    try:
        tensors = read_tensors(path)
        (n,) = tensors["samples"].tolist()
        bits = np.unpackbits(tensors["bits"].numpy(), axis=1, count=n).astype(bool)
        seeds, times = tensors["seed"].tolist(), tensors["t_inference"].tolist()
        return dict(zip(zip(seeds, times, strict=True), bits, strict=True))
    except (KeyError, ValueError) as error:  # a CheckpointError is a ValueError
        advice = f"put the former file back, or remove it and the results of the same name {again}"
        raise damaged(path, error, advice) from None


def misfit(path: Path, errors: Mapping[Key, float]) -> str:
    """Say why a file of answers is not that of some results.

    Args:
        path: The file.
        errors: The error of each chip at each time, in [0, 1]; NaN if it is not known.

    Returns:
        The reason, or "" if the file holds all of these chips, with these errors.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if not path.exists():
        return f"{path} is missing"
    found = {_text(key): bits for key, bits in read(path).items()}
    missing = sorted({key[0] for key in errors if _text(key) not in found})
    if missing:
        return f"{path} lacks answers of the chips with the seeds {', '.join(map(str, missing))}"
    for key, error in errors.items():
        if abs(1.0 - found[_text(key)].mean() - error) > _ROUNDING:
            return f"{path} holds answers of other chips than its results"
    return ""


def _errors_of(path: Path) -> dict[Key, float]:
    """Return the errors in the results that a file of answers is behind.

    Raises:
        DataError: If the results are missing.
    """
    name = path.name.removesuffix(_SUFFIX)
    digital, chips = path.with_name(f"{name}.json"), path.with_name(f"{name}.csv")
    if digital.exists():
        return {(0, math.nan): float(read_facts(digital).get("error", math.nan))}
    if not chips.exists():
        raise DataError(
            f"the results {name} beside {path} are missing; go on with that shard (--resume) to "
            "measure them again"
        )
    rows = read_file(chips).rows
    return errors_of((seed, t_s, metric, value) for _, seed, t_s, metric, value in rows)


def errors_of(rows: Iterable[tuple[int, float, str, float]]) -> dict[Key, float]:
    """Return the error of each chip at each time; NaN for a chip of other metrics alone.

    Args:
        rows: Seed, seconds after programming, metric and value.
    """
    errors: dict[Key, float] = {}
    for seed, t_s, metric, value in rows:
        if metric == "error":
            errors[seed, t_s] = value
        else:
            errors.setdefault((seed, t_s), math.nan)
    return errors


def _equal(first: Bits, second: Bits) -> bool:
    return first.shape == second.shape and bool((first == second).all())


def merge(paths: Sequence[Path], into: Path) -> None:
    """Join the answers of all shards of a run; those of the digital model are in every file.

    Args:
        paths: The files of the shards, with the files of results beside them.
        into: The file of the whole run.

    Raises:
        DataError: If a file does not hold the answers behind its results.
        CheckpointError: If a file is damaged.
    """
    rows: dict[str, tuple[Key, Bits]] = {}
    for path in paths:
        errors = _errors_of(path)
        kept = read(path, _IN_A_SHARD) if path.exists() else {}
        why = misfit(path, errors)
        if why:
            it = "it and " if path.exists() else ""
            raise DataError(
                f"{why}; put the former file back, or remove {it}the results of the same name "
                f"{_IN_A_SHARD}"
            )
        found = {_text(key): (key, bits) for key, bits in kept.items()}
        for text in map(_text, errors):
            if text in rows and not _equal(rows[text][1], found[text][1]):
                raise DataError(f"{paths[0]} and {path} differ: the digital model is another one")
            rows[text] = found[text]
    first = next(iter(rows.values()))[1]
    if any(bits.shape != first.shape for _, bits in rows.values()):
        raise DataError(f"{paths[0]} and the files of other shards are of different samples")
    _write(into, [rows[text] for text in sorted(rows)], len(first))


def chip_of(model: nn.Module) -> ProgrammedChip | None:
    """Return the chip that a converted model holds; None for a digital model.

    Args:
        model: A digital or a converted model.
    """
    return record_of(model).chip if is_converted(model) else None
