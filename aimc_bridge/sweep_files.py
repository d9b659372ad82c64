"""The CSV file of a sweep's results: each row knows its model and has a checksum."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from aimc_bridge.csv_cells import escaped, unescaped
from aimc_bridge.errors import DataError
from aimc_bridge.files import check_file, write_text

COLUMNS = ["chip", "seed", "t_inference", "metric", "value"]
Row = tuple[int, int, float, str, float]
_OLD = [*COLUMNS, "model"]
_HEADER = [*_OLD, "check"]
_SHARD_HEADER = [*_OLD, "shard", "chips", "check"]


class Share(NamedTuple):
    """The part of a sweep's chips that one shard evaluates: every chip after `shards` others.

    So chips that are added later do not move to another shard.

    Attributes:
        shard: The number of the shard, from 1.
        shards: How many shards there are.
        chips: How many chips all of them have together.
    """

    shard: int
    shards: int
    chips: int

    def __str__(self) -> str:
        """Return the shard as "3/25"."""
        return f"{self.shard}/{self.shards}"

    @property
    def numbers(self) -> range:
        """The numbers of the shard's chips."""
        return range(self.shard - 1, self.chips, self.shards)


class SweepFile(NamedTuple):
    """The contents of the file of a sweep or of a shard.

    Attributes:
        rows: Its rows.
        marks: The fingerprints of the models that its rows name.
        share: Which part of the chips it is for; None if it is for all.
    """

    rows: list[Row]
    marks: set[str]
    share: Share | None


def write_rows(path: Path, mark: str, rows: list[Row], share: Share | None = None) -> None:
    """Write all rows, whole or not at all.

    Args:
        path: The file; its folder is made if it does not exist.
        mark: The fingerprint of the model.
        rows: Chip, seed, seconds after programming, metric and value.
        share: The shard that the rows are of; None if it is a whole sweep.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = Counter((chip, t_s) for chip, _, t_s, _, _ in rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER if share is None else _SHARD_HEADER)
    part = () if share is None else (str(share), share.chips)
    for row in rows:
        chip, seed, t_s, metric, value = row
        number = "" if math.isnan(value) else repr(float(value))
        check = _check(row, mark, counts[chip, t_s], part)
        cells = (chip, seed, repr(float(t_s)), escaped(metric), number, mark, *part, check)
        writer.writerow(cells)
    write_text(path, text.getvalue())


def read_rows(
    path: Path, seed: int, mark: str | None = None, share: Share | None = None
) -> list[Row]:
    """Return the rows of a file, or none if there is no file.

    Args:
        path: The file.
        seed: Seed of the sweep.
        mark: The fingerprint of the model; None if it is not known, then all rows must have one.
        share: The shard; None for a whole sweep. The file may be of fewer chips.

    Raises:
        DataError: If the file belongs to another sweep or shard, or is damaged: rows twice, metrics
            missing, digits changed. See `problem_of`.

    Warns:
        UserWarning: If the rows have no checksums, because an older version wrote them.
    """
    if not path.exists():
        return []
    rows, marks, before = read_file(path)
    if (marks and mark is not None and marks != {mark}) or len(marks) > 1:
        raise _other_sweep(path)
    if any(chip_seed != chip + seed for chip, chip_seed, *_ in rows):
        raise _other_sweep(path)
    if rows and (before is None) != (share is None):
        which = "of all chips" if before is None else f"of shard {before}"
        raise DataError(
            f"{path}: rows {which};",
            f"give resume= a file for {share or 'the whole sweep'}, or merge the shards "
            "(merge_shards)",
        )
    if before is None or share is None:
        return rows
    if before[:2] != share[:2] or before.chips > share.chips:
        raise DataError(
            f"{path}: rows of shard {before} of {before.chips} chips, and this is shard {share} of "
            f"{share.chips};",
            "give resume= a new file",
        )
    return rows


def read_file(path: Path) -> SweepFile:
    """Read the file of a sweep or of a shard, whatever sweep it is.

    Args:
        path: The file.

    Raises:
        DataError: If it is missing or damaged.

    Warns:
        UserWarning: As `read_rows`.
    """
    try:
        check_file(path)
        # not pandas: a value must come back to the last bit, and a metric may be called "nan"
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file, strict=True))
        if header not in (_HEADER, _SHARD_HEADER, _OLD):
            raise _other_sweep(path)
        cells = [dict(zip(header, line, strict=True)) for line in lines]
        rows = [_row(cell) for cell in cells]
        share = _share(cells) if header == _SHARD_HEADER else None
    except DataError:
        raise
    except (ValueError, OverflowError, OSError, csv.Error) as cause:
        raise DataError(f"{path}: not a sweep's CSV file, or damaged ({cause})") from cause
    marks = {cell["model"] for cell in cells}
    _check_whole(path, rows)
    if header == _OLD:
        if rows:
            warnings.warn(
                f"{path}: no checksums (an older version wrote it), so changed digits would go "
                "unnoticed",
                stacklevel=4,
            )
        return SweepFile(rows, marks, None)
    counts = Counter((chip, t_s) for chip, _, t_s, _, _ in rows)
    for cell, row in zip(cells, rows, strict=True):
        part = () if share is None else (cell["shard"], int(cell["chips"]))
        if cell["check"] != _check(row, cell["model"], counts[row[0], row[2]], part):
            raise DataError(
                f"{path}: damaged (the row of chip {row[0]}, {row[2]:g} s, {row[3]!r} does not fit "
                "its checksum);",
                "remove the file to measure these chips again",
            )
    if share is not None and any(row[0] not in share.numbers for row in rows):
        raise DataError(f"{path}: damaged (a chip that is not of shard {share})")
    return SweepFile(rows, marks, share)


def problem_of(error: DataError) -> str:
    """Return what an error of this module says is wrong, without its advice.

    The advice is for Python. A command, whose users pass no `resume=`, gives its own.

    Args:
        error: An error of `read_rows` or `read_file`; of any other one, which can also be without
            a text, this is its first argument.
    """
    return str(error.args[0]).rstrip(";") if error.args else ""


def mark_of(path: Path) -> str | None:
    """Return the fingerprint of the model that a file names first, if there is one.

    Args:
        path: The file; it was written by `write_rows`.
    """
    with path.open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file), None)
    return None if row is None else row["model"]


def _other_sweep(path: Path) -> DataError:
    """Return the error for a file of another sweep."""
    return DataError(
        f"{path}: rows of another sweep (model, input ranges, preset, seed, draw_on or columns "
        "differ);",
        "give resume= a new file",
    )


def _row(cell: dict[str, str]) -> Row:
    """Return the row of a line; raise ValueError if a number is none or cannot be."""
    chip, seed, t_s = int(cell["chip"]), int(cell["seed"]), float(cell["t_inference"])
    if chip < 0 or not 0 <= t_s < math.inf:
        raise ValueError(f"chip {chip} at {t_s} s")
    return chip, seed, t_s, unescaped(cell["metric"]), float(cell["value"] or "nan")


def _share(cells: list[dict[str, str]]) -> Share | None:
    """Return the shard that all lines name; raise ValueError if they name none or several."""
    named = {(cell["shard"], cell["chips"]) for cell in cells}
    if not named:
        return None
    ((text, chips),) = named
    number, _, count = text.partition("/")
    share = Share(int(number), int(count), int(chips))
    if not 1 <= share.shard <= min(share.shards, share.chips):
        raise ValueError(f"shard {text} of {chips} chips")
    return share


def _check_whole(path: Path, rows: list[Row]) -> None:
    """Raise DataError if a row is there twice, or a chip lacks a metric that others have."""
    metrics: dict[tuple[int, float], list[str]] = {}
    for chip, _, t_s, metric, _ in rows:
        metrics.setdefault((chip, t_s), []).append(metric)
    if any(len(set(names)) < len(names) for names in metrics.values()):
        raise DataError(f"{path}: damaged (a row is there twice)")
    if len({frozenset(names) for names in metrics.values()}) > 1:
        raise DataError(f"{path}: damaged (rows are missing)")


def _check(row: Row, mark: str, metrics: int, part: tuple[str, int] | tuple[()] = ()) -> str:
    """Return the checksum of a row; it covers how many metrics its chip has at its time."""
    chip, seed, t_s, metric, value = row
    number = "nan" if math.isnan(value) else repr(float(value))
    text = json.dumps([chip, seed, repr(float(t_s)), metric, number, mark, metrics, *part])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
