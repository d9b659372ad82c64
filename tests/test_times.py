"""Times as people write them: the accepted forms, the refused ones, and the way back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aimc_bridge.errors import UsageError
from aimc_bridge.times import label, seconds

DAY = 86400.0

UNDERSTOOD = {
    "1s": 1.0,
    "1 s": 1.0,
    "1second": 1.0,
    "90 sec": 90.0,
    "30 min": 1800.0,
    "1m": 60.0,
    "1h": 3600.0,
    "1 HOUR": 3600.0,
    "2 hours": 7200.0,
    "1d": DAY,
    "1 day": DAY,
    " 7 days ": 7 * DAY,
    "1w": 7 * DAY,
    "1 month": 30 * DAY,
    "1y": 365 * DAY,
    "1 Year": 365 * DAY,
    "0.5 y": 182.5 * DAY,
    ".5h": 1800.0,
    "3600": 3600.0,
    "1e3": 1000.0,
    "2.5e-7s": 2.5e-7,
    "0": 0.0,
    3600: 3600.0,
    1.5: 1.5,
    0: 0.0,
    np.float64(60.0): 60.0,
    np.float32(0.5): 0.5,
    np.int64(86400): DAY,
}

REFUSED = [
    "-5",
    "-1h",
    "nan",
    "inf",
    "1e400",
    "1 fortnight",
    "h",
    "",
    " ",
    "one hour",
    "1h30",
    "1 h 30 min",
    "1,5 h",
    "1e",
    "--1",
    "1s\n2s",
    -1,
    -0.5,
    float("nan"),
    float("inf"),
    True,
    None,
    [1],
    1j,
    np.float64("nan"),
    np.bool_(True),
]


@pytest.mark.parametrize(("written", "expected"), UNDERSTOOD.items(), ids=repr)
def test_understood(written: str | float, expected: float) -> None:
    got = seconds(written)
    assert got == expected
    assert type(got) is float


@pytest.mark.parametrize("written", REFUSED, ids=repr)
def test_refused_with_examples(written: object) -> None:
    with pytest.raises(UsageError, match="not understood") as caught:
        seconds(written)  # type: ignore[arg-type]
    assert repr(written) in str(caught.value)
    assert "1 day" in str(caught.value)


@pytest.mark.parametrize(
    ("t_s", "expected"),
    [
        (0.0, "0s"),
        (1.0, "1s"),
        (90.0, "90s"),
        (60.0, "1min"),
        (3600.0, "1h"),
        (3601.0, "3601s"),
        (DAY, "1d"),
        (7 * DAY, "7d"),
        (365 * DAY, "1y"),
        (730 * DAY, "2y"),
        (0.5, "0.5s"),
        (1234567.5, "1234567.5s"),
    ],
)
def test_label_is_short(t_s: float, expected: str) -> None:
    assert label(t_s) == expected


@settings(derandomize=True, deadline=None, max_examples=300)
@given(
    st.one_of(
        st.floats(min_value=0.0, allow_infinity=False, allow_nan=False),
        st.integers(min_value=0, max_value=10**12).map(float),
        st.integers(min_value=1, max_value=10**6).map(lambda n: n * DAY),
    )
)
def test_label_goes_both_ways(t_s: float) -> None:
    assert seconds(label(t_s)) == t_s


@pytest.mark.parametrize("size", [60.0, 3600.0, DAY, 365 * DAY])
def test_label_does_not_round_a_neighbour(size: float) -> None:
    """Times one float away from a whole unit have their own label."""
    for count in range(1, 200):
        for t_s in (np.nextafter(count * size, np.inf), np.nextafter(count * size, 0.0)):
            assert seconds(label(float(t_s))) == float(t_s)
