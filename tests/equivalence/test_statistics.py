"""The statistics of the cross-check: error rates against closed forms, power, small samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aimc_bridge.equivalence.statistics import (
    ALPHA,
    Test,
    distance_test,
    exact_test,
    holm,
    mean_test,
    sd_test,
    share_test,
    skew_test,
    spread_test,
    vector_test,
    verdicts,
)
from aimc_bridge.errors import UsageError

RUNS = 3000
RARE = 1e-6  # false-alarm rate per assertion


def rate_agrees(hits: int, runs: int, expected: float) -> bool:
    """Return whether a count from a simulation fits a binomial law with this rate."""
    low, high = stats.binom.ppf([RARE / 2, 1 - RARE / 2], runs, expected)
    return bool(low <= hits <= high)


def test_mean_at_the_margin_passes_at_the_nominal_rate() -> None:
    """At a difference equal to the margin, 5 % of the runs say "equivalent", not 10 %."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(RUNS):
        first, second = rng.normal(0, 1, 200), rng.normal(1.0, 2.0, 400)
        hits += mean_test(first, second, 1.0).p < 0.05
    assert rate_agrees(hits, RUNS, 0.05)
    assert not rate_agrees(hits, RUNS, 0.10)


def test_mean_power_is_what_a_simulation_finds() -> None:
    rng = np.random.default_rng(2)
    hits, powers = 0, []
    for _ in range(RUNS):
        first, second = rng.normal(0, 1, 500), rng.normal(0, 1, 500)
        result = mean_test(first, second, 0.15)
        hits += result.p < 0.05
        powers.append(result.power())
    assert rate_agrees(hits, RUNS, float(np.mean(powers)))
    assert not rate_agrees(hits, RUNS, float(np.mean(powers)) - 0.1)


def test_sd_at_the_margin_with_clipped_samples() -> None:
    """The rate stays nominal if half of the values are clipped to 0.

    A device of target 0 has such values.
    """
    rng = np.random.default_rng(3)
    hits = sum(
        sd_test(
            np.maximum(rng.normal(0, 1, 4000), 0), 1.1 * np.maximum(rng.normal(0, 1, 4000), 0), 0.1
        ).p
        < 0.05
        for _ in range(RUNS)
    )
    assert rate_agrees(hits, RUNS, 0.05)
    assert not rate_agrees(hits, RUNS, 0.10)


def test_distance_bound_covers_the_truth() -> None:
    """The interval holds the distance of N(0, 1) and N(0.1, 1), 2 Phi(0.05) - 1."""
    rng = np.random.default_rng(4)
    truth = 2 * stats.norm.cdf(0.05) - 1
    missed = 0
    for _ in range(300):
        result = distance_test(rng.normal(0, 1, 2000), rng.normal(0.1, 1, 3000), 0.2)
        missed += not result.low <= truth <= result.high
    assert missed <= stats.binom.ppf(1 - RARE, 300, 0.05)


def test_distance_p_agrees_with_its_bound() -> None:
    """p is below 5 % exactly if the upper bound is below the margin."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(0, 1, 5000), rng.normal(0, 1, 8000)
    bound = distance_test(first, second, 0.5).high
    assert distance_test(first, second, bound * 1.001).p < 0.05
    assert distance_test(first, second, bound * 0.999).p > 0.05


def judged(test: Test) -> str:
    return verdicts([test])[0].word


@pytest.mark.parametrize("test", [mean_test, sd_test, distance_test])
def test_three_verdicts(test: object) -> None:
    assert callable(test)
    rng = np.random.default_rng(6)
    draw = rng.normal
    margin = 0.02
    assert judged(test(draw(5, 1, 400_000), draw(5, 1, 400_000), margin)) == "equivalent"
    assert judged(test(draw(5, 1, 400_000), draw(5.1, 1.1, 400_000), margin)) == "different"
    small = test(draw(5, 1, 30), draw(5, 1, 30), margin)
    assert judged(small) == "undecided"
    assert small.power() < 0.2


def test_constants() -> None:
    ones = np.ones(10)
    assert judged(mean_test(ones, ones * 1.001, 0.01)) == "equivalent"
    assert judged(mean_test(ones, ones * 1.1, 0.01)) == "different"
    assert judged(sd_test(ones, ones * 1.1, 0.02)) == "equivalent"
    assert judged(sd_test(ones, np.arange(10.0), 0.02)) == "different"


def test_holm() -> None:
    """Three p values are corrected by hand, in their own order."""
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])


def test_both_claims_are_corrected_for_the_family() -> None:
    """p = 0.04 alone is "equivalent".

    Among ten such values it is not, and it is not "different" either.
    """

    def one(p: float, p_different: float) -> Test:
        return Test(0.0, 0.0, 0.0, -1.0, 1.0, 1.0, p, p_different, error=0.3, lower=-1, upper=1)

    assert judged(one(0.04, 1.0)) == "equivalent" and judged(one(1.0, 0.04)) == "different"
    assert {v.word for v in verdicts([one(0.04, 1.0)] * 10)} == {"undecided"}
    assert {v.word for v in verdicts([one(1.0, 0.04)] * 10)} == {"undecided"}
    assert {v.word for v in verdicts([one(0.004, 1.0)] * 10)} == {"equivalent"}


def test_no_false_claim_in_a_family_at_its_margin() -> None:
    """A false claim is made in at most 5 % of the families.

    Each family has twenty cells exactly at their margins, and a claim may be of either kind.
    Without the correction there would be one in most families.
    """
    rng = np.random.default_rng(11)
    families, claims, uncorrected = 400, 0, 0
    for _ in range(families):
        tests = [mean_test(rng.normal(0, 1, 60), rng.normal(1, 1, 60), 1.0) for _ in range(20)]
        claims += any(v.word == "equivalent" for v in verdicts(tests))
        uncorrected += any(test.p < ALPHA for test in tests)
    assert claims <= stats.binom.ppf(1 - RARE, families, ALPHA)
    assert uncorrected > families / 2


def test_power_falls_with_the_level_and_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(12)
    level, hits, powers = 0.002, 0, []
    for _ in range(RUNS):
        result = mean_test(rng.normal(0, 1, 500), rng.normal(0, 1, 500), 0.25)
        hits += result.p < level
        powers.append(result.power(level))
    assert rate_agrees(hits, RUNS, float(np.mean(powers)))
    assert not rate_agrees(hits, RUNS, float(np.mean(powers)) - 0.1)
    assert result.power(0.05) > result.power(0.002)


def test_skew_at_the_margin_with_a_skewed_law() -> None:
    """At a margin of 1 the rate is at most the nominal one.

    An exponential law has a skewness of 2, a gamma law of shape 4 a skewness of 1. The rate may be
    lower, because the skewness of a small sample is biased.
    """
    rng = np.random.default_rng(13)
    runs, hits, inside = 1500, 0, 0
    for _ in range(runs):
        first, second = rng.gamma(4.0, 1.0, 6000), rng.exponential(1.0, 6000)
        hits += skew_test(first, second, 1.0).p < ALPHA
        result = skew_test(first, rng.gamma(4.0, 1.0, 6000), 0.5)
        inside += result.low <= 0.0 <= result.high
    assert rate_agrees(hits, runs, 0.07) or hits < 0.07 * runs
    assert hits > 0.01 * runs
    assert rate_agrees(inside, runs, 0.90)
    assert not rate_agrees(inside, runs, 0.80)


def test_spread_at_the_margin() -> None:
    """Squares of Gaussians, 10 % apart in sigma, are "equivalent" at the nominal rate."""
    rng = np.random.default_rng(14)
    hits = 0
    for _ in range(RUNS):
        first = rng.normal(0, 1.0, (300, 8)) ** 2
        second = rng.normal(0, 1.1, (300, 8)) ** 2
        hits += spread_test(first.mean(1), second.mean(1), 0.1).p < ALPHA
    assert rate_agrees(hits, RUNS, 0.05)
    assert not rate_agrees(hits, RUNS, 0.10)


def test_vectors_without_a_difference() -> None:
    """The estimate is unbiased: its mean is 0 within its error.

    The interval is wider than necessary, never narrower, and no difference is claimed.
    """
    rng = np.random.default_rng(15)
    values, errors, claims = [], [], 0
    for _ in range(400):
        result = vector_test(rng.normal(0, 1, (40, 30)), rng.normal(0, 1, (50, 30)), 0.1)
        values.append(result.difference)
        errors.append(result.error)
        claims += result.p_different < ALPHA
    sd = float(np.std(values, ddof=1))
    assert abs(np.mean(values)) < stats.norm.isf(RARE / 2) * sd / np.sqrt(400)
    assert sd < np.mean(errors) < 2 * sd
    assert claims <= stats.binom.ppf(1 - RARE, 400, ALPHA)


def test_vectors_at_the_margin() -> None:
    """At the margin, "equivalent" is no more frequent than the nominal rate.

    Each of 30 outputs is off by 0.4 sigma, at a margin of 0.4, and the estimate is 0.16. Off by
    0.8, it is "different".
    """
    rng = np.random.default_rng(16)
    runs, hits, values = 1500, 0, []
    for _ in range(runs):
        first, second = rng.normal(0, 1, (60, 30)), rng.normal(0.4, 1, (60, 30))
        result = vector_test(first, second, 0.4)
        values.append(result.difference)
        hits += result.p < ALPHA
    bound = stats.norm.isf(RARE / 2) * np.std(values, ddof=1) / np.sqrt(runs)
    assert abs(np.mean(values) - 0.16) < bound + 0.16 * 0.01  # Sigma is estimated too.
    assert hits <= stats.binom.ppf(1 - RARE, runs, ALPHA) and hits > 0
    far = vector_test(rng.normal(0, 1, (60, 30)), rng.normal(0.8, 1, (60, 30)), 0.4)
    assert judged(far) == "different"


def test_vectors_by_hand() -> None:
    """The estimate is the mean over all pairs of different units.

    The jackknife leaves each unit out in turn.
    """
    rng = np.random.default_rng(17)
    a, b = rng.normal(0, 1, (5, 3)), rng.normal(0.5, 2, (6, 3))

    def estimate(x: np.ndarray, y: np.ndarray) -> float:
        n, m = len(x), len(y)
        same = [
            sum(z[i] @ z[j] for i in range(k) for j in range(k) if i != j) / (k * (k - 1))
            for z, k in ((x, n), (y, m))
        ]
        return float(sum(same) - 2 * sum(p @ q for p in x for q in y) / (n * m))

    spread = (a.var(0, ddof=1).sum() + b.var(0, ddof=1).sum()) / 2
    result = vector_test(a, b, 0.3)
    assert result.difference == pytest.approx(estimate(a, b) / spread)
    assert result.margin == pytest.approx(0.09)
    without = [
        [estimate(np.delete(a, i, 0), b) for i in range(5)],
        [estimate(a, np.delete(b, i, 0)) for i in range(6)],
    ]
    variance = sum((len(v) - 1) * np.var(v) for v in without)
    assert result.error == pytest.approx(np.sqrt(variance) / spread)


def test_share() -> None:
    """The bounds are Clopper and Pearson's, by the binomial law.

    No occurrence in too few cases decides nothing.
    """
    result = share_test(3, 1000, 0.02)
    assert stats.binom.cdf(3, 1000, result.high) == pytest.approx(0.05)
    assert stats.binom.sf(2, 1000, result.low) == pytest.approx(0.05)
    assert judged(result) == "equivalent"
    assert judged(share_test(0, 1000, 1e-4)) == "undecided"
    assert share_test(0, 1000, 1e-4).power() == 0.0
    assert share_test(0, 100_000, 1e-4).power() == 1.0
    assert judged(share_test(50, 1000, 1e-2)) == "different"
    with pytest.raises(UsageError, match="count"):
        share_test(3, 2, 0.1)


def test_exact() -> None:
    assert judged(exact_test(1.0, 1.0 + 1e-7, 1e-5)) == "equivalent"
    assert judged(exact_test(1.0, 1.1, 1e-5)) == "different"


@pytest.mark.parametrize(
    ("first", "margin", "message"),
    [([1.0], 0.1, "at least"), ([1.0, np.nan, 2.0, 3.0], 0.1, "finite"), ([1.0] * 5, 0.0, "> 0")],
)
def test_bad_input(first: list[float], margin: float, message: str) -> None:
    for test in (mean_test, sd_test, distance_test, skew_test, spread_test):
        with pytest.raises(UsageError, match=message):
            test(np.array(first), np.arange(5.0), margin)


def test_bad_vectors() -> None:
    with pytest.raises(UsageError, match="one size"):
        vector_test(np.zeros((5, 3)), np.zeros((5, 4)), 0.1)
