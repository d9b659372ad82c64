"""Groups: the sides of a work, measured together and alternated in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from aimc_bridge.errors import AimcError, UsageError
from benchmarks.speed import sides, targets
from benchmarks.speed.timing import Measured, Say, Side, alternate
from benchmarks.speed.works import Sizes, Work

TIMES = ("1s", "1h", "1d", "1y", "1min", "1w", "1month", "10y")
"""Times of sweeps; a sweep over n times takes the first n."""


@dataclass
class Setting:
    """The settings of a measurement.

    Attributes:
        sizes: The sizes of models and inputs.
        device: The device of models and inputs.
        aihwkit: Whether aihwkit and aihwkit-lightning are measured besides the native engine.
        goals: Sizes of whole studies that differ from `goals.SIZES`.
        times: Times of sweeps.
        say: Called with a line of text as the measurement goes on.
    """

    sizes: Sizes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    aihwkit: bool = True
    goals: dict[str, int] = field(default_factory=dict)
    times: tuple[str | float, ...] = TIMES
    say: Say = lambda text: None

    @property
    def on_gpu(self) -> bool:
        """Return whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def cpp(self) -> bool:
        """Return whether aihwkit's C++ tile is measured; its wheels have no CUDA."""
        return self.aihwkit and not self.on_gpu

    @property
    def draw_on(self) -> str:
        """Return where native chips are drawn; see `sides.draw_on`."""
        return sides.draw_on(self.device)


@dataclass
class Group:
    """The sides of a work with all their repeats.

    Attributes:
        name: The name of the group, such as "wrn-forward".
        work: What the work is, in words.
        unit: What the work consists of, in the plural: "images".
        size: Units of the whole work; sides of other sizes are scaled to it.
        sides: The measured sides.
        skipped: One line per missing side that says why it is missing.
        about: Other facts that the numbers depend on.
    """

    name: str
    work: str
    unit: str
    size: float
    sides: list[Measured]
    skipped: list[str] = field(default_factory=list)
    about: dict[str, Any] = field(default_factory=dict)

    def of(self, name: str) -> list[Measured]:
        """Return the runs of a side: one, or several of different sizes.

        Args:
            name: The name of the side.
        """
        return [side for side in self.sides if side.name == name]


class Collected:
    """The sides of a group; for a side that cannot be built, a line that says why.

    Attributes:
        found: The sides.
        skipped: The lines.
        say: Called with each line too.
    """

    def __init__(self, say: Say) -> None:
        """Start with no sides.

        Args:
            say: Called with a line of text for each side that is skipped.
        """
        self.found: list[Side] = []
        self.skipped: list[str] = []
        self.say = say

    def add(self, name: str, build: Callable[[], Iterable[Side] | Side | None]) -> None:
        """Build a side and add it, or note why it cannot be built.

        Errors of the native engine and of the digital model are raised: these must run.

        Args:
            name: The name of the side.
            build: Returns the side, several sides, or None for no side.
        """
        try:
            built = build()
        except (AimcError, RuntimeError, ImportError, AttributeError, TypeError) as problem:
            if name.startswith("native") or name == targets.DIGITAL:
                raise  # these two must run
            built = None
            text = " ".join(str(problem).split()) or type(problem).__name__
            self.skip(f"{name}: {text[:200]}")
        if isinstance(built, Side):
            self.found.append(built)
        elif built is not None:
            self.found += built

    def skip(self, line: str) -> None:
        """Note that a side is missing.

        Args:
            line: The name of the side, and why it is missing.
        """
        self.skipped.append(line)
        self.say(f"  skipped {line}")


CPP_LEFT_OUT = "nothing left out"
NO_CPP = f"{targets.CPP}: its wheels run on the CPU only"
NO_LIGHTNING = f"{targets.LIGHTNING}: not installed (docs/lightning.md)"


def scaled_from(n: int, work: Work) -> str:
    """Return the note of a side that runs a part of the work and is scaled to all of it.

    Args:
        n: Units of one run.
        work: The work.
    """
    return f"{n} of {work.size} {work.unit} a run, scaled"


def extrapolated_from(few: tuple[int, int], work: Work) -> str:
    """Return the note of a side that runs two small parts of the work.

    Args:
        few: Units of the two runs.
        work: The work.
    """
    return f"{few[0]} and {few[1]} of {work.size} {work.unit} a run, extrapolated along a line"


def done(
    name: str, work: str, unit: str, size: float, found: Collected, setting: Setting, **about: Any
) -> Group:
    """Measure the collected sides, alternated, as a group.

    Args:
        name: The name of the group.
        work: What the work is, in words.
        unit: What the work consists of.
        size: Units of the whole work.
        found: The collected sides.
        setting: How to measure.
        **about: Other facts that the numbers depend on.
    """
    measured = alternate(found.found, setting.sizes.rounds, setting.device, setting.say)
    return Group(name, work, unit, size, measured, found.skipped, about)


def chosen(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    """Return the names that at least one shell pattern matches, in their order.

    Args:
        patterns: Shell patterns.
        names: The names of all groups.

    Raises:
        UsageError: If a pattern matches no name.
    """
    from fnmatch import fnmatchcase

    names, patterns = list(names), list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(f"--only {pattern}: no such group; there are: {', '.join(names)}")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
