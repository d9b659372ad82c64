"""The statistics of the cross-check: error rates against closed forms, power, small samples."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from aimc_bridge.equivalence.statistics import (
    Test,
    distance_test,
    holm,
    mean_test,
    sd_test,
    verdicts,
)
from aimc_bridge.errors import UsageError

RUNS = 4000
RARE = 1e-6  # false-alarm rate of an assertion


def rate_agrees(hits: int, runs: int, expected: float) -> bool:
    """Whether a count of a simulation fits a binomial law with this rate."""
    low, high = stats.binom.ppf([RARE / 2, 1 - RARE / 2], runs, expected)
    return bool(low <= hits <= high)


def test_mean_at_the_margin_passes_at_the_nominal_rate() -> None:
    """True difference = margin: "equivalent" in 5 % of the runs, and not in 10 %."""
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
        found = mean_test(first, second, 0.15)
        hits += found.p < 0.05
        powers.append(found.power)
    assert rate_agrees(hits, RUNS, float(np.mean(powers)))
    assert not rate_agrees(hits, RUNS, float(np.mean(powers)) - 0.1)


def test_sd_at_the_margin_with_clipped_samples() -> None:
    """Half of the values clipped to 0, as a device of target 0: the rate stays nominal."""
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
    """N(0, 1) against N(0.1, 1): the distance 2 Phi(0.05) - 1 lies in the interval."""
    rng = np.random.default_rng(4)
    truth = 2 * stats.norm.cdf(0.05) - 1
    missed = 0
    for _ in range(300):
        found = distance_test(rng.normal(0, 1, 2000), rng.normal(0.1, 1, 3000), 0.2)
        missed += not found.low <= truth <= found.high
    assert missed <= stats.binom.ppf(1 - RARE, 300, 0.05)


def test_distance_p_agrees_with_its_bound() -> None:
    """p < 5 % exactly where the upper bound is below the margin."""
    rng = np.random.default_rng(5)
    first, second = rng.normal(0, 1, 5000), rng.normal(0, 1, 8000)
    bound = distance_test(first, second, 0.5).high
    assert distance_test(first, second, bound * 1.001).p < 0.05
    assert distance_test(first, second, bound * 0.999).p > 0.05


def judged(test: Test) -> str:
    return verdicts([test])[0]


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
    assert small.power < 0.2


def test_constants() -> None:
    ones = np.ones(10)
    assert judged(mean_test(ones, ones * 1.001, 0.01)) == "equivalent"
    assert judged(mean_test(ones, ones * 1.1, 0.01)) == "different"
    assert judged(sd_test(ones, ones * 1.1, 0.02)) == "equivalent"
    assert judged(sd_test(ones, np.arange(10.0), 0.02)) == "different"


def test_holm() -> None:
    """Three p values by hand, in their own order."""
    assert holm(np.array([0.04, 0.01, 0.03])).tolist() == pytest.approx([0.06, 0.03, 0.06])


@pytest.mark.parametrize(
    ("first", "margin", "said"),
    [([1.0], 0.1, "at least"), ([1.0, np.nan, 2.0, 3.0], 0.1, "finite"), ([1.0] * 5, 0.0, "> 0")],
)
def test_bad_input(first: list[float], margin: float, said: str) -> None:
    for test in (mean_test, sd_test, distance_test):
        with pytest.raises(UsageError, match=said):
            test(np.array(first), np.arange(5.0), margin)
