"""Equivalence of two samples: intervals, p values, power and a verdict.

A cell is "equivalent" when an interval lies inside its margin, "different" when the interval lies
outside, else "undecided". "All cells are equivalent" is an intersection-union test and needs no
correction; "different" is claimed for single cells, so those p values are corrected (Holm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from aimc_bridge.errors import UsageError

ALPHA = 0.05
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Test:
    """What a comparison found.

    difference    second minus first; ratio of standard deviations less 1; Kolmogorov distance
    low, high     its 90 % interval (two one-sided 5 % tests); for a distance [lowest, highest] of
                  the true distance, each at 95 %
    p             of equivalence: small where the margin holds
    p_different   of a difference beyond the margin: small where the margin is broken
    power         probability of "equivalent" at this sample size if the truth is equal
    """

    __test__ = False  # not a test of pytest's

    first: float
    second: float
    difference: float
    low: float
    high: float
    margin: float
    p: float
    p_different: float
    power: float


def _sample(values: Values, fewest: int) -> Values:
    sample = np.asarray(values, dtype=np.float64).ravel()
    if sample.size < fewest or not np.isfinite(sample).all():
        raise UsageError(f"{sample.size} values; allowed: at least {fewest}, all finite")
    return sample


def _margin(margin: float) -> float:
    if not 0.0 < margin < math.inf:
        raise UsageError(f"margin {margin!r}; allowed: a finite number > 0")
    return margin


def _two_one_sided(
    difference: float, error: float, freedom: float, low: float, high: float
) -> tuple[float, float, float, float, float]:
    """(interval low, high, p, p_different, power) of a difference against (low, high)."""
    if error == 0.0:  # both constant: nothing is uncertain
        inside = low < difference < high
        return difference, difference, float(not inside), float(inside), 1.0
    t = stats.t(freedom)
    half = float(t.ppf(1 - ALPHA)) * error
    p = max(float(t.sf((difference - low) / error)), float(t.cdf((difference - high) / error)))
    beyond = min(float(t.cdf((difference - low) / error)), float(t.sf((difference - high) / error)))
    reach = float(t.ppf(1 - ALPHA))
    power = float(t.cdf(high / error - reach) - t.cdf(low / error + reach))
    return difference - half, difference + half, p, min(1.0, 2 * beyond), max(0.0, power)


def mean_test(first: Values, second: Values, margin: float) -> Test:
    """Difference of means within +-margin: Welch's t, two one-sided tests."""
    a, b = _sample(first, 2), _sample(second, 2)
    va, vb = a.var(ddof=1) / a.size, b.var(ddof=1) / b.size
    error = math.sqrt(va + vb)
    freedom = 1.0
    if error > 0:
        freedom = (va + vb) ** 2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1))
    difference = float(b.mean() - a.mean())
    found = _two_one_sided(difference, error, freedom, -_margin(margin), margin)
    return Test(float(a.mean()), float(b.mean()), difference, *found[:2], margin, *found[2:])


def sd_test(first: Values, second: Values, margin: float) -> Test:
    """Ratio of standard deviations within 1/(1 + margin) .. 1 + margin.

    On the log ratio, with the sample's own kurtosis in the error: var(ln s) = (k - 1) / 4n. The F
    test would be wrong for clipped conductances.
    """
    a, b = _sample(first, 4), _sample(second, 4)
    sds = [float(x.std(ddof=1)) for x in (a, b)]
    flat = [s <= 1e-6 * max(abs(float(x.mean())), 1e-30) for s, x in zip(sds, (a, b), strict=True)]
    if any(flat):
        same = all(flat)
        difference = 0.0 if same else math.inf
        found = (difference, difference, float(not same), float(same), 1.0)
        return Test(sds[0], sds[1], difference, *found[:2], _margin(margin), *found[2:])
    kurtosis = [float(stats.kurtosis(x, fisher=False)) for x in (a, b)]
    error = math.sqrt(sum((k - 1) / (4 * x.size) for k, x in zip(kurtosis, (a, b), strict=True)))
    bound = math.log1p(_margin(margin))
    log = math.log(sds[1] / sds[0])
    low, high, p, beyond, power = _two_one_sided(log, error, a.size + b.size - 2, -bound, bound)
    ratio, low, high = (math.expm1(x) for x in (log, low, high))
    return Test(sds[0], sds[1], ratio, low, high, margin, p, beyond, power)


def distance_test(first: Values, second: Values, margin: float) -> Test:
    """Kolmogorov distance below `margin`: the bounds of Dvoretzky, Kiefer, Wolfowitz and Massart.

    |D - D_n| <= e with probability 1 - 4 exp(-2 e^2 / (1/sqrt(n) + 1/sqrt(m))^2), whatever the
    two distributions are.
    """
    a, b = _sample(first, 2), _sample(second, 2)
    found = float(stats.ks_2samp(a, b, method="asymp").statistic)
    width = a.size**-0.5 + b.size**-0.5
    half = width * math.sqrt(math.log(4 / ALPHA) / 2)
    away = 4 * math.exp(-2 * ((_margin(margin) - found) / width) ** 2)
    p, beyond = (min(1.0, away), 1.0) if found < margin else (1.0, min(1.0, away))
    size = a.size * b.size / (a.size + b.size)
    power = 0.0
    if margin > half:
        power = 1.0 - float(stats.kstwobign.sf((margin - half) * math.sqrt(size)))
    return Test(0.0, found, found, max(0.0, found - half), found + half, margin, p, beyond, power)


def holm(p: Values) -> Values:
    """p values corrected for their number, step down."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


def verdicts(tests: list[Test]) -> list[str]:
    """ "equivalent", "different" (Holm over the family) or "undecided", one a test."""
    corrected = holm(np.array([test.p_different for test in tests]))
    return [
        "different" if beyond < ALPHA else "equivalent" if test.p < ALPHA else "undecided"
        for test, beyond in zip(tests, corrected, strict=True)
    ]
