"""The files of what a study has finished: chips, weights, and how long each part took."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from aimc_bridge import sweep_files
from aimc_bridge.errors import CheckpointError, DataError
from aimc_bridge.sealed_files import (
    damaged,
    misfits,
    read_facts,
    read_tensors,
    write_facts,
    write_tensors,
)

if TYPE_CHECKING:
    import pandas as pd


def finished(
    path: Path,
    chips: int,
    times: Sequence[float],
    seed: int,
    mark: str | None = None,
    share: sweep_files.Share | None = None,
) -> pd.DataFrame | None:
    """Read the file of a sweep, without the model, if it has all chips at all times.

    Args:
        path: The CSV file.
        chips: The number of chips that are needed.
        times: The times that are needed, in seconds after programming.
        seed: Seed of the sweep.
        mark: The fingerprint of the model whose chips these are; None if it was not noted.
        share: The part of the chips that is needed; None means all.

    Returns:
        The rows, sorted as `sweep` sorts them; None if the file or some of the rows are missing.

    Raises:
        CheckpointError: If the file is damaged, or of another sweep.
    """
    import pandas as pd

    if not path.exists():
        return None
    with measuring_again(path):
        rows = sweep_files.read_rows(path, seed, mark, share)
    table = pd.DataFrame(rows, columns=sweep_files.COLUMNS)
    table = table[(table.chip < chips) & table.t_inference.isin(times)]
    pairs = itertools.product(range(chips) if share is None else share.numbers, times)
    if share is not None and sweep_files.read_file(path).share != share:
        return None  # of fewer chips: the sweep notes the new number
    if set(zip(table.chip, table.t_inference, strict=True)) != set(pairs):
        return None
    return table.sort_values(["metric", "chip", "t_inference"], ignore_index=True)


def rows_of(path: Path) -> pd.DataFrame:
    """Return the rows of a whole sweep's file, whatever sweep it is.

    Args:
        path: The CSV file.

    Raises:
        DataError: If it is missing or damaged.
    """
    import pandas as pd

    return pd.DataFrame(sweep_files.read_file(path).rows, columns=sweep_files.COLUMNS)


@contextlib.contextmanager
def measuring_again(path: Path) -> Iterator[None]:
    """Say what to do if the block cannot use the file of a sweep.

    Args:
        path: The CSV file.

    Raises:
        CheckpointError: If the block raises a DataError that is about the file.
    """
    try:
        yield
    except DataError as error:
        problem = sweep_files.problem_of(error)
        if not problem.startswith(f"{path}: "):  # of the task's data
            raise
        raise CheckpointError(f"{problem}; remove it to measure these chips again") from None


def save_weights(model: nn.Module, path: Path, about: Mapping[str, str] | None = None) -> None:
    """Write the state of a converted model as safetensors, whole or not at all.

    Args:
        model: The converted model.
        path: The file; its folder must exist.
        about: Texts for the header of the file, such as `training_facts.header`.
    """
    write_tensors(path, model.state_dict(), about)


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a file of `save_weights` into a model that was converted in the same way.

    Args:
        model: The converted model, changed in place.
        path: The file.

    Raises:
        CheckpointError: If the file is missing, damaged or of another model. The model then stays
            as it is.
    """
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; name the hwa.safetensors of a run")
    if not path.exists():
        raise CheckpointError(f"no weights at {path}")
    try:
        tensors = read_tensors(path)
    except CheckpointError as error:
        advice = (
            "put the former file back, or, in the folder of a run, remove it to train the model "
            "again"
        )
        raise damaged(path, error, advice) from None
    if wrong := misfits(model.state_dict(), tensors):
        raise CheckpointError(
            f"{path}: weights of another model, or damaged ({wrong[0]}); name weights that were "
            "trained with these options, or, in the folder of a run, remove the file to train the "
            "model again"
        )
    model.load_state_dict(tensors)


def drop_checkpoints(folder: Path) -> None:
    """Delete the checkpoints of a finished training; its log stays.

    Args:
        folder: The folder of the training.
    """
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / "checkpoint.json").unlink(missing_ok=True)


class Parts:
    """The parts of a study that take time, with their seconds; a resumed run knows them.

    Attributes:
        path: The JSON file of the notes.
        keep: Whether this process writes it.
        started: Names of the parts that were started, in order.
        wall_s: Part -> seconds, for the finished parts.
        interrupted: Names of the parts that an interruption cut in two.
        marks: Name of a sweep's file -> fingerprint of the model whose chips are in it.
    """

    def __init__(self, path: Path, keep: bool) -> None:
        """Prepare the notes; nothing is read yet (see `recall`).

        Args:
            path: The JSON file of the notes.
            keep: Whether this process writes it.
        """
        self.path, self.keep = path, keep
        self.started: list[str] = []
        self.wall_s: dict[str, float] = {}
        self.marks: dict[str, str] = {}
        self.interrupted: list[str] = []

    def timed(self, name: str, work: Callable[..., Any], *args: Any) -> Any:
        """Do a part and note its seconds.

        A part that was finished before keeps its first number of seconds. If an interruption cut a
        part in two, only the seconds after it count, and the part is listed in `interrupted`.

        Args:
            name: The name of the part.
            work: The function that does it.
            args: The arguments of `work`.

        Returns:
            The result of `work`.
        """
        began = time.monotonic()
        if name in self.wall_s:
            return work(*args)
        if name in self.started and name not in self.interrupted:
            self.interrupted.append(name)
        self.started.append(name)
        self._note()
        result = work(*args)
        self.wall_s[name] = round(time.monotonic() - began, 1)
        self._note()
        return result

    def mark(self, path: Path) -> None:
        """Note whose chips a finished sweep's file holds; a resumed run takes no others.

        Args:
            path: The CSV file.
        """
        found = sweep_files.mark_of(path)
        if found is not None and self.marks.get(path.name) != found:
            self.marks[path.name] = found
            self._note()

    def more(self, name: str) -> str:
        """Return a name for a part that adds to an earlier one.

        Args:
            name: The name of the part.

        Returns:
            The name as it is if no such part is finished, else the name with ", more" behind it.
        """
        while name in self.wall_s:
            name += ", more"
        return name

    def _note(self) -> None:
        if self.keep:
            notes = {
                "started": self.started,
                "wall_s": self.wall_s,
                "interrupted": self.interrupted,
                "marks": self.marks,
            }
            write_facts(self.path, notes)

    def recall(self) -> None:
        """Read the notes of an earlier run, if there are any.

        Raises:
            CheckpointError: If the file is damaged.
        """
        if not self.path.exists():
            return
        try:
            notes = read_facts(self.path)
            started, interrupted = list(notes["started"]), list(notes["interrupted"])
            wall_s = {str(name): float(value) for name, value in notes["wall_s"].items()}
            marks = dict(notes.get("marks", {}))  # older runs did not note them
            if not all(isinstance(name, str) for name in (*started, *interrupted, *marks.values())):
                raise TypeError("a part that is no text")
            self.started, self.wall_s, self.interrupted = started, wall_s, interrupted
            self.marks = marks
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            advice = (
                "put the former file back, or remove it; without it the run does not know how long "
                "its parts took, and takes every file of chips for one of its own models"
            )
            raise damaged(self.path, error, advice) from None
