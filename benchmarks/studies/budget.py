"""The budget of a cross-check: how much wall time each of its reports needs and gets."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import read_text, write_text


@dataclass
class Budget:
    """The wall time of a cross-check in seconds, and the share of each report.

    Attributes:
        total_s: The whole budget.
        smallest_s: Report -> the least time that it needs, in the order of the reports.
        spent_s: The time that is spent: first for predicting, then for the finished reports.
        shares_s: Report -> the time that it got. A report that is resumed keeps its share.
    """

    total_s: float
    smallest_s: dict[str, float] = field(default_factory=dict)
    spent_s: float = 0.0
    shares_s: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a budget that is too small for one cell per report.

        Raises:
            UsageError: If it is too small; the error names the smallest budget that is enough.
        """
        needed = self.spent_s + sum(self.smallest_s[name] for name in self._waiting())
        if self.total_s < needed:
            dearest = max(self.smallest_s, key=lambda name: self.smallest_s[name])
            raise UsageError(
                f"--budget {as_option(self.total_s)} is too small for one cell of each of "
                f"{len(self.smallest_s)} reports (most for {dearest}: "
                f"{as_option(self.smallest_s[dearest])}; predicting: {as_option(self.spent_s)}); "
                f"give --budget {as_option(needed)} or more, or fewer presets, tasks or levels"
            )

    def share(self, name: str) -> float:
        """Return the time of a report: what it needs, and an equal part of the rest.

        Args:
            name: The report.

        Returns:
            Seconds; they are noted in `shares_s`.
        """
        if name not in self.shares_s:
            waiting = self._waiting()
            spare = self.total_s - self.spent_s - sum(self.smallest_s[report] for report in waiting)
            self.shares_s[name] = self.smallest_s[name] + max(0.0, spare) / len(waiting)
        return self.shares_s[name]

    def _waiting(self) -> list[str]:
        """Return the reports that have no share yet."""
        return [name for name in self.smallest_s if name not in self.shares_s]

    def write(self, file: Path) -> None:
        """Write the budget as JSON, for a cross-check that is resumed.

        The total is not written: it may change from one run to the next.

        Args:
            file: The file; its folder is made if it does not exist.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {name: value for name, value in vars(self).items() if name != "total_s"}
        write_text(file, json.dumps(values, indent=1) + "\n")

    @staticmethod
    def read(file: Path, total_s: float) -> Budget:
        """Read the budget that an interrupted cross-check wrote.

        Args:
            file: The file.
            total_s: The whole budget now, in seconds.

        Raises:
            CheckpointError: If the file is damaged.
        """
        try:
            values = json.loads(read_text(file))
            return Budget(total_s, values["smallest_s"], values["spent_s"], values["shares_s"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error!r}); remove it to predict the budget again"
            ) from None


def as_option(seconds: float) -> str:
    """Write a time as the option --budget takes it, rounded up to whole seconds or minutes.

    Args:
        seconds: The time.
    """
    return f"{math.ceil(seconds / 60)}m" if seconds >= 120 else f"{math.ceil(seconds)}s"
