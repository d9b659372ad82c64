"""A difference between two phases in numbers and words: its sign, its size and its interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from benchmarks.report.intervals import ends

SMALL = 0.01
"""A difference whose whole interval is closer to 0 than this (one point) is called none."""

Sign = Literal["worse", "better", "none", "unsure", "unknown"]


@dataclass(frozen=True)
class Effect:
    """A difference between the errors of two phases on the same samples.

    Attributes:
        mean: The difference, a share of 1; above 0 is worse.
        low: The lower end of its 95 % interval; NaN if there is none.
        high: The upper end.
        over: What the interval covers, such as "chips, samples".
        equal: Which units agree, so that there is no interval, such as "the chips agree";
            "" if there is an interval, or if there are too few units for one.
    """

    mean: float
    low: float
    high: float
    over: str
    equal: str = ""

    @property
    def sign(self) -> Sign:
        """The conclusion of the interval: the sign of the difference, or that it is open."""
        if self._ends(1.0) is None:
            return "unknown"
        if self.low > 0:
            return "worse"
        if self.high < 0:
            return "better"
        return "none" if max(-self.low, self.high) <= SMALL else "unsure"

    def points(self) -> str:
        """Return the size of the difference in points, such as "26.0 points"."""
        low, _ = self._ends(1.0) or ("0.0", "")
        digits = len(low.partition(".")[2])  # as many as its interval has
        return f"{abs(100 * self.mean):.{digits}f} points"

    def interval(self, more: float) -> str:
        """Return the interval in points.

        Args:
            more: 1.0 counts what gets worse as positive, -1.0 what gets better.
        """
        low, high = self._ends(more) or ("?", "?")
        if min(more * self.low, more * self.high) > 0:  # the sentence says that both are losses
            low, high = low[1:], high[1:]
        return f"{low} to {high}"

    def _ends(self, more: float) -> tuple[str, str] | None:
        """Return the ends of the interval in points, the lower one first; None without one."""
        low, high = sorted((100 * more * self.low + 0.0, 100 * more * self.high + 0.0))  # no -0.0
        digits = 2 if high - low < 1 else 1
        return ends(low, high, lambda end, count: f"{end:+.{count}f}", digits)

    def agreement(self) -> str:
        """Return in words that units agree, so that nothing follows; "" if they do not."""
        if not self.equal:
            return ""
        return f"{self.equal}, so there is no spread to judge it by"

    def covered(self) -> str:
        """Return what the interval covers, in words: "chips and test samples"."""
        names = ["test samples" if name == "samples" else name for name in self.over.split(", ")]
        if len(names) == 1:
            return f"{names[0]} alone"
        return f"{', '.join(names[:-1])} and {names[-1]}"
