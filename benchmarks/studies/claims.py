"""The claim of a run: the arguments that say which run it is, whatever its paths are called.

An argument can name a place: a checkpoint, a folder of data. A place has many spellings, and the
same files can lie in another place tomorrow. If inputs.json has the fingerprint of a model, the
place of the model is no part of the claim, and so it is with data. Other places are compared after
they are resolved.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aimc_bridge.errors import CheckpointError, UsageError, shown
from aimc_bridge.sealed_files import damaged, read_facts
from benchmarks.option_words import MODEL, checkpoints_of, paths_of
from benchmarks.tasks.data import DATA_VARIABLE
from benchmarks.tasks.registry import parse_options

INPUTS = "inputs.json"
"""The file of `benchmarks.studies.inputs`."""

DIRECTORY = "directory"
"""The entry of run.json beside "arguments": the working directory that paths are relative to."""

MARKS = {"checkpoint": "digital model", "trained": "trained model (hwa)"}
"""Argument -> what inputs.json calls the model that it names."""

TRAINING, CALIBRATION = "set of training data", "set of calibration data"
"""The names in inputs.json of the data of trainings, and of those that set input ranges."""

_MOST = 5  # changes in one message
_TAKEN = (
    "the models and data that there are now are taken for those of the results, if the digital "
    "model measures the same"
)


@dataclass(frozen=True)
class Claim:
    """The arguments of a run, and where it was started.

    Attributes:
        arguments: The arguments, as plain data.
        directory: The working directory that paths in the arguments are relative to.
    """

    arguments: Mapping[str, Any]
    directory: Path = field(default_factory=Path.cwd)

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        task = self.arguments.get("task")
        return tuple(self.arguments.get("tasks") or ()) if task is None else (task,)


def claim_of(record: Mapping[str, Any]) -> Claim:
    """Return the claim in a run.json.

    Args:
        record: Its contents. Records of older versions do not say where the run was started; paths
            in them are taken to be relative to the working directory of this process.
    """
    return Claim(record["arguments"], Path(record.get(DIRECTORY) or Path.cwd()))


def differing(before: Claim, now: Claim, *folders: Path) -> list[str]:
    """Return the names of arguments that differ, in alphabetical order.

    Args:
        before: The former claim.
        now: The new one. An argument that only the former claim has is not compared.
        folders: The folders of the run or of its parts. If all of them have the fingerprint of a
            model, it does not matter where the file of this model lies; if all have those of the
            data of all tasks, it does not matter where the data lie.
    """
    return sorted(
        name
        for name, value in now.arguments.items()
        if before.arguments.get(name) != value or name in (*MARKS, "data_dir", "option")
        if _differs(name, before, now, folders)
    )


def changes(
    names: Sequence[str],
    before: Mapping[str, Any],
    now: Mapping[str, Any],
    between: str = ", now ",
) -> str:
    """Return in words how arguments differ: "seed 0, now 1; engine 'both', now 'native'".

    Args:
        names: The names of the arguments.
        before: The former arguments.
        now: The new ones.
        between: The words between two values.
    """
    pairs = ((name, before.get(name), now.get(name)) for name in names)
    told = [
        f"{name} {shown(a)}{between}{shown(b)}{' of another folder' * (a == b)}"
        for pair in pairs
        for name, a, b in _told(*pair)
    ] or [f"{name} of another folder" for name in names]
    more = f"; and {len(told) - _MOST} more" if len(told) > _MOST else ""
    return "; ".join(told[:_MOST]) + more


def _told(name: str, before: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield a name and its two values; of two tables, those of the entries that differ."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in sorted(before.keys() | now.keys()):
            if before.get(key) != now.get(key):
                yield from _told(f"{name}.{key}", before.get(key), now.get(key))
    else:
        yield name, before, now


def check_notes(folder: Path, without: str = _TAKEN) -> None:
    """Check that the fingerprints of a run's inputs can be read.

    Args:
        folder: The folder of the run.
        without: What follows if a damaged file is removed, for the error.

    Raises:
        CheckpointError: If a file is damaged.
    """
    for path in (*folder.glob(f"work/{INPUTS}"), *sorted(folder.glob(f"work/*/{INPUTS}"))):
        _notes(path, without)


# --- places ---------------------------------------------------------------------------------------


def _differs(name: str, before: Claim, now: Claim, folders: Sequence[Path]) -> bool:
    """Return whether an argument of two claims differs, whatever its paths are called."""
    if name == "option":
        try:
            first, second = (parse_options(list(c.arguments[name] or ())) for c in (before, now))
            return not same_options(first, second, before.directory, now.directory)
        except (UsageError, KeyError, TypeError, ValueError):  # as in `_places`
            return before.arguments.get(name) != now.arguments.get(name)
    return bool(_places(name, before, folders) != _places(name, now, folders))


def _places(name: str, claim: Claim, folders: Sequence[Path]) -> Any:
    """Return the value of an argument; if it names places, in a form without their spelling."""
    value = claim.arguments.get(name)
    try:
        if name in MARKS:
            return _models(name, value, claim, folders)
        if name == "data_dir":
            if folders and all(_has_data(f, task) for f in folders for task in claim.tasks):
                return "data with fingerprints"
            return _data(value, claim.directory)
    except (UsageError, TypeError, ValueError):  # of a record that something else wrote
        pass
    return value


def _models(name: str, value: Any, claim: Claim, folders: Sequence[Path]) -> dict[str, str]:
    """Return task -> the place of its model, or what is the same for all places."""
    words = [f"{k}={v}" for k, v in value.items()] if isinstance(value, Mapping) else value
    named = paths_of(f"--{name}", words or (), claim.tasks)
    absolute = {task: claim.directory / path for task, path in named.items()}
    if name == "checkpoint":
        words = [f"{task}={path}" for task, path in absolute.items()]
        absolute = checkpoints_of(words, claim.tasks)
    places = {task: path.resolve() for task, path in absolute.items()}
    return {
        task: "a model with a fingerprint"
        if folders and all(MARKS[name] in notes_of(folder, task) for folder in folders)
        else str(path.parent if path.name == MODEL else path)
        for task, path in places.items()
    }


def _has_data(folder: Path, task: str) -> bool:
    """Return whether a folder has the fingerprints of all data behind the results of a task."""
    notes = notes_of(folder, task)
    trained = any(name.startswith("trained model") for name in notes)
    trained |= any((folder / "work" / part / "digital").exists() for part in (task, ""))
    test = any(isinstance(note, Mapping) and "split" in note for note in notes.values())
    return test and CALIBRATION in notes and (TRAINING in notes or not trained)


def _data(value: str | None, directory: Path) -> str | None:
    """Return the folder of the data; None means that they are downloaded."""
    if value is None:
        variable = os.environ.get(DATA_VARIABLE)
        return str(Path(variable).resolve()) if variable else None
    return str((directory / value).resolve())


def same_options(
    before: Mapping[str, Any], now: Mapping[str, Any], first: Path, second: Path
) -> bool:
    """Return whether options of a task are the same.

    Texts that are paths of something are compared after they are resolved. An option can also have
    the name of a folder by chance, such as "ptb": so two equal texts differ only if both are paths.

    Args:
        before: The former options, name -> value.
        now: The new ones.
        first: The folder that paths in the former options are relative to.
        second: The same for the new ones.
    """

    def same(old: Any, new: Any) -> bool:
        places = _place(old, first), _place(new, second)
        return places[0] == places[1] if None not in places else bool(old == new)

    return before.keys() == now.keys() and all(same(before[name], now[name]) for name in now)


def _place(value: Any, directory: Path) -> Path | None:
    """Return the resolved path if a value is the path of something that exists."""
    try:
        path = (directory / value).resolve() if isinstance(value, str) and value else None
        return path if path is not None and path.exists() else None
    except (OSError, ValueError):  # a text that is too long for a path, or has a zero in it
        return None


def notes_of(folder: Path, task: str) -> dict[str, Any]:
    """Return the fingerprints of the inputs of a task; none in folders of older versions.

    Args:
        folder: The folder of a run.
        task: The name of the task.

    Raises:
        CheckpointError: If the file is damaged.
    """
    for path in (folder / "work" / task / INPUTS, folder / "work" / INPUTS):  # several tasks, one
        if path.exists():
            return _notes(path)
    return {}


def _notes(path: Path, without: str = _TAKEN) -> dict[str, Any]:
    try:
        return read_facts(path)
    except CheckpointError as error:
        advice = f"put the former file back, or remove it; without it {without}"
        raise damaged(path, error, advice) from None
