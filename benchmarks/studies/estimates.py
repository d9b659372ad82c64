"""Predict times from earlier work on this machine, or from those of another machine.

The cost of a kind of work is seconds per unit: per mini-batch of a training, per sample that a chip
is measured on. Every finished step notes it in a file in the cache folder (AIMC_BRIDGE_TIMINGS
names another file; an empty name notes nothing). For work that was never done here, timings.json of
this folder has the costs of one machine; a short test of this one says how much faster or slower
it is.

Other programs can only make work slower. So the fastest of the earlier times counts, and as long as
there are few of them, the scaled cost of the other machine if that is lower: the few may be of a
busy moment. How busy the machine is now shows as soon as the first step is done: `Steps.left_s`
multiplies what is left by what the finished steps took over their predictions.
"""

from __future__ import annotations

import functools
import json
import math
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from aimc_bridge.errors import DataError
from aimc_bridge.files import write_text
from benchmarks.machine import hardware
from benchmarks.tasks.data import cache_dir

VARIABLE = "AIMC_BRIDGE_TIMINGS"
REFERENCE = Path(__file__).with_name("timings.json")
KEPT = 5
"""Times of a kind of work that are kept; the shortest counts."""
FEW = 3
"""With fewer times than this, a lower cost of the other machine counts."""
SHORTEST_S = 2.0
"""Shorter work is not noted: it says more about the start of a program than about the work."""


@dataclass(frozen=True)
class Estimate:
    """A prediction of seconds.

    Attributes:
        seconds: The seconds of the work whose cost is known.
        here: Whether all of it is known from earlier work on this machine.
        unknown: What has no estimate, in words.
    """

    seconds: float
    here: bool
    unknown: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data, and the text."""
        return {**asdict(self), "text": self.text()}

    def text(self) -> str:
        """Return the estimate and how sure it is, such as "about 4 min (...)"."""
        if self.unknown and not self.seconds:
            return "time: not known, because nothing like it was timed before"
        sure = (
            "the fastest of earlier runs on this machine; a busy machine takes longer"
            if self.here
            else "scaled from another machine by a short test; a busy machine takes longer"
        )
        if not self.unknown:
            return f"time: about {duration(self.seconds)} ({sure})"
        first, more = self.unknown[0], len(self.unknown) - 1
        others = f", and {more} more" if more else ""
        return f"time: {duration(self.seconds)} or more ({sure}; never timed: {first}{others})"


def duration(seconds: float) -> str:
    """Write a length of time as people say it: "40 s", "4 min", "2 h 10 min".

    Args:
        seconds: The length.
    """
    if seconds < 90:
        return f"{max(1, 5 * round(seconds / 5) if seconds > 10 else round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    hours, minutes = divmod(5 * round(minutes / 5), 60)
    return f"{hours} h {minutes} min" if minutes and hours < 10 else f"{hours} h"


class Costs:
    """Seconds per unit of kinds of work.

    Attributes:
        path: The file with the times of this machine; None if none is kept.
        here: Kind -> seconds per unit of earlier work on this machine.
        elsewhere: The same of the machine of `REFERENCE`.
    """

    def __init__(self, path: Path | None) -> None:
        """Read the file, as far as it can be read: an estimate is not worth an error.

        Args:
            path: The file with the times of this machine; None reads and writes none.
        """
        self.path = path
        self.here = _read(path).get(_machine(), {}) if path is not None else {}
        reference = _plain(REFERENCE)
        self.elsewhere: Mapping[str, Any] = reference.get("costs", {})
        self._test_s = float(reference.get("test_s", math.nan))

    def seconds(self, kind: str, units: float) -> tuple[float, bool] | None:
        """Predict the seconds of some work.

        Args:
            kind: The kind of work.
            units: How much of it.

        Returns:
            The seconds, and whether they are from this machine; None if the kind is not known.
        """
        times = self.here.get(kind, [])
        here = min(times, default=math.inf)
        if len(times) < FEW and kind in self.elsewhere and self._test_s > 0:
            scaled = float(self.elsewhere[kind]) * test_s() / self._test_s
            if scaled < here:
                return scaled * units, False
        return (here * units, True) if times else None

    def note(self, kind: str, units: float, seconds: float) -> None:
        """Note how long some work took.

        Args:
            kind: The kind of work.
            units: How much of it.
            seconds: Its seconds.
        """
        if self.path is None or units <= 0 or seconds < SHORTEST_S:
            return
        try:
            known = _read(self.path)  # another process may have written it
            mine = known.setdefault(_machine(), {})
            mine[kind] = [*mine.get(kind, []), seconds / units][-KEPT:]
            self.here = mine
            write_text(self.path, json.dumps(known, indent=1) + "\n")
        except OSError:  # a full disk, a folder without write permission
            self.path = None


def costs() -> Costs:
    """Return the costs that this machine's file and the reference hold."""
    named = os.environ.get(VARIABLE)
    if named is not None:
        return Costs(Path(named) if named else None)
    try:
        return Costs(cache_dir() / "timings.json")
    except DataError:
        return Costs(None)


def total(parts: Iterable[tuple[str, tuple[float, bool] | None]]) -> Estimate:
    """Add the predictions of several parts.

    Args:
        parts: What each part is, and its prediction from `Costs.seconds`.
    """
    listed = list(parts)
    known = [cost for _, cost in listed if cost is not None]
    unknown = dict.fromkeys(what for what, cost in listed if cost is None)
    return Estimate(
        math.fsum(seconds for seconds, _ in known), all(here for _, here in known), tuple(unknown)
    )


@functools.cache
def test_s() -> float:
    """Return the seconds of a fixed piece of work on one thread: how fast this machine is.

    They are seconds of this thread alone: while other programs run, no time passes.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 64, generator=generator)
    weight = torch.randn(64, 64, generator=generator) / 8
    threads = torch.get_num_threads()
    best = math.inf
    torch.set_num_threads(1)
    try:
        for _ in range(5):  # the best of five: the caches are another program's at first
            began = time.thread_time()
            for _ in range(100):
                x = torch.tanh(x @ weight + 0.01)
            best = min(best, time.thread_time() - began)
    finally:
        torch.set_num_threads(threads)
    return best


@functools.cache
def _machine() -> str:
    """Return the name of this kind of machine."""
    known = hardware()
    return f"{known['cpu']}, {known['cores']} cores, {known['gpu'] or 'no GPU'}"


def _read(path: Path) -> dict[str, dict[str, list[float]]]:
    """Return machine -> kind -> times, from a file that may be missing or damaged."""
    data = _plain(path)
    return {
        str(machine): {
            str(kind): [float(t) for t in times if isinstance(t, int | float) and t >= 0]
            for kind, times in kinds.items()
            if isinstance(times, list)
        }
        for machine, kinds in data.items()
        if isinstance(kinds, dict)
    }


def _plain(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
