"""Intervals of means, changes and ratios: Student's t, Welch's t, F, and two crossed effects."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from aimc_bridge.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
_ROUNDING = 1e-6


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


def mean_interval(values: ArrayLike) -> Interval:
    """Return Student's t interval of the mean at 95 %, with chips as units.

    Args:
        values: One value per chip.

    Returns:
        The interval. Equal values have an interval of no width, and a single value has none (NaN).

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
    if _flat(x):  # t would divide by 0
        return Interval(mean, mean, mean, 1.0 if mean == 0.0 else 0.0)
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
    from scipy import stats

    units, samples = values.shape[-2:]
    of_units, of_samples = values.mean(-1), values.mean(-2)
    mean = of_units.mean(-1)
    rest = values - of_units[..., :, None] - of_samples[..., None, :] + mean[..., None, None]
    v_units = of_units.var(-1, ddof=1) / units
    v_rest = (rest**2).sum((-1, -2)) / ((units - 1) * (samples - 1) * units * samples)
    v_samples = np.maximum(of_samples.var(-1, ddof=1) / samples - v_rest, 0.0)
    v_mean = v_units + v_samples
    share = v_units / np.where(v_mean > 0.0, v_mean, 1.0)  # of units
    tail = (1 - CONFIDENCE) / 2
    t_units, t_samples = (float(stats.t.isf(tail, n - 1)) for n in (units, samples))
    weighted = share * t_units + (1 - share) * t_samples
    freedom = 1 / (share**2 / (units - 1) + (1 - share) ** 2 / (samples - 1))
    half: NDArray[np.float64] = (weighted + stats.t.isf(tail, freedom)) / 2 * np.sqrt(v_mean)
    return half


def _flat(x: NDArray[np.float64]) -> bool:
    """Return whether all values are equal, except for rounding."""
    import numpy as np

    return bool(np.ptp(x) <= 1e-12 * float(np.abs(x).max()))


def change(before: ArrayLike, after: ArrayLike) -> Interval:
    """Return the mean of after - before, paired: value i of both is of the same chip.

    If all pairs agree to 1e-6 of their size, which is the rounding of float32, the change is
    exactly 0.

    Args:
        before: One value per chip.
        after: One value per chip.

    Raises:
        UsageError: If there are not as many values of each.
    """
    import numpy as np

    a, b = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if a.shape != b.shape:
        raise UsageError(f"{a.size} chips before, {b.size} after; allowed: the same chips")
    if a.size and np.abs(b - a).max() <= _ROUNDING * max(np.abs(a).max(), np.abs(b).max()):
        return mean_interval(np.zeros_like(a))
    return mean_interval(b - a)


def sd_ratio(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return sd(second) / sd(first) of independent samples, with its F interval.

    Args:
        first: One value per chip.
        second: One value per chip.

    Returns:
        The ratio, its interval at 95 %, and the p value of equal standard deviations. If the second
        sample has no spread, the ratio is 0. If the first one has none, there is no ratio (NaN).

    Raises:
        UsageError: If a sample has fewer than two values.
    """
    import numpy as np
    from scipy import stats

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size < 2 or b.size < 2:
        raise UsageError(f"{a.size} and {b.size} values; allowed: two or more of each")
    if _flat(a):
        return Interval(math.nan, math.nan, math.nan, math.nan)
    if _flat(b):
        return Interval(0.0, 0.0, 0.0, 0.0)
    va, vb = float(a.var(ddof=1)), float(b.var(ddof=1))
    law = stats.f(b.size - 1, a.size - 1)
    half = (1 - CONFIDENCE) / 2
    ratio = vb / va
    p = 2 * min(float(law.cdf(ratio)), float(law.sf(ratio)))
    low, high = (math.sqrt(ratio / float(law.ppf(q))) for q in (1 - half, half))
    return Interval(math.sqrt(ratio), low, high, min(1.0, p))


def independent_change(first: ArrayLike, second: ArrayLike) -> Interval:
    """Return the mean of second minus the mean of first, for independent samples.

    Args:
        first: One value per chip.
        second: One value per chip.

    Returns:
        The difference with Welch's interval at 95 %.

    Raises:
        UsageError: If a sample has fewer than two values.
    """
    import numpy as np
    from scipy import stats

    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.size < 2 or b.size < 2:
        raise UsageError(f"{a.size} and {b.size} values; allowed: two or more of each")
    flat = [_flat(x) for x in (a, b)]
    difference = float(b.mean() - a.mean())
    if all(flat):
        return Interval(difference, difference, difference, float(difference == 0.0))
    if flat[0]:  # the first mean is a known number, only the second one is uncertain
        return mean_interval(b - float(a.mean()))
    if flat[1]:
        return mean_interval(float(b.mean()) - a)
    test = stats.ttest_ind(b, a, equal_var=False)
    interval = test.confidence_interval(CONFIDENCE)
    return Interval(difference, float(interval.low), float(interval.high), float(test.pvalue))
