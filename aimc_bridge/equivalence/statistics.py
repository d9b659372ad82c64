"""Equivalence of two samples: intervals, p values, power and a verdict.

A cell is "equivalent" if its interval lies inside its margin, "different" if it lies outside, and
"undecided" otherwise. Both words are claimed for single cells of a family, so that both p values
are corrected for the family (Holm). The claim that all cells are equivalent would by itself be an
intersection-union test, which needs no correction: the corrected claim is the stricter one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.special import stdtr, stdtrit  # Student's t, far faster than stats.t

from aimc_bridge.errors import UsageError

ALPHA = 0.05
Values = NDArray[np.float64]


@dataclass(frozen=True)
class Test:
    """The outcome of one comparison.

    Attributes:
        first: The value of the first side.
        second: The value of the second side.
        difference: Second minus first; the ratio of standard deviations less 1; a distance.
        low: Lower end of the 90 % interval of the difference (two one-sided tests at 5 %). Of a
            distance or a share: the lowest true value, at 95 %.
        high: The upper end, or the highest true value.
        margin: The largest difference that counts as equivalent.
        p: p value of equivalence, small if the margin holds.
        p_different: p value of a difference beyond the margin, small if the margin is broken.
        error: Standard error of the t test, on the scale of the test.
        freedom: Its degrees of freedom.
        lower: Its lower limit.
        upper: Its upper limit.
        sizes: Sizes of the two samples of a distance; (count, 0) for a share of a count.
    """

    __test__ = False  # the name begins with Test, but pytest must not collect it

    first: float
    second: float
    difference: float
    low: float
    high: float
    margin: float
    p: float
    p_different: float
    error: float = 0.0
    freedom: float = 1.0
    lower: float = -math.inf
    upper: float = math.inf
    sizes: tuple[int, int] = (0, 0)

    def power(self, level: float = ALPHA) -> float:
        """Return the probability of "equivalent" if both sides are equal.

        Args:
            level: The level of each of the two one-sided tests.
        """
        if self.sizes[1] > 0:
            half = _width(*self.sizes) * math.sqrt(math.log(4 / level) / 2)
            if self.margin <= half:
                return 0.0
            size = self.sizes[0] * self.sizes[1] / sum(self.sizes)
            return 1.0 - float(stats.kstwobign.sf((self.margin - half) * math.sqrt(size)))
        if self.sizes[0] > 0:
            return float((1 - self.margin) ** self.sizes[0] < level)
        if self.error == 0.0:
            return 1.0
        reach = -stdtrit(self.freedom, level)
        ends = self.upper / self.error - reach, self.lower / self.error + reach
        return max(0.0, float(stdtr(self.freedom, ends[0]) - stdtr(self.freedom, ends[1])))


def _sample(values: Values, fewest: int) -> Values:
    """Check a sample and return it flat, in double precision."""
    sample = np.asarray(values, dtype=np.float64).ravel()
    if sample.size < fewest or not np.isfinite(sample).all():
        raise UsageError(f"{sample.size} values; allowed: at least {fewest}, all finite")
    return sample


def _margin(margin: float) -> float:
    """Check a margin and return it."""
    if not 0.0 < margin < math.inf:
        raise UsageError(f"margin {margin!r}; allowed: a finite number > 0")
    return margin


def _two_one_sided(
    difference: float, error: float, freedom: float, lower: float, upper: float
) -> dict[str, Any]:
    """Test a difference against the limits `lower` and `upper`.

    Returns:
        Fields of `Test`: the interval, the p values, and what the power needs.
    """
    about = {"error": error, "freedom": freedom, "lower": lower, "upper": upper}
    if error == 0.0:  # both samples are constant: nothing is uncertain
        inside = lower < difference < upper
        certain = {"p": float(not inside), "p_different": float(inside)}
        return {"low": difference, "high": difference, **certain, **about}
    half = -float(stdtrit(freedom, ALPHA)) * error
    above, below = (difference - lower) / error, (difference - upper) / error
    return {
        "low": difference - half,
        "high": difference + half,
        "p": float(max(stdtr(freedom, -above), stdtr(freedom, below))),
        "p_different": min(1.0, 2 * float(min(stdtr(freedom, above), stdtr(freedom, -below)))),
        **about,
    }


def exact_test(first: float, second: float, margin: float) -> Test:
    """Compare two numbers that have no chance in them.

    Args:
        first: The first number.
        second: The second number.
        margin: The largest difference that counts as equivalent.
    """
    difference = second - first
    return Test(
        first,
        second,
        difference,
        margin=_margin(margin),
        **_two_one_sided(difference, 0.0, 1.0, -margin, margin),
    )


def mean_test(first: Values, second: Values, margin: float) -> Test:
    """Test that two means differ by less than a margin, with two one-sided tests of Welch.

    Args:
        first: A sample of at least two values.
        second: Another one.
        margin: The largest difference that counts as equivalent.
    """
    a, b = _sample(first, 2), _sample(second, 2)
    error, freedom = _welch(a, b, 1.0, 1.0)
    difference = float(b.mean() - a.mean())
    outcome = _two_one_sided(difference, error, freedom, -_margin(margin), margin)
    return Test(float(a.mean()), float(b.mean()), difference, margin=margin, **outcome)


def _welch(a: Values, b: Values, scale_a: float, scale_b: float) -> tuple[float, float]:
    """Return the standard error of scale_b mean(b) - scale_a mean(a), and its freedom."""
    va = float(a.var(ddof=1)) / a.size * scale_a**2
    vb = float(b.var(ddof=1)) / b.size * scale_b**2
    if va + vb == 0.0:
        return 0.0, 1.0
    return math.sqrt(va + vb), (va + vb) ** 2 / (va**2 / (a.size - 1) + vb**2 / (b.size - 1))


def sd_test(first: Values, second: Values, margin: float) -> Test:
    """Test that the ratio of two standard deviations lies within 1/(1 + margin) and 1 + margin.

    The test is on the logarithm of the ratio. Its error takes the kurtosis k of the sample into
    account, var(ln s) = (k - 1) / 4n: the F test would be wrong for clipped conductances.

    Args:
        first: A sample of at least four values.
        second: Another one.
        margin: The largest relative difference that counts as equivalent.
    """
    a, b = _sample(first, 4), _sample(second, 4)
    sds = [float(x.std(ddof=1)) for x in (a, b)]
    flat = [s <= 1e-6 * max(abs(float(x.mean())), 1e-30) for s, x in zip(sds, (a, b), strict=True)]
    if any(flat):
        return _flat(sds[0], sds[1], all(flat), margin)
    kurtosis = [float(stats.kurtosis(x, fisher=False)) for x in (a, b)]
    error = math.sqrt(sum((k - 1) / (4 * x.size) for k, x in zip(kurtosis, (a, b), strict=True)))
    return _log_ratio(sds[0], sds[1], error, a.size + b.size - 2, margin)


def spread_test(first: Values, second: Values, margin: float) -> Test:
    """Test the ratio of two standard deviations, from contributions to the variances.

    Args:
        first: One contribution per sampling unit; their mean is the variance.
        second: The same of the second side.
        margin: The largest relative difference that counts as equivalent.
    """
    a, b = _sample(first, 2), _sample(second, 2)
    means = float(a.mean()), float(b.mean())
    sds = [math.sqrt(max(m, 0.0)) for m in means]
    if min(sds) == 0.0:
        return _flat(sds[0], sds[1], sds[0] == sds[1], margin)
    error, freedom = _welch(a, b, 0.5 / means[0], 0.5 / means[1])
    return _log_ratio(sds[0], sds[1], error, freedom, margin)


def _flat(first: float, second: float, same: bool, margin: float) -> Test:
    """Return the test of two standard deviations of which at least one is 0."""
    difference = 0.0 if same else math.inf
    bound = math.log1p(_margin(margin))
    outcome = _two_one_sided(difference, 0.0, 1.0, -bound, bound)
    return Test(first, second, difference, margin=margin, **outcome)


def _log_ratio(first: float, second: float, error: float, freedom: float, margin: float) -> Test:
    """Return the test of a ratio; `error` is that of its logarithm."""
    bound = math.log1p(_margin(margin))
    log = math.log(second / first)
    outcome = _two_one_sided(log, error, freedom, -bound, bound)
    outcome |= {name: math.expm1(outcome[name]) for name in ("low", "high")}
    return Test(first, second, math.expm1(log), margin=margin, **outcome)


def skew_test(first: Values, second: Values, margin: float) -> Test:
    """Test that two skewnesses differ by less than a margin.

    The errors are those of the infinitesimal jackknife. A standardised value z adds
    z^3 - 3 z - g - 3 g (z^2 - 1) / 2 to the skewness g; the spread of that gives the error for a
    distribution of any shape.

    Args:
        first: A sample of at least four values.
        second: Another one.
        margin: The largest difference that counts as equivalent.
    """
    parts = []
    for values in (first, second):
        x = _sample(values, 4)
        sd = float(x.std())
        if sd <= 1e-6 * max(abs(float(x.mean())), 1e-30):
            parts.append((0.0, 0.0, x.size))
            continue
        skew = float(stats.skew(x))
        z = (x - x.mean()) / sd
        influence = z * (z * (z - 1.5 * skew) - 3)  # without a constant term; z**3 is far slower
        parts.append((skew, float(influence.var(ddof=1)) / x.size, x.size))
    (skew_a, va, n), (skew_b, vb, m) = parts
    freedom = 1.0
    if va + vb > 0:
        freedom = (va + vb) ** 2 / (va**2 / (n - 1) + vb**2 / (m - 1))
    difference = skew_b - skew_a
    outcome = _two_one_sided(difference, math.sqrt(va + vb), freedom, -_margin(margin), margin)
    return Test(skew_a, skew_b, difference, margin=margin, **outcome)


def vector_test(first: Values, second: Values, margin: float) -> Test:
    """Test that two mean vectors are close.

    What is tested is their squared distance over the summed variance of their elements, against the
    square of the margin. The distance is estimated without bias, so that it can be negative. Its
    error is that of a jackknife over units, which is too large if the means are equal: the test
    errs on the side of "undecided".

    Args:
        first: A sample of vectors, shape (units, size), at least four units.
        second: Another one, of the same size.
        margin: In standard deviations of an element, root mean square over elements.

    Returns:
        The test; its `difference`, `low`, `high` and `margin` are squares.
    """
    a, b = (np.asarray(x, dtype=np.float64) for x in (first, second))
    if a.ndim != 2 or b.ndim != 2 or min(len(a), len(b)) < 4 or a.shape[1] != b.shape[1]:
        raise UsageError(f"vectors {a.shape} and {b.shape}; allowed: [>= 4 units, size], one size")
    square = _margin(margin) ** 2
    spread = float(np.sqrt((a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()) / 2))
    centre = (a.mean(0) + b.mean(0)) / 2
    apart = float(np.linalg.norm(a.mean(0) - b.mean(0)))
    if spread <= 1e-6 * max(float(np.linalg.norm(centre)), 1e-30):
        same = apart <= 1e-5 * max(float(np.linalg.norm(centre)), 1e-30)
        difference = 0.0 if same else math.inf
        outcome = _two_one_sided(difference, 0.0, 1.0, -math.inf, square)
        return Test(0.0, math.sqrt(difference), difference, margin=square, **outcome)
    a, b = (a - centre) / spread, (b - centre) / spread
    value, without_a, without_b = _distance_and_jackknife(a, b)
    n, m = len(a), len(b)
    variance = (n - 1) * float(without_a.var()) + (m - 1) * float(without_b.var())
    outcome = _two_one_sided(value, math.sqrt(variance), n + m - 2, -math.inf, square)
    return Test(0.0, math.sqrt(max(value, 0.0)), value, margin=square, **outcome)


def _distance_and_jackknife(a: Values, b: Values) -> tuple[float, Values, Values]:
    """Estimate |E a - E b|^2 without bias, from all units and without each of them.

    Returns:
        The estimate from all units; estimates without each unit of `a`; the same of `b`.
    """
    n, m = len(a), len(b)
    sum_a, sum_b = a.sum(0), b.sum(0)
    own_a, own_b = (a * a).sum(1), (b * b).sum(1)

    def inner(total: Values, own: Values, count: int) -> float:
        return float((total @ total - own.sum()) / (count * (count - 1)))

    same_a, same_b = inner(sum_a, own_a, n), inner(sum_b, own_b, m)
    cross = float(sum_a @ sum_b) / (n * m)
    to_a, to_b = a @ sum_a, b @ sum_b
    less_a = (sum_a @ sum_a - 2 * to_a + 2 * own_a - own_a.sum()) / ((n - 1) * (n - 2))
    less_b = (sum_b @ sum_b - 2 * to_b + 2 * own_b - own_b.sum()) / ((m - 1) * (m - 2))
    cross_a = (sum_a @ sum_b - a @ sum_b) / ((n - 1) * m)
    cross_b = (sum_a @ sum_b - b @ sum_a) / (n * (m - 1))
    return (
        same_a + same_b - 2 * cross,
        less_a + same_b - 2 * cross_a,
        same_a + less_b - 2 * cross_b,
    )


def _width(n: int, m: int) -> float:
    """Return the scale of the Kolmogorov distance's error for two sample sizes."""
    return float(n**-0.5 + m**-0.5)


def distance_test(first: Values, second: Values, margin: float) -> Test:
    """Test that the Kolmogorov distance of two distributions is below a margin.

    The bound is that of Dvoretzky, Kiefer, Wolfowitz and Massart: |D - D_n| <= e with probability
    1 - 4 exp(-2 e^2 / (1/sqrt(n) + 1/sqrt(m))^2), whatever the two distributions are.

    Args:
        first: A sample of at least two values.
        second: Another one.
        margin: The largest distance that counts as equivalent.
    """
    a, b = np.asarray(first).ravel(), np.asarray(second).ravel()
    for values in (a, b):
        _sample(values, 2)
    distance = float(stats.ks_2samp(a, b, method="asymp").statistic)
    width = _width(a.size, b.size)
    half = width * math.sqrt(math.log(4 / ALPHA) / 2)
    away = 4 * math.exp(-2 * ((_margin(margin) - distance) / width) ** 2)
    p, beyond = (min(1.0, away), 1.0) if distance < margin else (1.0, min(1.0, away))
    low, high = max(0.0, distance - half), distance + half
    return Test(0.0, distance, distance, low, high, margin, p, beyond, sizes=(a.size, b.size))


def share_test(count: int, total: int, margin: float) -> Test:
    """Test that a share is below a margin, with the bounds of Clopper and Pearson.

    Args:
        count: How many of the cases count.
        total: The number of independent cases.
        margin: The largest share that counts as equivalent.
    """
    if not 0 <= count <= total or total < 1:
        raise UsageError(f"{count} of {total}; allowed: 0 <= count <= total, total >= 1")
    binomial = stats.binom(total, _margin(margin))
    low, high = 0.0, 1.0
    if count > 0:
        low = float(stats.beta.ppf(ALPHA, count, total - count + 1))
    if count < total:
        high = float(stats.beta.isf(ALPHA, count + 1, total - count))
    share = count / total
    p, beyond = float(binomial.cdf(count)), float(binomial.sf(count - 1))
    return Test(0.0, share, share, low, high, margin, p, beyond, sizes=(total, 0))


def holm(p: Values) -> Values:
    """Return p values corrected for their number by Holm's step-down method."""
    p = np.asarray(p, dtype=np.float64)
    order = np.argsort(p)
    stepped = np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


@dataclass(frozen=True)
class Verdict:
    """The verdict of one test in its family.

    Attributes:
        word: "equivalent", "different" or "undecided".
        p: p value of equivalence, corrected for the family.
        p_different: p value of a difference beyond the margin, corrected.
        power: Probability of "equivalent" if both sides are equal, at the level of the strictest
            step of the correction.
    """

    word: str
    p: float
    p_different: float
    power: float


def verdicts(tests: list[Test]) -> list[Verdict]:
    """Judge the tests of a family, with Holm's correction; returns one verdict per test."""
    inside = holm(np.array([test.p for test in tests]))
    beyond = holm(np.array([test.p_different for test in tests]))
    level = ALPHA / max(1, len(tests))
    return [
        Verdict(
            "different" if b < ALPHA else "equivalent" if a < ALPHA else "undecided",
            float(a),
            float(b),
            test.power(level),
        )
        for test, a, b in zip(tests, inside, beyond, strict=True)
    ]
