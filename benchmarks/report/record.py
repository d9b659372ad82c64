"""Records of finished work: one format for every kind, one JSON file each.

A record says what ran (command, arguments), on what (versions, hardware), and what came out, with
one row per measurement. Tables and figures are made from records, and are not stored in them. The
modules beside this one say what the rows of each kind hold.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge import files
from aimc_bridge.csv_cells import unescaped
from aimc_bridge.errors import DataError, UsageError

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parents[1] / "records"
LINK = "../benchmarks/records/"
"""The path from a page in docs/ to the records."""

KINDS = ("run", "ablation", "ladder", "crosscheck", "speed", "growth", "intervals")
_DATA_DIR = re.compile(r"--data-dir (?:'[^']*'|\S+)")
MAKE_AGAIN = "make it again with `python -m benchmarks.record add`"

PUT_BACK = (
    "put the former file back, or a copy of that of a run with the same options, or of another "
    'shard with "shard" changed,'
)
"""The advice if a run.json is damaged or missing. The results are in other files."""


@dataclass(frozen=True)
class Record:
    """A finished piece of work: what ran, on what, and what came out.

    Attributes:
        kind: One of `KINDS`; it decides what the rows hold.
        name: The name of the file, without its suffix.
        command: The command line.
        arguments: The arguments of the command, defaults included.
        versions: Versions of Python and of packages.
        hardware: The machine.
        columns: The name of each cell of a row.
        rows: The results. A cell is a number, a text, None (not measured) or a list of numbers.
        extra: What else is known, by name: facts of the models, notes.
    """

    kind: str
    name: str
    command: str
    arguments: Mapping[str, Any]
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the contents of the file, with `extra` between the head and the rows."""
        data = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        extra = data.pop("extra")
        last = {name: data.pop(name) for name in ("columns", "rows")}
        return {**data, **extra, **last}

    @property
    def shown_command(self) -> str:
        """The command line as pages show it, with DIR for the machine's own data folder."""
        return _DATA_DIR.sub("--data-dir DIR", self.command)

    def table(self) -> pd.DataFrame:
        """Return the rows as a DataFrame."""
        import pandas as pd

        return pd.DataFrame([list(row) for row in self.rows], columns=list(self.columns))


# --- files ----------------------------------------------------------------------------------------


def as_json(value: Any, indent: int = 0) -> str:
    """Write plain data as JSON, one row per line.

    A list that begins with a number, a text or None is a row: all of it stands on one line.
    Everything else has one line per member.

    Args:
        value: Dicts with text as keys, lists, tuples, numbers, texts, booleans, None.
        indent: How many spaces lie before the members of the level above.

    Returns:
        The text, without a line end.
    """
    inner, outer = " " * (indent + 1), " " * indent
    if isinstance(value, Mapping) and value:
        members = [f"{_text(str(k))}: {as_json(child, indent + 1)}" for k, child in value.items()]
        brackets = "{}"
    elif isinstance(value, list | tuple) and value and isinstance(value[0], Mapping | list | tuple):
        members = [as_json(child, indent + 1) for child in value]
        brackets = "[]"
    else:
        return _text(value)
    body = ",\n".join(inner + member for member in members)
    return f"{brackets[0]}\n{body}\n{outer}{brackets[1]}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def read(path: Path) -> Record:
    """Read a record of any kind.

    Args:
        path: The file.

    Raises:
        DataError: If the file is missing, damaged, or not a record.
    """
    names = [entry.name for entry in fields(Record) if entry.name != "extra"]
    try:
        data = json.loads(files.read_text(path))
        missing = [name for name in names if name not in data]
        if missing:
            raise DataError(f"{path} lacks {', '.join(missing)}; {MAKE_AGAIN}")
        known = {name: data.pop(name) for name in names}
        record = Record(**known, extra=data)
        whole = all(len(row) == len(record.columns) for row in record.rows)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a record ({error}); {MAKE_AGAIN}") from None
    if record.kind not in KINDS:
        raise DataError(f"{path}: kind {record.kind!r}; one of {', '.join(KINDS)}")
    if not record.rows or not whole:
        problem = "rows of another length than its columns" if record.rows else "no rows"
        raise DataError(f"{path} has {problem}; {MAKE_AGAIN}")
    return renamed(record)


def renamed(record: Record) -> Record:
    """Return a record of a run with today's names of the phases.

    Before there was a control with the same training, "control" was the name of today's "finetune":
    as many steps without a chip. The studies of a run with today's control say so ("control").

    Args:
        record: A record of any kind.
    """
    studies = record.extra.get("studies", {})
    if record.kind != "run" or any("control" in study for study in studies.values()):
        return record
    at = record.columns.index("phase")
    rows = [
        [*row[:at], "finetune", *row[at + 1 :]] if row[at] == "control" else row
        for row in record.rows
    ]
    return replace(record, rows=rows)


def write(record: Record, path: Path | None = None) -> Path:
    """Write a record, whole or not at all.

    Args:
        record: The record.
        path: The file; None is the file of its name among the committed records.

    Returns:
        The file.

    Raises:
        UsageError: If the name of the record is not a file name.
    """
    check_name(record.name)
    path = FOLDER / f"{record.name}.json" if path is None else path
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(path, as_json(record.to_dict()) + "\n")
    return path


def check_name(name: str, option: str = "--name") -> None:
    """Refuse a name of a record that is not a plain file name.

    Args:
        name: The name.
        option: The option that gave it, for the error.

    Raises:
        UsageError: If the name has other characters than letters, digits, ".", "-" and "_".
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
        raise UsageError(
            f"{option} {name!r}; allowed: letters, digits, points, dashes, underscores"
        )


def add(record: Record, *, replace: bool = False, dry_run: bool = False) -> Path:
    """Keep a record among the committed records.

    Args:
        record: The record.
        replace: Whether it may replace a record of the same name.
        dry_run: Check everything and write nothing.

    Returns:
        The file.

    Raises:
        UsageError: If the name is taken, or not a file name.
    """
    check_name(record.name)
    path = FOLDER / f"{record.name}.json"
    if not replace and path.exists():
        raise UsageError(
            f"--name {record.name}: there is such a record; name another, or --replace"
        )
    return path if dry_run else write(record, path)


def of_kind(*kinds: str) -> list[Record]:
    """Read the committed records of some kinds, in the order of their files' names.

    Args:
        *kinds: Some of `KINDS`.
    """
    return [record for record in map(read, sorted(FOLDER.glob("*.json"))) if record.kind in kinds]


def named(*names: str) -> list[Record]:
    """Read the committed records of some names, in this order; skip missing ones.

    Args:
        *names: The names.
    """
    paths = [FOLDER / f"{name}.json" for name in names]
    return [read(path) for path in paths if path.exists()]


def digest(*records: Record) -> str:
    """Return the SHA-256 of records; a figure has it in its metadata.

    It tells which records the figure was drawn from.

    Args:
        *records: The records.
    """
    text = "\n".join(as_json(record.to_dict()) for record in records)
    return hashlib.sha256(text.encode()).hexdigest()


def link(record: Record, to: str | None = LINK) -> str:
    """Return a Markdown link to a record.

    Args:
        record: The record.
        to: The path from the page to the records; None returns the bare name.
    """
    return record.name if to is None else f"[{record.name}]({to}{record.name}.json)"


# --- finished folders -----------------------------------------------------------------------------


def read_run(folder: Path) -> dict[str, Any]:
    """Read run.json of a finished folder.

    Args:
        folder: The `--out` of a command.

    Raises:
        DataError: If the folder holds nothing finished, or another results.csv than run.json is of.
    """
    try:
        about: dict[str, Any] = json.loads(files.read_text(folder / "run.json"))
        missing = [name for name in ("arguments", *_OF_A_RUN) if name not in about]
    except (FileNotFoundError, NotADirectoryError):
        if (folder / "work").is_dir():  # what was measured is there
            raise DataError(
                f"{folder / 'run.json'} is missing; {PUT_BACK} and go on with the run (--resume)"
            ) from None
        raise DataError(
            f"{folder} holds no finished run (no run.json); name the --out of one"
        ) from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{folder / 'run.json'} is damaged ({error}); {PUT_BACK} and go on with the run "
            "(--resume)"
        ) from None
    if missing:
        raise DataError(
            f"{folder} is not finished: run.json lacks {', '.join(missing)}; "
            "go on with it (--resume)"
        )
    results = folder / RESULTS
    if _CHECKSUM in about and results.is_file() and about[_CHECKSUM] != _checksum(results):
        raise DataError(f"{results} is damaged, or was changed after the run; {_WRITE_AGAIN}")
    return about


def write_run(folder: Path, about: Mapping[str, Any]) -> None:
    """Write run.json of a finished folder, with the checksum of its results.csv.

    Args:
        folder: The `--out` of a command, with its results.csv.
        about: The contents.
    """
    sealed = {**about, _CHECKSUM: _checksum(folder / RESULTS)}
    files.write_text(folder / "run.json", json.dumps(sealed, indent=1) + "\n")


def _checksum(path: Path) -> str:
    """Return the SHA-256 of a text; the ends of its lines do not count, which copies may change."""
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()


RESULTS = "results.csv"
_CHECKSUM = "results_sha256"
_OF_A_RUN = ("command", "versions", "hardware", "studies")
_WRITE_AGAIN = "copy it again, or go on with the run (--resume), which writes it again"


def read_csv(
    path: Path, columns: Sequence[str], texts: Sequence[str], more: Sequence[str] = ()
) -> list[list[Any]]:
    """Read the rows of a results.csv, every value to its last bit.

    pandas would round some values.

    Args:
        path: The file.
        columns: The columns that it must have, in order.
        texts: The columns that hold text; the others hold whole numbers ("4") or numbers ("4.0").
        more: Columns that it may have behind the others.

    Returns:
        The rows, with None for an empty cell.

    Raises:
        DataError: If the file is missing or damaged, or has other columns.
    """
    try:
        files.check_file(path)
        with path.open(newline="", encoding="utf-8") as opened:
            header, *lines = csv.reader(opened, strict=True)
        if header not in ([*columns], [*columns, *more]):
            raise DataError(f"{path} has other columns than {', '.join(columns)}")
        kinds = [unescaped if name in texts else _number for name in header]
        return [
            [kind(cell) if cell else None for kind, cell in zip(kinds, line, strict=True)]
            for line in lines
        ]
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        missing = isinstance(error, FileNotFoundError)
        problem = "is missing" if missing else f"is damaged ({error})"
        raise DataError(f"{path} {problem}; {_WRITE_AGAIN}") from None


def _number(cell: str) -> float:
    return int(cell) if cell.lstrip("-").isdecimal() else float(cell)


def head(about: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of `Record` that run.json has under the same names.

    Args:
        about: The contents of run.json.
    """
    return {name: about[name] for name in ("command", "arguments", "versions", "hardware")}
