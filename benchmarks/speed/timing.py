"""Alternated repeats of several sides in one process, and where their time goes.

A round runs every side once; the side that begins changes from round to round. What slows the
machine for a while slows all sides of a round alike, so ratios are taken within rounds.
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

    run       does it once; this alone is timed
    size      how much of the whole work one run is, in units of the work (images, sentences)
    note      what is left out or reduced
    most      repeats at most, where one takes long; None: as many as the others
    warm      untimed runs first
    before    untimed preparation of every run
    memory    whether peak memory is worth a run of its own, and where the time goes another
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
    """A side's repeats: seconds by round, None where it sat out; peak bytes of one run; seconds by
    kind of operation of one on a CPU."""

    name: str
    size: float
    note: str = ""
    seconds: list[float | None] = field(default_factory=list)
    peak: int | None = None
    parts: dict[str, float] | None = None


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(
    run: Callable[[], object],
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Seconds that `run` takes."""
    synchronise(device)
    start = clock()
    run()
    synchronise(device)
    return clock() - start


@contextmanager
def _no_collector() -> Iterator[None]:
    """Collect garbage now, and none inside."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@contextmanager
def _frozen() -> Iterator[None]:
    """What is alive now is no garbage: collecting inside is quick."""
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
    """Warm up all sides, then run them in turns; then each is looked into by itself: peak memory
    and where the time goes."""
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
    """One line about a side."""
    seconds = [value for value in measured.seconds if value is not None]
    q1, median, q3 = quartiles(seconds)
    return f"{measured.name}: {median:.3g} s [{q1:.3g}, {q3:.3g}], {len(seconds)} repeats"


# --- where the time goes, by torch's profiler -----------------------------------------------------

PARTS = PRODUCTS, PASSES, OTHERS = ("products", "compiled passes", "other operations")

_PRODUCTS = ("conv", "linear", "addmm", "mm", "bmm", "baddbmm", "rnn")
_PASS = "## Call CompiledFxGraph"


def kind_of(operation: str) -> str | None:
    """What an event of the profiler belongs to; None for what is no operation of torch."""
    if operation.startswith(_PASS):
        return PASSES
    space, _, name = operation.partition("::")
    if space not in ("aten", "mkldnn", "mkl"):
        return None
    words = name.strip("_").split("_")
    return PRODUCTS if any(w.startswith(p) for w in words for p in _PRODUCTS) else OTHERS


def summed(events: Iterable[Any]) -> dict[str, float]:
    """Kind -> seconds inside these operations, not counting operations that they call."""
    sums = dict.fromkeys(PARTS, 0.0)
    for event in events:
        kind = kind_of(event.key)
        if kind is not None:
            sums[kind] += event.self_cpu_time_total * 1e-6
    return sums


def parts_of(run: Callable[[], object]) -> dict[str, float]:
    """Kind of operation -> seconds of one run."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities, acc_events=True) as profiler:
        run()
    return summed(profiler.key_averages())


# --- statistics -----------------------------------------------------------------------------------


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median, third quartile, interpolated linearly between order statistics."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def at_size(parts: Sequence[Measured], size: float) -> list[float | None]:
    """Seconds of the whole work by round, from runs of one or two sizes.

    One size: in proportion. Two: a straight line through both, so that what a run costs whatever
    its size is counted once. Noise must not turn the line downwards: then the larger run counts.
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
    """side / base within every round in which both ran."""
    pairs = zip(side, base, strict=True)
    return [a / b for a, b in pairs if a is not None and b is not None]
