"""Intervals over chips: closed forms, how often they hold the mean, values without spread."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aimc_bridge.errors import UsageError
from benchmarks.report.intervals import (
    Interval,
    change,
    independent_change,
    mean_interval,
    sd_ratio,
)
from tests import stats
from tests.models import random


def test_intervals_by_hand() -> None:
    """n = 4 has the t quantile 3.18245; the mean is 2.5 and the sd 1.29099."""
    interval = mean_interval([1.0, 2.0, 3.0, 4.0])
    half = 3.182446 * 1.290994 / 2
    assert interval[:3] == pytest.approx((2.5, 2.5 - half, 2.5 + half), rel=1e-5)
    paired = change([10.0, 20.0, 30.0, 40.0], [11.0, 22.0, 33.0, 44.0])
    assert paired == pytest.approx(interval)
    # Welch's interval for variances 1 and 4 of n = 3 and 5 has the error sqrt(1/3 + 4/5) and 5.9935
    # degrees of freedom.
    a, b = [0.0, 1.0, 2.0], [10 - 2.828427, 10.0, 10.0, 10.0, 10 + 2.828427]
    welch = independent_change(a, b)
    error = math.sqrt(1 / 3 + 4 / 5)
    assert welch.mean == pytest.approx(9.0)
    assert (welch.high - welch.low) / 2 == pytest.approx(2.447356 * error, rel=2e-3)
    # F with 4 and 2 degrees of freedom has the quantiles 39.2484 and 1 / 10.6491.
    ratio = sd_ratio(a, b)
    assert ratio.mean == pytest.approx(2.0, rel=1e-6)
    assert ratio.low == pytest.approx(2.0 / math.sqrt(39.2484), rel=1e-4)
    assert ratio.high == pytest.approx(2.0 * math.sqrt(10.6491), rel=1e-4)


def test_an_interval_holds_the_mean_95_times_of_100() -> None:
    """Each interval is over 5 normal values.

    With the normal quantile, it would hold the mean 88 times of 100.
    """
    count = 20_000
    draws = random(count, 5, seed=11, dtype=torch.float64).numpy()
    intervals = [mean_interval(x) for x in draws[:2000]]
    inside = np.array([i.low <= 0.0 <= i.high for i in intervals])
    bound = stats.quantile() * math.sqrt(0.95 * 0.05 / len(inside))
    assert abs(inside.mean() - 0.95) <= bound
    normal = np.abs(draws.mean(1)) <= 1.959964 * draws.std(1, ddof=1) / math.sqrt(5)
    assert abs(normal.mean() - 0.95) > bound
    assert np.mean([i.p < 0.05 for i in intervals]) == pytest.approx(1 - inside.mean())


def test_values_without_spread() -> None:
    assert mean_interval([2.0, 2.0]) == Interval(2.0, 2.0, 2.0, 0.0)
    assert mean_interval([0.0, 0.0]) == Interval(0.0, 0.0, 0.0, 1.0)
    assert math.isnan(mean_interval([2.0]).low)
    assert change([1.0, 2.0], [1.0 + 1e-8, 2.0 - 1e-8]) == Interval(0.0, 0.0, 0.0, 1.0)
    assert change([1.0, 2.0], [1.0 + 1e-4, 2.0 + 1e-4]).mean == pytest.approx(1e-4)
    assert sd_ratio([1.0, 2.0], [3.0, 3.0]) == Interval(0.0, 0.0, 0.0, 0.0)
    assert math.isnan(sd_ratio([3.0, 3.0], [1.0, 2.0]).mean)
    assert math.isnan(sd_ratio([0.1, 0.1, 0.1], [0.1, 0.2, 0.3]).mean)  # Their variance is 2e-34.
    known = independent_change([1.0, 1.0], [1.0, 2.0, 3.0, 4.0])
    assert known == pytest.approx(mean_interval([0.0, 1.0, 2.0, 3.0]))
    known = independent_change([1.0, 2.0, 3.0, 4.0], [4.0, 4.0])
    assert known == pytest.approx(mean_interval([3.0, 2.0, 1.0, 0.0]))
    assert independent_change([1.0, 1.0], [1.0, 1.0]) == Interval(0.0, 0.0, 0.0, 1.0)


def test_values_that_give_no_interval_are_refused() -> None:
    for wrong in ([], [1.0, math.nan], [math.inf], [[1.0]]):
        with pytest.raises(UsageError):
            mean_interval(wrong)
    with pytest.raises(UsageError, match="2 chips before, 3 after"):
        change([1.0, 2.0], [1.0, 2.0, 3.0])
    for function in (sd_ratio, independent_change):
        with pytest.raises(UsageError, match="two or more"):
            function([1.0], [1.0, 2.0])
