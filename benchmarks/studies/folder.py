"""The folder of a run: which run it belongs to, and that one process at a time works in it.

run.json holds the arguments of the run from the start, and the whole record as soon as results are
written. A run with other arguments is refused.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from aimc_bridge.commands import Output
from aimc_bridge.errors import UsageError
from aimc_bridge.files import is_partial, remove_partial, write_text
from aimc_bridge.sealed_files import damaged, read_json
from benchmarks.report import record
from benchmarks.studies import claims
from benchmarks.studies.claims import Claim

INPUTS = claims.INPUTS
"""The file of `benchmarks.studies.inputs`; it alone is no part of a run."""

PUT_BACK = f"{record.PUT_BACK} or name another --out"
"""The advice if a run is resumed and its run.json is damaged or missing."""


# --- the run of a folder --------------------------------------------------------------------------


def holds_a_run(out: Path, resume: bool | None, option: str = "--out") -> bool:
    """Return whether a folder holds a run that can be continued.

    Args:
        out: The folder; it need not exist.
        resume: Whether --resume was given; None if the command has no such option.
        option: The option that names the folder, for the errors.

    Raises:
        UsageError: If `out` is a file, or a folder with files in it while `resume` is not true.
        CheckpointError: If the fingerprints of its inputs are damaged.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"{option} {out} is a file; name a folder")
    if not out.exists():
        return False
    if all(path.name == LOCK or is_partial(path) for path in out.iterdir()):  # a dead process's
        return False
    if not resume:
        more = "" if resume is None else ", or add --resume"
        raise UsageError(f"{option} {out} is not empty; name another folder{more}")
    claims.check_notes(out)
    return True


def claim_in(out: Path, advice: str = PUT_BACK) -> Claim:
    """Return the claim of the run in a folder.

    Args:
        out: The folder.
        advice: What the user can do if run.json is damaged, or missing beside results.

    Raises:
        UsageError: If run.json is missing or damaged.
    """
    path = out / "run.json"
    if not path.exists() and (out / "work").is_dir():  # what was measured is there
        raise UsageError(f"{path} is missing; {advice}")
    if not path.exists():
        raise UsageError(f"{path}: no record of a run to resume; name another --out")
    try:
        about = read_json(path)
        if not isinstance(about["arguments"], dict):
            raise TypeError("its arguments are no table")
        return claims.claim_of(about)
    except (ValueError, KeyError, TypeError) as error:  # a CheckpointError is a ValueError
        raise UsageError(str(damaged(path, error, advice))) from None


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


def lock(out: Path, *, wait: bool = False, option: str = "--out") -> None:
    """Keep other processes out of a folder until `unlock`, or until this process ends.

    The system takes the lock back when the process ends, in whatever way it ends. What dead
    processes left half-written in the folder is removed.

    Args:
        out: The folder; it must exist.
        wait: Whether to wait until another process has left it.
        option: The option that names the folder, for the errors.

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
            f"{option} {out}: another process works in it; wait until it is done, or name another "
            "folder"
        ) from None
    except NotImplementedError:  # a file system without locks
        return
    except OSError as error:
        raise UsageError(
            f"{option} {out} cannot be written ({error.strerror}); name another folder"
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
def alone(out: Path, *, wait: bool = False, option: str = "--out") -> Iterator[None]:
    """Keep other processes out of a folder while the block runs.

    Args:
        out: The folder; it must exist.
        wait: Whether to wait until another process has left it.
        option: The option that names the folder, for the errors.

    Raises:
        UsageError: If another process works in it and `wait` is false.
    """
    inner = out.resolve() in _HELD
    lock(out, wait=wait, option=option)
    try:
        yield
    finally:
        if not inner:
            unlock(out)
