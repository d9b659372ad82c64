"""The cross-check's device level."""

from __future__ import annotations

import pandas as pd
import pytest

import presets
from aimc_bridge import Report
from aimc_bridge.equivalence import device, device_laws, device_level
from aimc_bridge.equivalence.closed import ClosedLaws
from aimc_bridge.equivalence.report import Findings
from aimc_bridge.errors import (
    UsageError,
)
from aimc_bridge.physics import programmed
from tests.stats import FALSE_ALARM

YEAR = 31536000.0
COLUMNS = {
    *("level", "cell", "quantity", "t_inference", "first", "second", "difference", "interval"),
    *("low", "high", "margin", "p", "p_different", "power", "verdict", "reference"),
}


def decided(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows whose computed power leaves no room for doubt.

    If the two sides agree, the probability that one of these rows is not equivalent is at most the
    false-alarm rate of this suite (a union bound over the rows).
    """
    return table[table["power"] >= 1.0 - FALSE_ALARM / len(table)]


# --- device level ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("rasch2023", "aihwkit"),
        ("hermes", "aihwkit"),
        ("scalar_drift", "closed form"),
        ("ideal", "closed form"),
    ],
)
def test_the_same_physics_agrees(name: str, reference: str) -> None:
    """Nothing is different, and what has enough power is equivalent.

    At this size, this is the case for most means and standard deviations.
    """
    report = device_level(presets.get(name), ("1h", "10y"), (0.1,), samples=300_000, seed=3)
    table = report.table
    assert set(table) == COLUMNS and set(table["reference"]) == {reference}
    assert table["p_different"].min() > FALSE_ALARM
    rows = decided(table)
    assert set(rows["verdict"]) == {"equivalent"}
    moments = table[table["quantity"].str.endswith(("mean", "sd"))]
    assert len(rows[rows["quantity"].isin(moments["quantity"])]) > 0.8 * len(moments)
    kinds = {q.rpartition(" ")[0] for q in table["quantity"] if q != "exponent drawn anew"}
    pairs = {f"{kind} weight of two devices" for kind in ("programmed", "read")}
    assert kinds - pairs - {"read weight of two devices change"} == {
        *("programmed", "exponent", "drifted", "read", "programmed weight", "read weight"),
        *("drifted change", "read weight change"),
    }
    assert (pairs <= kinds) == presets.get(name).pcm.pairs
    assert set(table["cell"]) == {"w = 0.1", "w = -0.1", "g/g_max = 0.1"}


def test_two_percent_off_is_different(monkeypatch: pytest.MonkeyPatch) -> None:
    """Conductances 2 % too large are found, then sigmas 5 % too large."""

    def different() -> set[str]:
        report = device_level(presets.rasch2023, ("1y",), (0.5,), samples=200_000, seed=3)
        return set(report.different["quantity"])

    assert not different()
    with monkeypatch.context() as patch:
        patch.setattr(device_laws, "programmed", lambda *args: 1.02 * programmed(*args))
        assert {"programmed mean", "drifted mean", "read mean"} <= different()
    monkeypatch.setattr(
        device_laws, "programmed", lambda g, pcm, eps: programmed(g, pcm, 1.05 * eps)
    )
    assert different() == {"programmed sd"}  # Later spreads are mostly the spread of the exponents.


def test_skew_and_distributions_are_decided_where_samples_are_many() -> None:
    """At this size all four statistics decide."""
    samples = device.devices(
        device_laws.Native(presets.rasch2023, True, 0), 0.5, (YEAR,), 1_000_000, 25.0
    )
    theirs, _ = device_laws.reference_laws(presets.rasch2023, 0)
    part = Findings()
    device.compare(part, samples, device.devices(theirs, 0.5, (YEAR,), 1_000_000, 25.0), "aihwkit")
    table = Report.of([part]).table
    assert set(table["quantity"].str.rpartition(" ")[2]) == {"mean", "sd", "skew", "distribution"}
    assert set(table["verdict"]) == {"equivalent"}


def test_a_small_sample_decides_nothing_and_does_not_pass() -> None:
    report = device_level(presets.rasch2023, ("1h",), (0.5,), samples=50)
    distances = report.table[report.table["quantity"].str.endswith("distribution")]
    assert set(distances["verdict"]) == {"undecided"}
    assert not report.passed
    assert "undecided" in report.summary()


def test_the_closed_form_is_aihwkits_too() -> None:
    """The formulas agree with aihwkit if it has such a device.

    They stand in for aihwkit if it does not.
    """
    for preset in (presets.rasch2023, presets.hermes):
        theirs, reference = device_laws.reference_laws(preset, 5)
        assert reference == "aihwkit"
        part = Findings()
        closed = device_laws.Closed(preset, 5)
        assert isinstance(closed.laws, ClosedLaws)
        g_max = preset.pcm.g_max_us
        for kind in ("devices", "weights"):
            if kind == "devices":
                pair = [device.devices(x, 0.1, (YEAR,), 200_000, g_max) for x in (closed, theirs)]
            else:
                pair = [device.weights(x, (0.1, -0.1), (YEAR,), 200_000) for x in (closed, theirs)]
            device.compare(part, pair[0], pair[1], "aihwkit")
        table = Report.of([part]).table
        assert table["p_different"].min() > FALSE_ALARM
        assert set(decided(table)["verdict"]) == {"equivalent"} and len(decided(table)) > 5


@pytest.mark.parametrize(("x", "times"), [(0.0, (1.0, 2.0)), (1.0, (0.0, YEAR))])
def test_devices_keep_their_exponents(x: float, times: tuple[float, ...]) -> None:
    """The statistic is 0 if a device has one exponent at both times.

    It is 2 if the exponent of another device is taken.
    """
    laws = device_laws.Native(presets.rasch2023, True, 1)
    samples = device.devices(laws, x, times, 4000, 25.0)
    key = (f"g/g_max = {x:g}", "exponent drawn anew", times[1])
    if times[0] == 0.0:
        assert key not in samples  # Nothing had drifted.
        return
    assert float(samples[key].mean()) < 1e-4


def test_targets_outside_the_device() -> None:
    with pytest.raises(UsageError, match="within"):
        device_level(presets.rasch2023, targets=(1.5,), samples=10)
