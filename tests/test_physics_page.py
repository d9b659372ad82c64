"""docs/physics.md: its numbers are those of the preset and of the functions it explains."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from aimc_bridge import physics
from presets import rasch2023

PAGE = (Path(__file__).parent.parent / "docs" / "physics.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (\d)\. [^\n]*\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))
pcm, crossbar = rasch2023.pcm, rasch2023.crossbar


def numbers(section: str) -> set[float]:
    """Return the size of every number in a section."""
    found = re.findall(r"\d+(?:\.\d+)?", SECTIONS[section])
    return {float(text) for text in found}


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("1", [pcm.g_max_us, crossbar.max_rows, crossbar.max_columns]),
        ("2", pcm.prog_coeff_us),
        ("3", [*pcm.nu_mean, *pcm.nu_sd, pcm.t0_s]),
        ("4", [*pcm.read_coeff, pcm.t_read_s * 1e9]),
        (
            "5",
            [
                *(crossbar.w_noise, crossbar.out_noise, crossbar.out_bound),
                *(crossbar.dac_bits, crossbar.adc_bits, crossbar.ir_drop_g_ratio),
                2**crossbar.dac_bits - 1,
            ],
        ),
    ],
)
def test_each_number_of_the_preset_is_on_the_page(section: str, values: list[float]) -> None:
    assert {abs(float(value)) for value in values} <= numbers(section)


def test_what_the_page_says_of_drift_and_programming() -> None:
    half, none = torch.tensor(pcm.g_max_us / 2), torch.tensor(0.0)

    def left(g_us: torch.Tensor, t_s: float) -> float:
        return float(physics.drift.mean_drift_factor(g_us, t_s, pcm))

    assert f"has {left(half, 3600.0):.0%}".replace("%", " %") in SECTIONS["3"]
    assert f"a year {left(half, 31536000.0):.0%}".replace("%", " %") in SECTIONS["3"]
    # |N| has a larger mean than N where the spread is wide: near 0 the page speaks of the mean
    eps = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    nu = physics.drift_exponent(none.expand(400_000), pcm, eps)
    kept = float(physics.drifted(torch.ones(()), nu, 31536000.0, pcm).mean())
    assert kept == pytest.approx(0.29, abs=0.005) and "(to 29 %)" in " ".join(SECTIONS["3"].split())
    assert float(physics.sigma_prog_us(none, pcm)) == pytest.approx(0.26, abs=0.005)
