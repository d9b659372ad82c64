"""The result of a cross-check: rows, verdicts, summary."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from aimc_bridge.arguments import path as path_of
from aimc_bridge.csv_cells import as_csv
from aimc_bridge.equivalence.figures import draw
from aimc_bridge.equivalence.statistics import Test, verdicts
from aimc_bridge.errors import UsageError
from aimc_bridge.files import write_text
from aimc_bridge.markdown import markdown_table
from aimc_bridge.times import label

LEVELS = ("device", "layer", "task")
_LISTED = 100  # rows that a summary lists at most
QUANTILES = ["cell", "quantity", "t_inference", "share", "first", "second"]


@dataclass(frozen=True)
class Row:
    """One comparison, before its verdict.

    Attributes:
        level: One of `LEVELS`.
        cell: What is compared: a target, a layer, a model.
        quantity: What is compared of it.
        t_inference: Seconds after programming; NaN if no time applies.
        test: The test of the two values.
        reference: What the second side is: aihwkit itself, a closed form, another preset.
    """

    level: str
    cell: str
    quantity: str
    t_inference: float
    test: Test
    reference: str = "aihwkit"

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Row:
        """Build a row from what `to_dict` returned."""
        test = dict(data["test"])
        test["sizes"] = tuple(test["sizes"])
        return Row(**{**data, "test": Test(**test)})


@dataclass
class Findings:
    """The results of one part of a cross-check.

    Attributes:
        rows: The comparisons.
        quantiles: Rows of quantiles for figures, with the columns `QUANTILES`.
        notes: Lines for the summary.
    """

    rows: list[Row] = field(default_factory=list)
    quantiles: list[list[Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        rows = [row.to_dict() for row in self.rows]
        return {"rows": rows, "quantiles": self.quantiles, "notes": self.notes}

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Findings:
        """Build findings from what `to_dict` returned."""
        rows = [Row.from_dict(row) for row in data["rows"]]
        return Findings(rows, data["quantiles"], data["notes"])


@dataclass(frozen=True)
class Report:
    """The result of a cross-check.

    Attributes:
        table: One row per comparison, with the columns level, cell, quantity, t_inference, first,
            second, difference, interval, low, high, margin, p, p_different, power, verdict and
            reference. The interval is a 90 % one (two one-sided tests at 5 %). The p values and the
            power are those of the verdict, corrected for the family: the rows of one level.
        sides: Names of the two sides, whose values are in the columns "first" and "second".
        notes: What was chosen, what was left out, and what one should know.
        causes: If two presets were compared, the fields in which they differ: part, field, and one
            column per preset.
        quantiles: Quantiles of some cells, for figures.
    """

    table: pd.DataFrame
    sides: tuple[str, str] = ("native", "aihwkit")
    notes: tuple[str, ...] = ()
    causes: pd.DataFrame | None = None
    quantiles: pd.DataFrame | None = None

    @staticmethod
    def of(
        parts: Iterable[Findings],
        sides: tuple[str, str] = ("native", "aihwkit"),
        notes: Sequence[str] = (),
        causes: pd.DataFrame | None = None,
    ) -> Report:
        """Judge the rows of all parts; each level is a family.

        Args:
            parts: What was found.
            sides: Names of the two sides.
            notes: Lines for the summary; those of the parts follow them.
            causes: In what two presets differ.

        Raises:
            UsageError: If there is no row.
        """
        parts = list(parts)
        rows = [row for part in parts for row in part.rows]
        if not rows:
            raise UsageError("nothing to compare; give at least one target and one time")
        lines: list[dict[str, Any]] = []
        for level in dict.fromkeys(row.level for row in rows):
            family = [row for row in rows if row.level == level]
            judged = verdicts([row.test for row in family])
            for row, verdict in zip(family, judged, strict=True):
                test = row.test
                lines.append(
                    {
                        "level": level,
                        "cell": row.cell,
                        "quantity": row.quantity,
                        "t_inference": row.t_inference,
                        "first": test.first,
                        "second": test.second,
                        "difference": test.difference,
                        "interval": (test.low, test.high),
                        "low": test.low,
                        "high": test.high,
                        "margin": test.margin,
                        "p": verdict.p,
                        "p_different": verdict.p_different,
                        "power": verdict.power,
                        "verdict": verdict.word,
                        "reference": row.reference,
                    }
                )
        quantiles = pd.DataFrame([q for p in parts for q in p.quantiles], columns=QUANTILES)
        all_notes = (*notes, *(note for part in parts for note in part.notes))
        return Report(pd.DataFrame(lines), sides, all_notes, causes, quantiles)

    @property
    def passed(self) -> bool:
        """True if every row is equivalent within its margin."""
        return bool((self.table["verdict"] == "equivalent").all())

    @property
    def different(self) -> pd.DataFrame:
        """The rows whose margin is broken."""
        return self.table[self.table["verdict"] == "different"]

    def counts(self) -> pd.DataFrame:
        """Count the rows: one line per level and quantity, one column per verdict."""
        words = ["equivalent", "different", "undecided"]
        counts = self.table.groupby(["level", "quantity"], sort=False)["verdict"].value_counts()
        return counts.unstack(fill_value=0).reindex(columns=words, fill_value=0)

    def summary(self) -> str:
        """Write the report as Markdown.

        Returns:
            What was done, the verdicts by level and quantity, the rows that are not equivalent
            (at most 100), and in what two presets differ.
        """
        first, second = self.sides
        blocks = [f"# Cross-check\n\n{first} against {second}."]
        if self.notes:
            blocks.append("\n".join(f"- {note}" for note in self.notes))
        counts = self.counts()
        blocks.append(
            markdown_table(
                ["level", "quantity", *counts.columns],
                (
                    [*index, *numbers]
                    for index, numbers in zip(counts.index, counts.to_numpy().tolist(), strict=True)
                ),
            )
        )
        others = self.table[self.table["verdict"] != "equivalent"].sort_values(
            "verdict", kind="stable"
        )  # "different" before "undecided"
        if len(others):
            columns = ["cell", "quantity", "time", first, second, "difference", "interval"]
            columns += ["margin", "power", "verdict"]
            blocks.append(
                markdown_table(columns, map(_summary_row, others.head(_LISTED).itertuples()))
            )
        if len(others) > _LISTED:
            blocks.append(f"{len(others) - _LISTED} more such rows are in crosscheck.csv.")
        if self.causes is not None and len(self.causes):
            blocks.append("What differs in the presets:")
            blocks.append(markdown_table(self.causes.columns, self.causes.to_numpy().tolist()))
        return "\n\n".join(blocks) + "\n"

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write crosscheck.csv, summary.md and figures/*.png.

        Args:
            folder: Where they go; it is made if it does not exist.
        """
        folder = path_of("folder", folder)
        folder.mkdir(parents=True, exist_ok=True)
        flat = self.table.drop(columns="interval")
        write_text(folder / "crosscheck.csv", as_csv(flat))
        write_text(folder / "summary.md", self.summary())
        draw(self.table, self.quantiles, self.sides, folder / "figures")


def _summary_row(row: Any) -> list[str]:
    """Return the cells of the summary for a row of the table, a named tuple."""
    return [
        row.cell,
        row.quantity,
        "" if math.isnan(row.t_inference) else label(row.t_inference),
        f"{row.first:.4g}",
        f"{row.second:.4g}",
        f"{row.difference:.4g}",
        f"{row.low:.4g} .. {row.high:.4g}",
        f"{row.margin:.4g}",
        f"{row.power:.2f}",
        row.verdict,
    ]
