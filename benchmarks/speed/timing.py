"""Alternated repeats of several sides in one process, and where their time goes.

A round runs every side once; each round begins with another side. If something slows the machine
for a while, it slows all sides of a round alike, so ratios are taken within rounds.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.speed.memory import peak_bytes

Say = Callable[[str], None]


@dataclass
class Side:
    """One way to do a work.

    Attributes:
        name: The name of the side.
        run: Does the work once; only this is timed.
        size: How much of the whole work one run is, in units of the work (images, sentences).
        note: What is left out or reduced.
        most: The largest number of repeats, for a side that takes long; None is as many as the
            others.
        warm: Untimed runs before the first round.
        before: Untimed preparation of every run.
        memory: Whether one more run each is made to measure peak memory and where the time goes.
    """

    name: str
    run: Callable[[], object]
    size: float = 1.0
    note: str = ""
    most: int | None = None
    warm: int = 1
    before: Callable[[], object] | None = None
    memory: bool = True


@dataclass
class Measured:
    """The repeats of a side.

    Attributes:
        name: The name of the side.
        size: How much of the whole work one run is.
        note: What is left out or reduced.
        seconds: Seconds by round; None for rounds that it sat out.
        peak: Peak bytes of one run; None if not measured.
        parts: Seconds of one run on a CPU by kind of operation; None if not measured.
    """

    name: str
    size: float
    note: str = ""
    seconds: list[float | None] = field(default_factory=list)
    peak: int | None = None
    parts: dict[str, float] | None = None


def synchronise(device: torch.device) -> None:
    """Wait until a device has done all work that it was given.

    Args:
        device: The device.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    run: Callable[[], object],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the seconds that a work takes.

    Args:
        run: The work.
        device: The device that it runs on.
        clock: Returns the time in seconds.
    """
    synchronise(device)
    start = clock()
    run()
    synchronise(device)
    return clock() - start


@contextmanager
def _no_collector() -> Iterator[None]:
    """Collect garbage now, and switch the collector off inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _frozen() -> Iterator[None]:
    """Exclude all objects that are alive now from garbage collection inside.

    This makes collections inside quick.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def alternate(
    sides: Sequence[Side],
    rounds: int,
    device: torch.device,
    say: Say = lambda text: None,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Measured]:
    """Warm up all sides, then run them in turns.

    After that each side runs by itself, to measure its peak memory and where its time goes.

    Args:
        sides: The sides.
        rounds: How many times each side is timed.
        device: The device that they run on.
        say: Called with a line of text per side.
        clock: Returns the time in seconds.

    Returns:
        The measured sides, in the same order.
    """
    results = [Measured(side.name, side.size, side.note) for side in sides]
    for side in sides:
        for _ in range(side.warm):
            if side.before is not None:
                side.before()
            side.run()
    with _frozen():
        _rounds(sides, results, rounds, device, clock)
    for side, measured in zip(sides, results, strict=True):
        if side.memory:
            if side.before is not None:
                side.before()
            measured.peak = peak_bytes(side.run, device)
            if device.type == "cpu":
                if side.before is not None:
                    side.before()
                measured.parts = parts_of(side.run)
        say(f"  {said(measured)}")
    return results


def _rounds(
    sides: Sequence[Side],
    results: Sequence[Measured],
    rounds: int,
    device: torch.device,
    clock: Callable[[], float],
) -> None:
    for index in range(rounds):
        order = [(index + i) % len(sides) for i in range(len(sides))]
        with _no_collector():
            for at in order:
                side = sides[at]
                if side.most is not None and index >= side.most:
                    results[at].seconds.append(None)
                    continue
                if side.before is not None:
                    side.before()
                results[at].seconds.append(timed(side.run, device, clock))


def said(measured: Measured) -> str:
    """Return one line of text about a measured side.

    Args:
        measured: The side.
    """
    seconds = [value for value in measured.seconds if value is not None]
    q1, median, q3 = quartiles(seconds)
    return f"{measured.name}: {median:.3g} s [{q1:.3g}, {q3:.3g}], {len(seconds)} repeats"


# --- where the time goes, by torch's profiler -----------------------------------------------------

PARTS = PRODUCTS, PASSES, OTHERS = ("products", "compiled passes", "other operations")

_PRODUCTS = ("conv", "qconv", "linear", "qlinear", "addmm", "mm", "bmm", "baddbmm", "rnn")
_PASS = "## Call CompiledFxGraph"


def kind_of(operation: str) -> str | None:
    """Return the kind of operation that an event of the profiler belongs to.

    Args:
        operation: The name of the event.

    Returns:
        One of PARTS; None if it is no operation of torch.
    """
    if operation.startswith(_PASS):
        return PASSES
    space, _, name = operation.partition("::")
    if space not in ("aten", "mkldnn", "mkl", "onednn"):
        return None
    words = name.strip("_").split("_")
    return PRODUCTS if any(w.startswith(p) for w in words for p in _PRODUCTS) else OTHERS


def summed(events: Iterable[Any]) -> dict[str, float]:
    """Add up the seconds of the profiler's events by kind of operation.

    Each operation counts without the operations that it calls.

    Args:
        events: Averages of the profiler.

    Returns:
        Kind -> seconds.
    """
    sums = dict.fromkeys(PARTS, 0.0)
    for event in events:
        kind = kind_of(event.key)
        if kind is not None:
            sums[kind] += event.self_cpu_time_total * 1e-6
    return sums


def parts_of(run: Callable[[], object]) -> dict[str, float]:
    """Run a work once under torch's profiler.

    Args:
        run: The work.

    Returns:
        Kind of operation -> seconds.
    """
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        run()
    return summed(profiler.key_averages())


# --- statistics -----------------------------------------------------------------------------------


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the first quartile, the median and the third quartile.

    They are interpolated linearly between order statistics.

    Args:
        values: One or more numbers.
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def at_size(parts: Sequence[Measured], size: float) -> list[float | None]:
    """Return the seconds of the whole work by round, from runs of one or two sizes.

    Runs of one size are scaled in proportion. Through runs of two sizes goes a straight line, so
    that the fixed cost of a run is counted once. If noise turns the line downwards, it is taken as
    level: the larger run counts.

    Args:
        parts: The side, measured at one or two sizes.
        size: Units of the whole work.

    Returns:
        Seconds by round; None if a run of the round is missing.
    """
    if len(parts) == 1:
        (part,) = parts
        return [None if s is None else s * (size / part.size) for s in part.seconds]
    small, large = sorted(parts, key=lambda part: part.size)
    seconds: list[float | None] = []
    for a, b in zip(small.seconds, large.seconds, strict=True):
        if a is None or b is None:
            seconds.append(None)
        else:
            slope = max(0.0, (b - a) / (large.size - small.size))
            seconds.append(b + slope * (size - large.size))
    return seconds


def ratios(side: Sequence[float | None], base: Sequence[float | None]) -> list[float]:
    """Return side / base within every round in which both ran.

    Args:
        side: Seconds by round.
        base: Seconds by round.
    """
    pairs = zip(side, base, strict=True)
    return [a / b for a, b in pairs if a is not None and b is not None]
