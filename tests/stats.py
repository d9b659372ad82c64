"""Statistical assertions: bounds from a false-alarm rate, and a proof of power for each.

A bound is the quantile that a correct law exceeds once per million assertions, times the standard
error of the statistic. `proven` runs an assertion on the samples and then on samples 2 % off, for
which it must fail: a bound too wide to see an error of 2 % is an error of the test.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist

import pytest
from scipy.stats import t as student
from torch import Tensor

FALSE_ALARM = 1e-6  # two-sided, per assertion
OFF = 0.02


def quantile(units: int | None = None) -> float:
    """Return the two-sided quantile at FALSE_ALARM.

    Args:
        units: The number of sampling units, for Student's quantile; None for the normal one.
    """
    if units is None:
        return NormalDist().inv_cdf(1.0 - FALSE_ALARM / 2.0)
    return float(student.isf(FALSE_ALARM / 2.0, units - 1))


def proven(check: Callable[[Tensor], None], samples: Tensor) -> None:
    """Assert that `check` holds for the samples and fails for samples 2 % larger or smaller."""
    check(samples)
    for factor in (1.0 - OFF, 1.0 + OFF):
        with pytest.raises(AssertionError):
            check(samples * factor)


def _mean_and_error(samples: Tensor) -> tuple[float, float]:
    samples = samples.double().flatten()
    return samples.mean().item(), samples.std().item() / samples.numel() ** 0.5


def _variance_and_error(samples: Tensor) -> tuple[float, float]:
    """Return the variance and its standard error, sqrt((m4 - m2^2) / n)."""
    samples = samples.double().flatten()
    centred = samples - samples.mean()
    m2, m4 = centred.square().mean().item(), centred.pow(4).mean().item()
    return m2, ((m4 - m2**2) / samples.numel()) ** 0.5


def _agree(
    got: tuple[float, float], expected: tuple[float, float], what: str, units: int | None = None
) -> None:
    bound = quantile(units) * (got[1] ** 2 + expected[1] ** 2) ** 0.5
    assert abs(got[0] - expected[0]) <= bound, (
        f"{what}: {got[0]:.6g}, expected {expected[0]:.6g} +- {bound:.2g}"
    )


def assert_mean(samples: Tensor, expected: float, what: str = "mean") -> None:
    """Assert that the samples' mean is `expected`."""
    proven(lambda x: _agree(_mean_and_error(x), (expected, 0.0), what), samples)


def assert_sd(samples: Tensor, expected: float, what: str = "sd") -> None:
    """Assert that the samples' standard deviation is `expected`.

    The bound takes the samples' kurtosis into account.
    """
    proven(lambda x: _agree(_variance_and_error(x), (expected**2, 0.0), f"{what}^2"), samples)


def assert_same_mean(samples: Tensor, others: Tensor, what: str = "mean") -> None:
    """Assert that two sets of samples have the same mean."""
    other = _mean_and_error(others)
    proven(lambda x: _agree(_mean_and_error(x), other, what), samples)


def assert_same_sd(samples: Tensor, others: Tensor, what: str = "sd") -> None:
    """Assert that two sets of samples have the same standard deviation."""
    other = _variance_and_error(others)
    proven(lambda x: _agree(_variance_and_error(x), other, f"{what}^2"), samples)


def assert_same_by_unit(units: Tensor, others: Tensor, what: str) -> None:
    """Assert that two means over few sampling units agree.

    A unit is a tile or a chip, with one value each.
    """
    fewest = min(units.numel(), others.numel())
    other = _mean_and_error(others)
    proven(lambda x: _agree(_mean_and_error(x), other, what, fewest), units)


def assert_mean_by_unit(units: Tensor, expected: float, what: str) -> None:
    """Assert that the mean over few sampling units is `expected`.

    A unit is a tile or a chip, with one value each.
    """
    count = units.numel()
    proven(lambda x: _agree(_mean_and_error(x), (expected, 0.0), what, count), units)
