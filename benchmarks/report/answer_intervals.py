"""Intervals of A* and of changes of the error, from files of right and wrong answers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks.report.answers import Files, Kept, read
from benchmarks.report.intervals import Interval, crossed_difference, crossed_interval

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.report.answers import Bits

    _TableOf = Callable[[Bits, Bits], tuple[NDArray[np.float64], float] | None]


# Answers are bits, and their means exact to float64: `curves.ROUNDING`, of float32, is too much.
# Variances that cancel leave the root of float64's rounding: 1e-8 of the least half width was seen.
# The least true width, of 25 chips and 245,000 samples, is 9e-5 of it.
_ROUNDING = 1e-5


class _Table(NamedTuple):
    """The answers of one phase at one time, as numbers.

    Attributes:
        values: One value per unit (chip, or training) and sample, shape (units, samples).
        seeds: The seeds of the chips of each training. Two tables are paired if theirs are the
            same.
        answer: How far one other answer of a unit moves a value.
    """

    values: NDArray[np.float64]
    seeds: list[tuple[int, ...]]
    answer: float

    @property
    def several(self) -> bool:
        """Whether each unit is a training; if not, each is a chip."""
        return len(self.seeds) > 1

    def interval(self) -> Interval:
        """Return the interval of the mean, see `widened`."""
        return self._widened(crossed_interval(self.values), self.values, self.answer)

    def minus(self, base: _Table) -> Interval | None:
        """Return the interval of the difference of the means, or None if there is none.

        The same chips are compared one by one. Several trainings and a single one have units of
        their own: trainings, and chips. Others cannot be compared.

        Args:
            base: What is subtracted.
        """
        answer = max(self.answer, base.answer)
        if self.seeds == base.seeds and self.values.shape == base.values.shape:
            change = self.values - base.values
            return self._widened(crossed_interval(change), change, answer)
        if self.several != base.several and self.values.shape[1] == base.values.shape[1]:
            change = self.values.mean(0) - base.values.mean(0)
            return self._widened(crossed_difference(self.values, base.values), change, answer)
        return None

    def _widened(self, interval: Interval, values: NDArray[np.float64], answer: float) -> Interval:
        least = answer * least_half_width(self.values.shape[1])
        return widened(interval, least, same=bool((values == values.flat[0]).all()))


def table_of_stars(digital: Bits, chips: Bits, chance: float) -> NDArray[np.float64]:
    """Return the share of each sample in A* of each chip; the mean over samples is A* itself.

    A* = 1 - (err - err_digital) / (err_chance - err_digital) is a ratio of means: the shares are
    its first-order expansion, so their variance is that of A*, with the digital model's error on
    the same samples among it.

    Args:
        digital: Whether the digital model was right, shape (n,).
        chips: Whether each chip was right, shape (chips, n).
        chance: The error of guessing, in [0, 1].

    Returns:
        The shares, shape (chips, n).
    """
    wrong = (~digital).astype(float)
    room = chance - wrong.mean()
    lost = (~chips).astype(float) - wrong  # paired with the digital model, sample by sample
    mean = lost.mean(-1, keepdims=True)
    shares: NDArray[np.float64] = (
        1.0 - lost / room - mean * (wrong - wrong.mean())[None, :] / room**2
    )
    return shares


def intervals(
    trainings: Sequence[Files], times: Iterable[float], chance: float, *, own_digital: bool
) -> list[dict[str, Any]]:
    """Return A* of each phase, and its differences between phases, with their intervals.

    Args:
        trainings: The files of each training.
        times: Seconds after programming.
        chance: The error of guessing, in [0, 1].
        own_digital: Whether each training has a digital model of its own.

    Returns:
        One row per phase, engine, data and time: "mean", "low", "high", and "over", which says what
        the interval covers. "minus" is "" for A* itself, and the name of another phase for the
        difference from it. Phases without files have no rows, and a model at chance has none. No
        interval is narrower than what the number of samples allows (`least_half_width`).
    """
    rows = []
    for t_s in times:
        tables = _tables(trainings, float(t_s), functools.partial(_stars, chance))
        for place, table in tables.items():
            rows.append(_row(place, "", t_s, table.interval(), table.several, own_digital))
            for other, base in tables.items():
                if place[0] == "hwa" and other[0] != "hwa" and other[1:] == place[1:]:
                    change, several = table.minus(base), table.several or base.several
                    if change is not None:
                        rows.append(_row(place, other[0], t_s, change, several, own_digital))
    return rows


def changes(
    trainings: Sequence[Files], times: Iterable[float], *, own_digital: bool
) -> list[dict[str, Any]]:
    """Return how far the error of each phase is from the digital model's and the other phases'.

    All are compared sample by sample, and on the same chips, so what they have in common is in no
    interval. Several trainings are compared with one direct conversion by their samples alone.

    Args:
        trainings: The files of each training.
        times: Seconds after programming.
        own_digital: Whether each training has a digital model of its own.

    Returns:
        Rows as those of `intervals`, of errors in [0, 1]: a "mean" above 0 says that the phase is
        worse than "minus", which is "digital" or a phase that comes before it. They also have
        "units" (the number of chips, or of trainings) and "samples".
    """
    rows = []
    for t_s in times:
        tables = _tables(trainings, float(t_s), _lost)
        for place, table in tables.items():
            units, samples = table.values.shape
            size = {"units": units, "samples": samples}
            lost = _row(place, "digital", t_s, table.interval(), table.several, own_digital)
            rows.append(lost | size)
            for other, base in tables.items():
                if other == place:
                    break  # a phase is compared with those before it
                change = table.minus(base) if other[1:] == place[1:] else None
                several = table.several or base.several
                if change is not None:
                    row = _row(place, other[0], t_s, change, several, own_digital)
                    rows.append(row | size)
    return rows


def widened(interval: Interval, least: float, *, same: bool) -> Interval:
    """Return an interval that says no more than the number of samples allows.

    Args:
        interval: The interval.
        least: Half of its least width.
        same: Whether all values are equal, so that nothing changed. If they are not, an interval
            without width comes from variances that cancel by chance: then there is none (NaN).
            Rounding leaves a little of such a width.
    """
    mean, low, high, p = interval
    if not same and high - low <= max(_ROUNDING * least, 1e-9 * abs(mean), 1e-12):
        return Interval(mean, math.nan, math.nan, p)
    # without an interval low and high are NaN, and stay so because they come first
    return Interval(mean, min(low, mean - least), max(high, mean + least), p)


def least_half_width(samples: int) -> float:
    """Return how often answers may still differ if none of the test samples' answers did.

    The upper end of the exact two-sided 95 % interval of a share (Clopper and Pearson 1934): 3.7
    over the number of samples, if they are many. Without it, equal answers of 64 samples would say
    that nothing is ever lost.

    Args:
        samples: The number of test samples.
    """
    return 1.0 - float(0.025 ** (1 / samples))


def _stars(chance: float, digital: Bits, chips: Bits) -> tuple[NDArray[np.float64], float] | None:
    """Return `table_of_stars` and its value of an answer, or None if the model is at chance."""
    room = chance - float((~digital).mean())
    return None if room <= 0 else (table_of_stars(digital, chips, chance), 1 / room)


def _lost(digital: Bits, chips: Bits) -> tuple[NDArray[np.float64], float]:
    """Return error minus the digital model's error of each chip and sample, (chips, n)."""
    lost: NDArray[np.float64] = digital.astype(float)[None, :] - chips
    return lost, 1.0


def _tables(
    trainings: Sequence[Files], t_s: float, table_of: _TableOf
) -> dict[tuple[str, str, str], _Table]:
    """Return the table of each place that has one."""
    tables = {}
    for place in {place: None for files in trainings for place in files}:
        of_place = [files[place] for files in trainings if place in files]
        known = [kept for kept in of_place if kept is not None]
        table = _units(known, t_s, table_of) if len(known) == len(of_place) else None
        if table is not None:
            tables[place] = table
    return tables


def _row(
    place: tuple[str, str, str],
    minus: str,
    t_s: float,
    interval: Interval,
    several: bool,
    own_digital: bool,
) -> dict[str, Any]:
    over = ["chips", "samples"]
    if several:
        over = [*(["digital models"] if own_digital else []), "trainings", *over]
    found = dict(zip(("phase", "engine", "data"), place, strict=True))
    values = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    ends = {name: None if math.isnan(value) else value for name, value in values.items()}
    return {**found, "t_inference": float(t_s), "minus": minus, **ends, "over": ", ".join(over)}


def _units(files: Sequence[Kept], t_s: float, table_of: _TableOf) -> _Table | None:
    """Return the table of one phase: its chips, or the means of its trainings if there are several.

    None if files or chips are missing, or if there is no table of one of the trainings. Chips are
    in the order of their seeds.
    """
    import numpy as np

    tables, answers = [], []
    for kept in files:
        if not (kept.digital.exists() and kept.chips.exists()):
            return None
        (digital,) = read(kept.digital).values()
        found = read(kept.chips)
        keys = [(seed, t_s) for seed in sorted(kept.seeds)]
        if not keys or any(key not in found or found[key].shape != digital.shape for key in keys):
            return None
        table = table_of(digital, np.stack([found[key] for key in keys]))
        if table is None:
            return None
        tables.append(table[0])
        answers.append(table[1])
    seeds = [tuple(sorted(kept.seeds)) for kept in files]
    if len(tables) == 1:
        return _Table(tables[0], seeds, answers[0])
    return _Table(np.stack([table.mean(0) for table in tables]), seeds, max(answers))
