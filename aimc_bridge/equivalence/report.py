"""What a cross-check found, as a table."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aimc_bridge.equivalence.statistics import Test, verdicts
from aimc_bridge.errors import UsageError

Cell = tuple[str, str, float]
"""(cell, quantity, t_inference in seconds; NaN where no time applies)."""


@dataclass(frozen=True)
class Report:
    """`table`: level, cell, quantity, t_inference, native, aihwkit, difference, low, high, margin,
    p, power, verdict."""

    table: pd.DataFrame

    @staticmethod
    def of(level: str, cells: list[tuple[Cell, Test]]) -> Report:
        """Verdicts over one family of cells. Raises: UsageError where there is none."""
        if not cells:
            raise UsageError("nothing to compare; give at least one target and one time")
        judged = zip(cells, verdicts([test for _, test in cells]), strict=True)
        return Report(
            pd.DataFrame(
                [
                    {
                        "level": level,
                        "cell": cell,
                        "quantity": quantity,
                        "t_inference": t_s,
                        "native": test.first,
                        "aihwkit": test.second,
                        "difference": test.difference,
                        "low": test.low,
                        "high": test.high,
                        "margin": test.margin,
                        "p": test.p,
                        "power": test.power,
                        "verdict": verdict,
                    }
                    for ((cell, quantity, t_s), test), verdict in judged
                ]
            )
        )

    @property
    def passed(self) -> bool:
        """Every row equivalent within its margin."""
        return bool((self.table["verdict"] == "equivalent").all())

    @property
    def different(self) -> pd.DataFrame:
        """The rows whose margin is broken."""
        return self.table[self.table["verdict"] == "different"]

    def summary(self) -> str:
        """Markdown: verdicts by quantity, then every row that is not equivalent."""
        counts = self.table.groupby("quantity")["verdict"].value_counts().unstack(fill_value=0)
        lines = ["# Cross-check", "", "| quantity | " + " | ".join(counts.columns) + " |"]
        lines.append("| --- |" + " --- |" * len(counts.columns))
        for name, row in counts.iterrows():
            lines.append(f"| {name} | " + " | ".join(str(n) for n in row) + " |")
        others = self.table[self.table["verdict"] != "equivalent"]
        if len(others):
            lines += ["", "| cell | quantity | t (s) | difference | interval | margin | verdict |"]
            lines.append("| --- | --- | --- | --- | --- | --- | --- |")
        for one in others.itertuples():
            lines.append(
                f"| {one.cell} | {one.quantity} | {one.t_inference:g} | {one.difference:.4g} "
                f"| {one.low:.4g} .. {one.high:.4g} | {one.margin:.4g} | {one.verdict} |"
            )
        return "\n".join(lines) + "\n"

    def save(self, folder: Path) -> None:
        """Write crosscheck.csv and summary.md."""
        folder.mkdir(parents=True, exist_ok=True)
        self.table.to_csv(folder / "crosscheck.csv", index=False)
        (folder / "summary.md").write_text(self.summary(), encoding="utf-8")
