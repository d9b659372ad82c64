"""Sweeps in parts: which chips a shard evaluates, and the table that all shards make together."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aimc_bridge.errors import DataError, UsageError, shown
from aimc_bridge.sweep_files import COLUMNS, Row, Share, SweepFile, read_file, write_rows

if TYPE_CHECKING:
    import pandas as pd

Shard = tuple[int, int] | str
_ALLOWED = "allowed: which one and of how many, counted from 1, such as (3, 25) or '3/25'"


def shard_of(shard: Shard) -> tuple[int, int]:
    """Return the number of a shard and the number of shards.

    Args:
        shard: (3, 25) or "3/25" for the third of 25 shards.

    Raises:
        UsageError: If it is neither, or if there is no such shard.
    """
    pair: tuple[Any, ...] | list[Any] = ()
    if isinstance(shard, str):
        numbers = re.fullmatch(r"\s*([0-9]{1,9})\s*/\s*([0-9]{1,9})\s*", shard, re.ASCII)
        pair = tuple(map(int, numbers.groups())) if numbers else ()
    elif isinstance(shard, tuple | list):
        pair = shard
    if len(pair) != 2 or any(type(number) is not int for number in pair):
        raise UsageError(f"shard={shown(shard)}; {_ALLOWED}")
    number, count = int(pair[0]), int(pair[1])
    if not 1 <= number <= count:
        raise UsageError(f"shard={shown(shard)}: there is no such shard; {_ALLOWED}")
    return number, count


def share_of(shard: Shard, chips: int) -> Share:
    """Return the part of a sweep's chips that a shard evaluates.

    Args:
        shard: As in `shard_of`.
        chips: The number of chips of all shards together.

    Raises:
        UsageError: If there is no such shard, or if no chip is left for it.
    """
    share = Share(*shard_of(shard), chips)
    if not share.numbers:
        raise UsageError(
            f"shard {share} of {chips} chips has no chip; allowed: at most {chips} shards"
        )
    return share


def merge_shards(
    paths: Iterable[str | os.PathLike[str]], into: str | os.PathLike[str] | None = None
) -> pd.DataFrame:
    """Join the files of all shards of a sweep to its table.

    The table equals that of the same sweep without shards, bit for bit.

    Args:
        paths: The files that `sweep(..., shard=..., resume=path)` wrote, one per shard, in any
            order.
        into: A new file for the whole sweep, for `sweep(..., resume=into)`; None writes nothing.

    Returns:
        The table, as `sweep` returns it.

    Raises:
        UsageError: If no files are named.
        DataError: If a shard, chip, time or metric is missing; if two files are of one shard; if
            the files are of different models, seeds, times or numbers of chips; or if a file is
            damaged or exists already.

    Examples:
        >>> import tempfile
        >>> import torch
        >>> from torch import nn
        >>> from aimc_bridge import calibrate, convert, merge_shards, sweep
        >>> from presets import rasch2023
        >>> inputs = torch.randn(64, 12)
        >>> analog = convert(nn.Linear(12, 2), rasch2023).eval()
        >>> calibrate(analog, [inputs])
        >>> def mean(model):
        ...     return float(model(inputs).mean())
        >>> options = {"times": "1h", "chips": 4, "progress": False}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = [f"{folder}/1.csv", f"{folder}/2.csv"]
        ...     for number, file in enumerate(files, start=1):
        ...         _ = sweep(analog, mean, shard=(number, 2), resume=file, **options)
        ...     table = merge_shards(files)
        >>> table.equals(sweep(analog, mean, **options))
        True
    """
    import pandas as pd

    if isinstance(paths, str | os.PathLike):
        paths = [paths]
    named = [Path(path) for path in paths]
    if not named:
        raise UsageError("merge_shards: no files; name the file of each shard")
    check_once(named, "file")
    files = {path: _whole(path) for path in named}
    _check_one_sweep(files)
    rows = [row for file, _ in files.values() for row in file.rows]
    if into is not None:
        if Path(into).exists():
            raise DataError(f"{into} exists already; name a new file")
        (mark,) = next(iter(files.values()))[0].marks
        write_rows(Path(into), mark, sorted(rows))
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.sort_values(["metric", "chip", "t_inference"], ignore_index=True)


def _whole(path: Path) -> tuple[SweepFile, Share]:
    """Read the file of a shard; raise DataError if it lacks chips or times."""
    if not path.exists():
        raise DataError(f"{path}: no such file;", f"was this shard run with resume={str(path)!r}?")
    file = read_file(path)
    if file.share is None:
        raise DataError(
            f"{path}: not the file of a shard;", "sweep(shard=..., resume=...) writes one"
        )
    cells = {(row[0], row[2]) for row in file.rows}
    times = {t_s for _, t_s in cells}
    missing = [chip for chip in file.share.numbers if any((chip, t) not in cells for t in times)]
    if missing:
        raise DataError(
            f"{path}: shard {file.share} is not finished (chip {missing[0]} lacks times);",
            "run it again with the same file",
        )
    return file, file.share


def _check_one_sweep(files: dict[Path, tuple[SweepFile, Share]]) -> None:
    """Raise DataError if the files are not all shards of one sweep, each once."""
    (first, (one, share)), *others = files.items()
    for path, (other, of) in others:
        for what, of_one, of_other in (
            ("model, input ranges, preset or draw_on", one.marks, other.marks),
            ("number of shards", share.shards, of.shards),
            ("number of chips", share.chips, of.chips),
            ("seed", _seeds(one.rows), _seeds(other.rows)),
            ("times", sorted({r[2] for r in one.rows}), sorted({r[2] for r in other.rows})),
            ("metrics", sorted({r[3] for r in one.rows}), sorted({r[3] for r in other.rows})),
        ):
            if of_one != of_other:
                values = "" if isinstance(of_one, set) else f" ({of_one} and {of_other})"
                raise DataError(f"{first} and {path} are not of one sweep: another {what}{values}")
    if len(one.marks) > 1 or len(_seeds(one.rows)) > 1:
        raise DataError(f"{first}: rows of several sweeps;", "run the shards again")
    check_complete([(path, (of.shard, of.shards)) for path, (_, of) in files.items()], "file")


def check_once(paths: Sequence[Path], what: str) -> None:
    """Check that no place is named twice.

    Args:
        paths: The places that shards are in.
        what: What they are: "file" or "folder".

    Raises:
        DataError: If one is, even in another spelling.
    """
    known: set[Path] = set()
    for path in paths:
        place = path.resolve()
        if place in known:
            raise DataError(f"{path} is named twice; name the {what} of each shard once")
        known.add(place)


def check_complete(shards: Sequence[tuple[Path, tuple[int, int]]], what: str) -> None:
    """Check that all shards are there, each once.

    Args:
        shards: The place of each shard, its number and the number of shards, which is the same for
            all.
        what: What the places are: "file" or "folder".

    Raises:
        DataError: If a shard is missing or there twice.
    """
    by_number: dict[int, Path] = {}
    (_, (_, count)), *_ = shards
    for path, (number, _) in shards:
        if number in by_number:
            # a run.json can be a copy of another shard's, as the advice about a lost one has it
            more = ', or correct "shard" in a copied run.json' if what == "folder" else ""
            raise DataError(
                f"{by_number[number]} and {path} are both shard {number}/{count}; name one{more}"
            )
        by_number[number] = path
    missing = [number for number in range(1, count + 1) if number not in by_number]
    if missing:
        named = ", ".join(f"{number}/{count}" for number in missing[:10])
        more = "" if len(missing) <= 10 else f" and {len(missing) - 10} more"
        raise DataError(f"shards are missing: {named}{more}; run them, and name their {what}s")


def _seeds(rows: list[Row]) -> list[int]:
    """Return the seeds of the sweeps that rows are of: one, if nothing is wrong."""
    return sorted({seed - chip for chip, seed, *_ in rows})
