"""The wall time of a cross-check of several reports: what each needs, and what each gets."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from aimc_bridge.errors import CheckpointError, UsageError
from aimc_bridge.files import write_text


@dataclass
class Budget:
    """Wall time of a cross-check, and which part of it each report gets.

    Attributes:
        total_s: All of it.
        smallest_s: Seconds that each report needs at least, by its name, in order.
        spent_s: Seconds that are spent: predicting first, then the reports that are done.
        shares_s: Seconds that reports got, by name. A report that is resumed keeps its share.
    """

    total_s: float
    smallest_s: dict[str, float] = field(default_factory=dict)
    spent_s: float = 0.0
    shares_s: dict[str, float] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse a budget that is too small for one cell per report.

        Raises:
            UsageError: If it is; it names the smallest budget that would do.
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
        """Return the seconds of a report: what it needs, and an even part of what is left over."""
        if name not in self.shares_s:
            waiting = self._waiting()
            spare = self.total_s - self.spent_s - sum(self.smallest_s[report] for report in waiting)
            self.shares_s[name] = self.smallest_s[name] + max(0.0, spare) / len(waiting)
        return self.shares_s[name]

    def _waiting(self) -> list[str]:
        """Return the reports that have no share yet."""
        return [name for name in self.smallest_s if name not in self.shares_s]

    def write(self, file: Path) -> None:
        """Note it for a resumed cross-check."""
        file.parent.mkdir(parents=True, exist_ok=True)
        values = {name: value for name, value in vars(self).items() if name != "total_s"}
        write_text(file, json.dumps(values, indent=1) + "\n")

    @staticmethod
    def read(file: Path, total_s: float) -> Budget:
        """Return the budget that an interrupted cross-check noted.

        Raises:
            CheckpointError: If the file is damaged.
        """
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            return Budget(total_s, values["smallest_s"], values["spent_s"], values["shares_s"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{file} is damaged ({error!r}); remove it to predict the budget again"
            ) from None


def as_option(seconds: float) -> str:
    """Return whole seconds or minutes, rounded up, as --budget takes them."""
    return f"{math.ceil(seconds / 60)}m" if seconds >= 120 else f"{math.ceil(seconds)}s"
