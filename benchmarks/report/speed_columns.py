"""Columns of docs/speed.md: committed records that were measured alike.

Records that were measured alike, compiled or not, on as many threads of a CPU or on the same GPU,
are one column. A column shows its first record, and takes from the others what that one lacks.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from benchmarks.report.record import Record, of_kind
from benchmarks.report.speed import Row, row_of
from benchmarks.report.speed_records import groups_of
from benchmarks.speed.groups import Group
from benchmarks.speed.targets import TARGETS, Target

WIDE = 0.1
"""A number is marked if a quartile is farther from the median than this share of it."""


@dataclass(frozen=True)
class Column:
    """Records that were measured alike.

    Attributes:
        where: The threads of the CPU, or the GPU.
        compiled: Whether native models were compiled.
        records: The records, with the one that is shown first.
    """

    where: str
    compiled: bool
    records: tuple[Record, ...]

    @property
    def name(self) -> str:
        """Return what tables call the column."""
        return f"{self.where}, {self.kind}"

    @property
    def kind(self) -> str:
        """Return "compiled" or "eager"."""
        return "compiled" if self.compiled else "eager"

    @property
    def on_gpu(self) -> bool:
        """Return whether the records are of a GPU."""
        return bool(self.records[0].arguments["device"] == "cuda")

    def groups(self, name: str) -> Iterator[tuple[Group, Record]]:
        """Yield a group of every record that measured it, and the record.

        Args:
            name: The name of the group.
        """
        for record in self.records:
            for group in groups_of(record):
                if group.name == name:
                    yield group, record

    def row(self, target: Target) -> tuple[Row, Record] | None:
        """Return the row of a target in the first record that has it, and the record.

        Args:
            target: The target.
        """
        for record in self.records:
            row = row_of(target, record)
            if row is not None:
                return row, record
        return None


@dataclass(frozen=True)
class Shown:
    """The records that the page shows.

    Attributes:
        columns: The columns: CPUs before GPUs, eager before compiled.
        growth: The records of cost against size.
    """

    columns: tuple[Column, ...]
    growth: tuple[Record, ...]

    @property
    def records(self) -> list[Record]:
        """Return all records in the order of their letters."""
        return [*(record for column in self.columns for record in column.records), *self.growth]

    def letter(self, record: Record) -> str:
        """Return the letter of a record, by which tables name it.

        Args:
            record: The record.
        """
        index = [other.name for other in self.records].index(record.name)
        more, last = divmod(index, len(string.ascii_uppercase))
        return string.ascii_uppercase[last] * (more + 1)

    def heading(self, column: Column) -> str:
        """Return the heading of a column, with the letter of its first record.

        Args:
            column: The column.
        """
        return f"{column.name} ({self.letter(column.records[0])})"

    def cell(self, text: str, row: Row, column: Column, record: Record) -> str:
        """Return a number with its marks.

        "~" says that the repeats differ (`WIDE`). A number that misses its target is bold. If the
        record is not the first one of the column, its letter follows.

        Args:
            text: The number.
            row: The row that it comes from.
            column: The column that it stands in.
            record: The record that it comes from.
        """
        middle = row["value"]
        if max(row["high"] - middle, middle - row["low"]) > WIDE * middle:
            text = f"~{text}"
        if row["verdict"] == "not met":
            text = f"**{text}**"
        return text if record is column.records[0] else f"{text} ({self.letter(record)})"


def shown(records: Iterable[Record] | None = None) -> Shown:
    """Sort records into columns; those of reduced sizes are left out.

    The first record of a column is the one that measured most groups, without settings of the
    allocator. Records with products in integers come before those without, which are older.

    Args:
        records: Records of kind "speed" and "growth"; None is all that are committed.
    """
    records = of_kind("speed", "growth") if records is None else records
    full = sorted((one for one in records if one.arguments["size"] == "full"), key=_preference)
    alike: dict[tuple[bool, str, bool], list[Record]] = {}
    for record in full:
        if record.kind == "speed":
            gpu = record.arguments["device"] == "cuda"
            where = f"{record.hardware['torch_threads']} threads"
            if gpu:
                where = str(record.hardware["gpu"])
            key = (gpu, where, bool(record.arguments["compiled"]))
            alike.setdefault(key, []).append(record)
    columns = [_column(*key[1:], alike[key]) for key in sorted(alike)]
    growth = [record for record in full if record.kind == "growth"]
    return Shown(tuple(column for column in columns if column.records), tuple(growth))


def _column(where: str, compiled: bool, records: list[Record]) -> Column:
    """Return a column without the records of which it shows nothing."""
    column = Column(where, compiled, tuple(records))
    used = [found[1].name for target in TARGETS if (found := column.row(target))]
    return replace(column, records=tuple(one for one in records if one.name in used))


def _preference(record: Record) -> tuple[bool, bool, int, str]:
    """Return the place of a record among those of its column, least first."""
    return (
        bool(record.hardware.get("allocator")),
        not record.extra.get("integers"),
        -len(groups_of(record)),
        record.name,
    )
