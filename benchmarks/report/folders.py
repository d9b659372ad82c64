"""Finished folders (`--out` of a command): their kinds, records and summaries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from aimc_bridge import files
from aimc_bridge.errors import DataError, UsageError
from benchmarks.report import (
    ablation,
    crosscheck,
    ladder,
    ladder_tables,
    run,
    speed_records,
    speed_tables,
    tables,
)
from benchmarks.report import record as records
from benchmarks.report.html import build, page
from benchmarks.report.record import Record, check_name


class Kind(NamedTuple):
    """The functions that read folders of one kind.

    Attributes:
        prefix: The text that the names of its records begin with; "" is nothing.
        record_of: Reads the folder as a record of a name.
        rebuild: Writes summary.md, report.html and the figures again from the results.
    """

    prefix: str
    record_of: Callable[[Path, str], Record]
    rebuild: Callable[[Path], None]


KINDS = {
    "run": Kind("", run.record_of, run.rebuild),
    "ablation": Kind("ablation-", ablation.record_of, ablation.rebuild),
    "crosscheck": Kind("crosscheck-", crosscheck.record_of, crosscheck.rebuild),
    "speed": Kind("speed-", speed_records.record_of, speed_tables.rebuild),
}
_LADDER = "ladder"  # one folder has a record per task


def kind_of(folder: Path) -> str:
    """Return the kind of a finished folder.

    The files in it tell its kind: crosscheck.json, speed.json, or the columns of results.csv.

    Args:
        folder: The `--out` of a command.

    Returns:
        "run", "ablation", "ladder", "crosscheck" or "speed".

    Raises:
        DataError: If the folder holds nothing finished.
    """
    for kind, name in (("crosscheck", crosscheck.FILE), ("speed", speed_records.FILE)):
        if (folder / name).exists():
            return kind
    try:
        files.check_file(folder / "results.csv")
        with (folder / "results.csv").open(encoding="utf-8") as opened:
            columns = opened.readline(10_000).strip().split(",")
    except (OSError, UnicodeError) as error:
        problem = f"{folder / 'results.csv'}: {error}"
        if isinstance(error, OSError):
            problem = f"{error.filename}: {error.strerror}"
        raise DataError(
            f"{folder} holds no finished run ({problem}); name the --out of one"
        ) from None
    if columns[: len(ladder_tables.COLUMNS)] == ladder_tables.COLUMNS:
        return _LADDER
    if columns[: len(ablation.COLUMNS)] == ablation.COLUMNS:
        return "ablation"
    if columns[: len(tables.COLUMNS)] == tables.COLUMNS:
        return "run"
    raise DataError(f"{folder / 'results.csv'} has other columns than a run, ablation or ladder")


def records_of(folder: Path, name: str | None = None) -> list[Record]:
    """Read a finished folder as records.

    Args:
        folder: The `--out` of a command.
        name: The name of the record; "ablation-", "crosscheck-" or "speed-" is put before it if it
            is not there. None is the folder's own name. Records of a ladder are called ladder-TASK.

    Raises:
        DataError: If the folder holds nothing finished.
        UsageError: If the name is not a file name, or if the folder is a ladder and a name is
            given.
    """
    kind = kind_of(folder)
    if kind == _LADDER:
        if name is not None:
            raise UsageError(
                f"--name {name}: records of a ladder are called ladder-TASK; leave it out"
            )
        return ladder.records_of(folder)
    known = KINDS[kind]
    name = folder.resolve().name if name is None else name
    check_name(name)
    if not name.startswith(known.prefix):
        name = known.prefix + name
    return [known.record_of(folder, name)]


def keep(folder: Path, name: str | None = None) -> list[Path]:
    """Keep a finished folder as records; they replace records of the same names.

    Args:
        folder: The `--out` of a command.
        name: As in `records_of`.

    Returns:
        The files written.

    Raises:
        DataError: If the folder holds nothing finished.
        UsageError: If the name is not allowed; see `records_of`.
    """
    return [records.add(record, replace=True) for record in records_of(folder, name)]


def rebuild(folder: Path) -> None:
    """Write summary.md and the figures of a finished folder again, from its results.

    Args:
        folder: The `--out` of a command.

    Raises:
        DataError: If the folder holds nothing finished.
    """
    kind = kind_of(folder)
    again = ladder.rebuild if kind == _LADDER else KINDS[kind].rebuild
    again(folder)


def compare(folders: Sequence[Path], path: Path) -> None:
    """Write one report.html of several finished runs.

    Args:
        folders: The `--out` of each run.
        path: The file.

    Raises:
        DataError: If one of the folders does not hold a run.
    """
    found = []
    for folder in folders:
        rows = run.results_of(run.record_of(folder, str(folder)))
        found.append((folder, rows, records.read_run(folder)))
    page.write(build.of_runs(found), path)


def comparison(folders: Sequence[Path]) -> str:
    """Return one table of several finished runs.

    Args:
        folders: The `--out` of each run.

    Raises:
        DataError: If one of the folders does not hold a run.
    """
    for folder in folders:
        if kind_of(folder) != "run":
            raise DataError(f"{folder} holds no run; runs are compared with runs alone")
    return run.table([run.record_of(folder, str(folder)) for folder in folders], to=None)
