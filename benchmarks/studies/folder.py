"""The folder of a study: the run that it belongs to, and the files of its finished parts.

run.json holds the arguments of the run from the start, and the whole record as soon as results are
written. A run with other arguments is refused.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from torch import nn

from aimc_bridge import sweep_files
from aimc_bridge.commands import Output
from aimc_bridge.errors import CheckpointError, DataError, UsageError
from aimc_bridge.files import is_partial, remove_partial, write_text
from aimc_bridge.sealed_files import (
    damaged,
    misfits,
    read_facts,
    read_json,
    read_tensors,
    write_facts,
    write_tensors,
)
from benchmarks.studies import claims
from benchmarks.studies.claims import Claim

if TYPE_CHECKING:
    import pandas as pd

INPUTS = claims.INPUTS
"""The file of `benchmarks.studies.inputs`; it alone is no part of a run."""


# --- the run of a folder --------------------------------------------------------------------------


def holds_a_run(out: Path, resume: bool | None) -> bool:
    """Return whether a folder holds a run that can be continued.

    Args:
        out: The folder; it need not exist.
        resume: Whether --resume was given; None if the command has no such option.

    Raises:
        UsageError: If `out` is a file, or a folder with files in it while `resume` is not true.
        CheckpointError: If the fingerprints of its inputs are damaged.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file; name a folder")
    if not out.exists():
        return False
    if all(path.name == LOCK or is_partial(path) for path in out.iterdir()):  # a dead process's
        return False
    if not resume:
        more = "" if resume is None else ", or add --resume"
        raise UsageError(f"--out {out} is not empty; name another folder{more}")
    claims.check_notes(out)
    return True


def claim_in(out: Path) -> Claim:
    """Return the claim of the run in a folder.

    Args:
        out: The folder.

    Raises:
        UsageError: If run.json is missing or is not the record of a run.
    """
    path = out / "run.json"
    try:
        record = read_json(path)
        return claims.claim_of({**record, "arguments": dict(record["arguments"].items())})
    except (ValueError, KeyError, TypeError, AttributeError):  # a CheckpointError is a ValueError
        raise UsageError(f"{path}: no record of a run to resume; name another --out") from None


def write_claim(out: Path, claim: Claim) -> None:
    """Write run.json of a run that is not finished.

    Args:
        out: The folder; it must exist.
        claim: The claim of the run.
    """
    about = {"arguments": claim.arguments, claims.DIRECTORY: str(claim.directory)}
    write_text(out / "run.json", json.dumps(about, indent=1) + "\n")


def enter(out: Path, arguments: dict[str, Any], resume: bool, free: tuple[str, ...] = ()) -> None:
    """Take a folder for a run, or continue the run in it.

    Args:
        out: The folder; it is made if it does not exist.
        arguments: The arguments of the run, such as `Settings.claim()`.
        resume: Whether --resume was given.
        free: Names of arguments that may differ from those of the run in the folder; the new values
            replace the old ones.

    Raises:
        UsageError: If the folder holds something else, cannot be written, or if another process
            works in it.
    """
    held = out.resolve() in _HELD
    try:
        _enter(out, arguments, resume, free)
    except BaseException:
        if not held:  # a folder that is refused is left as it was
            unlock(out)
        raise


def _enter(out: Path, arguments: dict[str, Any], resume: bool, free: tuple[str, ...]) -> None:
    """Do the work of `enter`, which gives the lock back if it fails."""
    if out.is_dir():
        lock(out)
    if holds_a_run(out, resume):
        before = claim_in(out)
        now = Claim(json.loads(json.dumps(arguments)))
        differs = claims.differing(before, now, out)
        wrong = [key for key in differs if key not in free]
        if wrong:
            told = claims.changes(wrong, before.arguments, now.arguments)
            raise UsageError(
                f"{out} holds a run with other arguments ({told}); "
                "name another --out, or repeat them"
            )
        if differs:  # the old results are of fewer chips: the run is unfinished again
            write_claim(out, now)
        return
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock(out)
        write_claim(out, Claim(arguments))
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written ({error.strerror}); name another folder"
        ) from None


def leave(out: Path) -> bool:
    """Remove what `enter` wrote, if no part was begun in the folder.

    Args:
        out: The folder.

    Returns:
        Whether no part was begun.
    """
    files = [path for path in out.glob("work/**/*") if path.is_file()]
    if any(path.name != INPUTS for path in files):
        return False
    for path in files:
        path.unlink()
    (out / "run.json").unlink(missing_ok=True)
    (out / LOCK).unlink(missing_ok=True)
    folders = [path for path in out.rglob("*") if path.is_dir()]
    for folder in [*sorted(folders, reverse=True), out]:
        with contextlib.suppress(OSError):  # not empty: the files in it were there before
            folder.rmdir()
    return True


@contextlib.contextmanager
def resumable(out: Path, output: Output, named: Path | None = None) -> Iterator[None]:
    """Say how to continue if the block is interrupted or fails.

    A folder in which no part was begun is removed instead (see `leave`).

    Args:
        out: The folder, after `enter`.
        output: Where the note goes.
        named: The `--out` of the command, if it is another folder, as with --shard.

    Raises:
        KeyboardInterrupt: If the block was interrupted; its text says how to continue.
    """
    try:
        yield
    except BaseException as error:
        unbegun = False
        with contextlib.suppress(OSError):  # the first error is the one to show
            unbegun = leave(out)
        if unbegun:
            raise
        hint = (
            f"what is done is kept; to go on: the same command with --out {named or out} --resume"
        )
        if isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(f"interrupted; {hint}") from None
        output.say(hint)
        raise
    finally:
        unlock(out)


# --- one process at a time ------------------------------------------------------------------------

LOCK = ".lock"
_HELD: dict[Path, FileLock] = {}


def lock(out: Path, *, wait: bool = False) -> None:
    """Keep other processes out of a folder until `unlock`, or until this process ends.

    The system takes the lock back when the process ends, in whatever way it ends. What dead
    processes left half-written in the folder is removed.

    Args:
        out: The folder; it must exist.
        wait: Whether to wait until another process has left it.

    Raises:
        UsageError: If another process works in it and `wait` is false, or if it cannot be written.
    """
    place = out.resolve()
    if place in _HELD:
        return
    held = FileLock(place / LOCK)
    try:
        held.acquire(timeout=-1 if wait else 0, poll_interval=0.5)
    except Timeout:
        raise UsageError(
            f"--out {out}: another process works in it; wait until it is done, or name another "
            "folder"
        ) from None
    except NotImplementedError:  # a file system without locks
        return
    except OSError as error:
        raise UsageError(
            f"--out {out} cannot be written ({error.strerror}); name another folder"
        ) from None
    _HELD[place] = held
    remove_partial(place, below=True)


def unlock(out: Path) -> None:
    """Let other processes into a folder.

    Args:
        out: The folder, after `lock`; nothing happens otherwise.
    """
    held = _HELD.pop(out.resolve(), None)
    if held is not None:
        with contextlib.suppress(OSError):  # before the release: afterwards it may be another's
            (out / LOCK).unlink(missing_ok=True)
        held.release()


@contextlib.contextmanager
def alone(out: Path, *, wait: bool = False) -> Iterator[None]:
    """Keep other processes out of a folder while the block runs.

    Args:
        out: The folder; it must exist.
        wait: Whether to wait until another process has left it.

    Raises:
        UsageError: If another process works in it and `wait` is false.
    """
    inner = out.resolve() in _HELD
    lock(out, wait=wait)
    try:
        yield
    finally:
        if not inner:
            unlock(out)


# --- finished parts -------------------------------------------------------------------------------


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
    tensors = read_tensors(path)
    if wrong := misfits(model.state_dict(), tensors):
        raise CheckpointError(f"{path}: weights of another model, or damaged ({wrong[0]})")
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
