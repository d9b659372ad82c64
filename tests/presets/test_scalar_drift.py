"""The preset `scalar_drift`: the replication's law, recipe and later version."""

from __future__ import annotations

import pytest
import torch

from aimc_bridge import physics
from aimc_bridge.physics.drift import age
from aimc_bridge.physics.mapping import TileGrid
from presets import rasch2023, scalar_drift


def test_scalar_drift_is_the_replications() -> None:
    assert scalar_drift.pcm.values() == {
        "g_max_us": 25.0,
        "t0_s": 1.0,
        "netting": True,
        "prog_coeff_us": (0.26348, 1.9650, -1.1731),
        "prog_noise_scale": 1.0,
        "weight_bits": 8,
        "nu": 0.06,
    }
    crossbar = scalar_drift.crossbar
    assert (crossbar.max_rows, crossbar.max_columns) == (None, None)
    assert (crossbar.dac_bits, crossbar.adc_bits, crossbar.input_range) == (None, None, "none")
    assert (crossbar.out_noise, crossbar.w_noise, crossbar.ir_drop) == (0.0, 0.0, 0.0)
    assert (crossbar.weight_scaling, crossbar.learned_out_scales) == ("layer", False)
    assert scalar_drift.compensation.drift_compensation == "oracle"
    assert TileGrid.of(4096, 4608, crossbar).tiles == 1


def test_scalar_drift_recipe_is_the_replications() -> None:
    ours, papers = scalar_drift.training["wrn16"], rasch2023.training["wrn16"]
    published = {
        "noise_type": "programming",
        "noise_scale": 3.0,
        "drop_connect": 0.01,
        "distill_temperature": 4.0,
        "distill_weight": 0.9,
    }
    chosen = {"ramp_batches": 10 * 50_000 // 25}
    assert ours.values() == {**papers.values(), **published, **chosen}
    assert all(ours.sources[name].key == "replication" for name in published)
    assert all(ours.sources[name].key == "choice" for name in chosen)


def test_scalar_programming_is_on_the_signed_weight() -> None:
    """The law is round(w 127)/127 + sigma(|w|) eps.

    Weights lie in [-1, 1], and there is no clip at 0.
    """
    pcm = scalar_drift.pcm
    weight = torch.linspace(-1.0, 1.0, 301, dtype=torch.float64)
    eps = torch.linspace(-4.0, 4.0, 301, dtype=torch.float64)
    rounded = (weight * 127).round() / 127
    size = rounded.abs()
    sigma = (0.26348 + 1.9650 * size - 1.1731 * size**2) / 25.0
    got = physics.programmed(weight * 25.0, pcm, eps) / 25.0
    torch.testing.assert_close(got, rounded + sigma * eps, rtol=1e-12, atol=1e-12)
    assert (got < -0.2).any() and (got > 0.2).any()


def test_scalar_drift_factor_is_one_up_to_t0() -> None:
    """All weights have the factor (t / t0)^-nu with t0 = 1 s.

    There is no read noise.
    """
    pcm = scalar_drift.pcm
    g = torch.tensor([-25.0, -1.0, 0.0, 3.0], dtype=torch.float64)
    eps = torch.tensor([3.0, -3.0, 1.0, 2.0], dtype=torch.float64)
    nu = physics.drift_exponent(g, pcm, eps)
    assert torch.equal(nu, torch.full_like(g, 0.06))
    for t_s, factor in {
        0.0: 1.0,
        0.5: 1.0,
        1.0: 1.0,
        3600.0: 3600.0**-0.06,
        31536000.0: 31536000.0**-0.06,
    }.items():
        assert age(t_s, pcm) ** -0.06 == pytest.approx(factor, rel=1e-12)
        now = physics.drifted(g, nu, t_s, pcm)
        torch.testing.assert_close(now, g * factor, rtol=1e-12, atol=0.0)
        assert torch.equal(physics.read(now, g, t_s, pcm, eps), now)


def test_later_version_of_the_replication_is_a_change() -> None:
    later = scalar_drift.change(nu=0.05, t0_s=20.0, why="the replication's later version")
    nu = physics.drift_exponent(torch.ones(1), later.pcm, torch.zeros(1))
    factor = physics.drifted(torch.ones(1), nu, 3600.0, later.pcm).item()
    assert factor == pytest.approx((3600.0 / 20.0) ** -0.05, rel=1e-6)
