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

from aimc_bridge.csv_cells import escaped, unescaped
from aimc_bridge.errors import DataError
from aimc_bridge.files import check_file, write_text

COLUMNS = ["chip", "seed", "t_inference", "metric", "value"]
Row = tuple[int, int, float, str, float]
_OLD = [*COLUMNS, "model"]
_HEADER = [*_OLD, "check"]


def write_rows(path: Path, mark: str, rows: list[Row]) -> None:
    """Write all rows, whole or not at all.

    Args:
        path: The file; its folder is made if it does not exist.
        mark: The fingerprint of the model.
        rows: Chip, seed, seconds after programming, metric and value.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    counts = Counter((chip, t_s) for chip, _, t_s, _, _ in rows)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_HEADER)
    for row in rows:
        chip, seed, t_s, metric, value = row
        number = "" if math.isnan(value) else repr(float(value))
        check = _check(row, mark, counts[chip, t_s])
        writer.writerow([chip, seed, repr(float(t_s)), escaped(metric), number, mark, check])
    write_text(path, text.getvalue())


def read_rows(path: Path, seed: int, mark: str | None = None) -> list[Row]:
    """Return the rows of a file, or none if there is no file.

    Args:
        path: The file.
        seed: Seed of the sweep.
        mark: The fingerprint of the model; None if it is not known, then all rows must have one.

    Raises:
        DataError: If the file belongs to another sweep or is damaged: rows twice, metrics missing,
            digits changed.

    Warns:
        UserWarning: If the rows have no checksums, because an older version wrote them.
    """
    if not path.exists():
        return []
    try:
        check_file(path)
        # not pandas: a value must come back to the last bit, and a metric may be called "nan"
        with path.open(newline="", encoding="utf-8") as file:
            header, *lines = list(csv.reader(file, strict=True))
        if header not in (_HEADER, _OLD):
            raise _other_sweep(path)
        cells = [dict(zip(header, line, strict=True)) for line in lines]
        rows = [_row(cell) for cell in cells]
    except DataError:
        raise
    except (ValueError, OverflowError, OSError, csv.Error) as cause:
        raise DataError(f"{path}: not a sweep's CSV file, or damaged ({cause})") from cause
    marks = {cell["model"] for cell in cells}
    if (marks and mark is not None and marks != {mark}) or len(marks) > 1:
        raise _other_sweep(path)
    if any(chip_seed != chip + seed for chip, chip_seed, *_ in rows):
        raise _other_sweep(path)
    _check_whole(path, rows)
    if header == _OLD:
        warnings.warn(
            f"{path}: no checksums (an older version wrote it), so changed digits would go "
            "unnoticed",
            stacklevel=3,
        )
        return rows
    counts = Counter((chip, t_s) for chip, _, t_s, _, _ in rows)
    for cell, row in zip(cells, rows, strict=True):
        if cell["check"] != _check(row, cell["model"], counts[row[0], row[2]]):
            raise DataError(
                f"{path}: damaged (the row of chip {row[0]}, {row[2]:g} s, {row[3]!r} does not fit "
                "its checksum); remove the file to measure these chips again"
            )
    return rows


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
        "differ); give resume= a new file"
    )


def _row(cell: dict[str, str]) -> Row:
    """Return the row of a line; raise ValueError if a number is none or cannot be."""
    chip, seed, t_s = int(cell["chip"]), int(cell["seed"]), float(cell["t_inference"])
    if chip < 0 or not 0 <= t_s < math.inf:
        raise ValueError(f"chip {chip} at {t_s} s")
    return chip, seed, t_s, unescaped(cell["metric"]), float(cell["value"] or "nan")


def _check_whole(path: Path, rows: list[Row]) -> None:
    """Raise DataError if a row is there twice, or a chip lacks a metric that others have."""
    metrics: dict[tuple[int, float], list[str]] = {}
    for chip, _, t_s, metric, _ in rows:
        metrics.setdefault((chip, t_s), []).append(metric)
    if any(len(set(names)) < len(names) for names in metrics.values()):
        raise DataError(f"{path}: damaged (a row is there twice)")
    if len({frozenset(names) for names in metrics.values()}) > 1:
        raise DataError(f"{path}: damaged (rows are missing)")


def _check(row: Row, mark: str, metrics: int) -> str:
    """Return the checksum of a row; it covers how many metrics its chip has at its time."""
    chip, seed, t_s, metric, value = row
    number = "nan" if math.isnan(value) else repr(float(value))
    text = json.dumps([chip, seed, repr(float(t_s)), metric, number, mark, metrics])
    return hashlib.sha256(text.encode()).hexdigest()[:16]
