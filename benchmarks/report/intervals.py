"""Intervals of means, changes and ratios: Student's t, Welch's t, F, and two crossed effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from aimc_bridge.curves import ROUNDING, agree
from aimc_bridge.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
_MORE_DIGITS = 6  # than a page has; two ends that then still look alike are one number


class Interval(NamedTuple):
    """A mean over chips, its interval, and the two-sided p value of a mean of 0.

    Attributes:
        mean: The mean.
        low: The lower end of the interval.
        high: The upper end of the interval.
        p: The p value.
    """

    mean: float
    low: float
    high: float
    p: float


def ends(
    low: float, high: float, write: Callable[[float, int], str], digits: int
) -> tuple[str, str] | None:
    """Return both ends of an interval as text, or None if it has no width to show.

    Ends that look alike would claim certainty, so they get as many digits as tell them apart.

    Args:
        low: The lower end; NaN if there is no interval.
        high: The upper end.
        write: Returns a number as text, without a unit, with a number of digits.
        digits: The least number of digits.
    """
    if math.isnan(low) or math.isnan(high):
        return None
    for count in range(digits, digits + _MORE_DIGITS + 1):
        first, last = write(low, count), write(high, count)
        if float(first) != float(last):
            return first, last
    return None


def mean_interval(values: ArrayLike, size: float = 0.0) -> Interval:
    """Return Student's t interval of the mean at 95 %, with chips as units.

    Args:
        values: One value per chip.
        size: The size of the numbers that the values were calculated from, such as 1 for a
            difference of shares; see `agree`.

    Returns:
        The interval. A single value has none (NaN), and neither do values that agree: no spread is
        no certainty. Their p value is NaN too, unless they are all 0: then it is 1.

    Raises:
        UsageError: If there is no value, or one that is not finite.
    """
    import numpy as np
    from scipy import stats

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise UsageError(f"{x.size} values; allowed: one or more finite numbers")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, math.nan)
    if agree(x, size):
        zero = abs(mean) <= ROUNDING * size
        return Interval(0.0 if zero else mean, math.nan, math.nan, 1.0 if zero else math.nan)
    test = stats.ttest_1samp(x, 0.0)
    interval = test.confidence_interval(CONFIDENCE)
    return Interval(mean, float(interval.low), float(interval.high), float(test.pvalue))


def crossed_interval(values: ArrayLike) -> Interval:
    """Return the interval at 95 % of a mean over units that are all measured on the same samples.

    Units (trainings, or chips) and samples are two crossed random effects: another run would have
    other units and other samples. So the interval holds for new units on new samples.

    Args:
        values: One value per unit and sample, shape (units, samples).

    Returns:
        The interval, without a p value (NaN). With one unit or one sample there is none (NaN).

    Raises:
        UsageError: If the values are not such a table of finite numbers.
    """
    import numpy as np

    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or x.size == 0 or not np.isfinite(x).all():
        raise UsageError(f"values of shape {x.shape}; allowed: finite numbers (units, samples)")
    mean = float(x.mean())
    half = float(crossed_half_width(x)) if min(x.shape) > 1 else math.nan
    return Interval(mean, mean - half, mean + half, math.nan)


def crossed_half_width(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return half the width of `crossed_interval`, for many tables at once.

    The variance of the mean is a sum of two parts that are estimated apart: that of units, from
    their means (it holds the interaction of units and samples), with few degrees of freedom, and
    that of samples, from their means less the interaction, not below 0, with many. Two quantiles of
    Student's t are known for such a sum: that of Satterthwaite's degrees of freedom holds the truth
    too seldom where units are few, and the mean of both parts' quantiles, weighted by the parts
    (Cochran and Cox), too often. This is the mean of the two.

    How often this holds the truth is measured by `python -m benchmarks.intervals` and listed in
    docs/a-star.md: with three units or more 93 to 97 % of the time, whatever the effects are.

    Args:
        values: Tables, shape (*tables, units, samples), with two units and samples or more.

    Returns:
        The half widths, shape (*tables,).

    Source: Satterthwaite 1946, Biometrics Bulletin 2:110; Cochran and Cox 1957, Experimental
    Designs, 2nd edition, section 4.14.
    """
    import numpy as np

    of_units, of_rest = _unit_variances(values)
    units, samples = values.shape[-2:]
    of_samples = values.mean(-2).var(-1, ddof=1) / samples - of_rest
    return _half_width([(of_units, units - 1), (np.maximum(of_samples, 0.0), samples - 1)])


def crossed_difference(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the interval at 95 % of a difference of means over units that are not paired.

    Both tables are of the same samples, such as three trainings against the chips of one direct
    conversion. Units of both sides and samples are random effects, as in `crossed_interval`.

    Args:
        first: One value per unit and sample, shape (units, samples).
        second: The same, with as many samples.

    Returns:
        The interval of mean(first) - mean(second), without a p value (NaN). If a side has one unit,
        or if there is one sample, there is none (NaN).

    Raises:
        UsageError: If the values are not two such tables of finite numbers.
    """
    import numpy as np

    a, b = (np.asarray(values, dtype=np.float64) for values in (first, second))
    fits = a.ndim == b.ndim == 2 and a.shape[1] == b.shape[1] and a.size > 0 and b.size > 0
    if not (fits and np.isfinite(a).all() and np.isfinite(b).all()):
        raise UsageError(
            f"values of shapes {a.shape} and {b.shape}; allowed: finite numbers (units, samples), "
            "with the same number of samples"
        )
    mean = float(a.mean() - b.mean())
    samples = a.shape[1]
    if min(len(a), len(b), samples) < 2:
        return Interval(mean, math.nan, math.nan, math.nan)
    (of_a, rest_a), (of_b, rest_b) = _unit_variances(a), _unit_variances(b)
    of_samples = (a.mean(0) - b.mean(0)).var(ddof=1) / samples - rest_a - rest_b
    parts = [(of_a, len(a) - 1), (of_b, len(b) - 1), (np.maximum(of_samples, 0.0), samples - 1)]
    half = float(_half_width(parts))
    return Interval(mean, mean - half, mean + half, math.nan)


def _unit_variances(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return two variances of the means of tables: that of units, and that of the interaction.

    Args:
        values: Tables, shape (*tables, units, samples).

    Returns:
        What units contribute to the variance of the mean, the interaction of units and samples
        among it, and what that interaction contributes; both of shape (*tables,).
    """
    units, samples = values.shape[-2:]
    of_units, of_samples = values.mean(-1), values.mean(-2)
    rest = values - of_units[..., :, None] - of_samples[..., None, :]
    rest += of_units.mean(-1)[..., None, None]
    v_rest = (rest**2).sum((-1, -2)) / ((units - 1) * (samples - 1) * units * samples)
    v_units: NDArray[np.float64] = of_units.var(-1, ddof=1) / units
    return v_units, v_rest


def _half_width(parts: Sequence[tuple[NDArray[np.float64], int]]) -> NDArray[np.float64]:
    """Return half the width of an interval at 95 % from the parts of a variance.

    Args:
        parts: Parts of the variance of a mean, each with its degrees of freedom.
    """
    import numpy as np
    from scipy import stats

    tail = (1 - CONFIDENCE) / 2
    whole = sum(part for part, _ in parts)
    shares = [(part / np.where(whole > 0.0, whole, 1.0), freedom) for part, freedom in parts]
    weighted = sum(share * float(stats.t.isf(tail, freedom)) for share, freedom in shares)
    # a variance of 0 has no degrees of freedom; any number will do
    inverse = sum(share**2 / freedom for share, freedom in shares)
    freedom = 1 / np.where(whole > 0.0, inverse, 1.0)
    half: NDArray[np.float64] = (weighted + stats.t.isf(tail, freedom)) / 2 * np.sqrt(whole)
    return half


def change(before: ArrayLike, after: ArrayLike, size: float = 0.0) -> Interval:
    """Return the mean of after - before, paired: value i of both is of the same chip.

    If all pairs agree, the change is exactly 0.

    Args:
        before: One value per chip.
        after: One value per chip.
        size: The size of the numbers that the values were calculated from, if it is larger than
            they are; see `agree`.

    Raises:
        UsageError: If there are not as many values of each.
    """
    import numpy as np

    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if a.shape != b.shape:
        raise UsageError(f"{a.size} chips before, {b.size} after; allowed: the same chips")
    return mean_interval(b - a, max([size, *np.abs(a), *np.abs(b)]))


def sd_ratio(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return sd(second) / sd(first) of independent samples, with its F interval.

    Args:
        first: One value per chip.
        second: One value per chip.

    Returns:
        The ratio, its interval at 95 %, and the p value of equal standard deviations. If the second
        sample has no spread, the ratio is 0, without an interval. If the first one has none, there
        is no ratio (NaN).

    Raises:
        UsageError: If a sample has fewer than two values.
    """
    import numpy as np
    from scipy import stats

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size < 2 or b.size < 2:
        raise UsageError(f"{a.size} and {b.size} values; allowed: two or more of each")
    if agree(a):
        return Interval(math.nan, math.nan, math.nan, math.nan)
    if agree(b):
        return Interval(0.0, math.nan, math.nan, math.nan)
    va, vb = float(a.var(ddof=1)), float(b.var(ddof=1))
    law = stats.f(b.size - 1, a.size - 1)
    half = (1 - CONFIDENCE) / 2
    ratio = vb / va
    p = 2 * min(float(law.cdf(ratio)), float(law.sf(ratio)))
    low, high = (math.sqrt(ratio / float(law.ppf(q))) for q in (1 - half, half))
    return Interval(math.sqrt(ratio), low, high, min(1.0, p))


def independent_change(first: ArrayLike, second: ArrayLike, size: float = 0.0) -> Interval:
    """Return the mean of second minus the mean of first, for independent samples.

    Args:
        first: One value per chip.
        second: One value per chip.
        size: The size of the numbers that the values were calculated from, if it is larger than
            they are; see `agree`.

    Returns:
        The difference with Welch's interval at 95 %. There is none (NaN) if the values of a sample
        agree: by chance or by physics, that says nothing about how far others would lie apart.

    Raises:
        UsageError: If a sample has fewer than two values.
    """
    import numpy as np
    from scipy import stats

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size < 2 or b.size < 2:
        raise UsageError(f"{a.size} and {b.size} values; allowed: two or more of each")
    difference = float(b.mean() - a.mean())
    if agree(a, size) or agree(b, size):
        difference = 0.0 if agree([a.mean(), b.mean()], size) else difference
        return Interval(difference, math.nan, math.nan, math.nan)
    test = stats.ttest_ind(b, a, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return Interval(difference, float(interval.low), float(interval.high), float(test.pvalue))
