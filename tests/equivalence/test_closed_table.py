"""A table of a device and its closed form: the same numbers from the same noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from aimc_bridge import devices
from aimc_bridge.equivalence.closed_forms import ClosedTable
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.reading import read_after_drift

CSV = Path(__file__).parents[2] / "examples" / "pcm_table.csv"
TABLE = devices.TableDevice.from_csv(CSV, g_max_us=25.0, source="sampled")
NOISY = devices.TableDevice.from_arrays(
    [0.0] * 3 + [10.0] * 3 + [25.0] * 3,
    [0.0, 100.0, 1e6] * 3,
    [0.5, 0.4, 0.2, 10.0, 9.0, 6.0, 25.0, 24.0, 20.0],
    prog_sd_us=[0.8, 0.9, 0.7, 2.0, 2.5, 1.0, 1.0, 1.5, 3.0],
    read_sd_us=[0.2, 0.3, 0.3, 0.5, 0.5, 0.9, 0.2, 0.4, 0.8],
    g_max_us=25.0,
    source="made up: small means with large spreads, which the cut at 0 changes",
)


@pytest.mark.parametrize("pcm", [TABLE, NOISY], ids=["measured", "cut at 0"])
def test_the_law_of_a_table_is_its_closed_form(pcm: devices.TableDevice) -> None:
    """Between targets; at the times of the table, between them, and before the first after 0."""
    law, closed = law_of(pcm), ClosedTable(pcm)
    target = torch.linspace(0.0, 25.0, 401, dtype=torch.float64)
    eps = torch.randn(3, 401, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    start = law.programmed(target, pcm, eps[0])
    theirs = closed.programmed(target.numpy(), eps[0].numpy())
    np.testing.assert_allclose(start, np.maximum(theirs, 0.0), rtol=0, atol=5e-3)
    nu = law.drift_exponent(target, pcm, eps[1])
    exponent = closed.exponent(target.numpy(), eps[1].numpy())
    first, last = pcm.times_s[0], pcm.times_s[-1]
    for t_s in (first, pcm.times_s[1], (first * last) ** 0.5 or 40.0, last):
        drifted = closed.drifted(np.maximum(theirs, 0.0), exponent, t_s)
        share = closed.read_share(np.maximum(theirs, 0.0), exponent, t_s)
        expected = drifted * np.maximum(1.0 + share * eps[2].numpy(), 0.0)
        got = read_after_drift(start, nu, t_s, pcm, eps[2])
        np.testing.assert_allclose(got, expected, rtol=0, atol=5e-3)


def test_the_mean_decay_of_a_table_is_that_of_its_rows() -> None:
    closed = ClosedTable(NOISY)
    decay = closed.mean_decay(np.array([0.4, 1.0]), 1e6)
    np.testing.assert_allclose(decay, [0.6, 0.8], rtol=1e-12)
