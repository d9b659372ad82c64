"""Faults put into the native laws: the cross-check finds each, at the cells where it acts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import presets
from aimc_bridge.equivalence import device, device_level
from aimc_bridge.physics import cells
from aimc_bridge.physics.drift import drifted
from aimc_bridge.physics.programming import sigma_prog_us
from aimc_bridge.physics.read import read

Law = Callable[..., Tensor]


def no_t0(g: Tensor, nu: Tensor, t: float, pcm: Any) -> Tensor:
    """(t / t0)^-nu"""
    return g * (max(t, 1e-3) / pcm.t0_s) ** -nu


def no_clip(g: Tensor, pcm: Any, eps: Tensor) -> Tensor:
    """Programming noise without the lower limit of 0."""
    return g + sigma_prog_us(g, pcm) * eps


def redrawn(g: Tensor, nu: Tensor, t: float, pcm: Any) -> Tensor:
    """New exponents at each time: those of other devices with the same target."""
    return drifted(g, nu[..., torch.randperm(nu.shape[-1])], t, pcm)


def noise_of_drifted(g: Tensor, g_prog: Tensor, t: float, pcm: Any, eps: Tensor) -> Tensor:
    """Read noise from the drifted instead of the programmed conductance."""
    return read(g, g, t, pcm, eps)


MUTANTS: dict[str, tuple[str, Law, str, float, str]] = {
    "t instead of t + t0": ("drifted", no_t0, "g/g_max = 0.1", 1.0, "drifted mean"),
    "no clip at 0": ("programmed", no_clip, "g/g_max = 0", float("nan"), "programmed mean"),
    "exponent redrawn": ("drifted", redrawn, "g/g_max = 0.1", 3.2e8, "drifted change sd"),
    "read noise of the drifted": ("read", noise_of_drifted, "w = 0.1", 3.2e8, "read weight sd"),
}


def broken(times: tuple[float, ...], samples: int) -> set[tuple[str, str, float]]:
    found = device_level(presets.rasch2023, times, (0.0, 0.1, 1.0), samples=samples, seed=1)
    rows = found.different.fillna(-1.0)
    return set(zip(rows["cell"], rows["quantity"], rows["t_inference"], strict=True))


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught_at_the_device_level(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    law, mutant, cell, t, quantity = MUTANTS[name]
    expected = (cell, quantity, -1.0 if t != t else t)
    assert not broken(
        (1.0, 86400.0, 3.2e8), 100_000
    )  # the same command finds nothing in the true laws
    for module in (cells, device):
        monkeypatch.setattr(module, law, mutant)
    assert expected in broken((1.0, 86400.0, 3.2e8), 100_000)


def test_netting_left_out_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two devices that drift each by themselves: the read weight near 0 differs, no single device
    does."""
    real = device.native

    def unnetted(preset: Any, *rest: Any) -> Any:
        return real(preset.change(why="mutant", netting=False), *rest)

    monkeypatch.setattr(device, "native", unnetted)
    found = broken((3.2e8,), 100_000)
    assert any(cell.startswith("w =") for cell, _, _ in found)
    assert not any(cell.startswith("g/g_max") for cell, _, _ in found)


def test_noise_on_the_signed_weight_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The device with target 0 gets no noise: weights programmed near 0 spread less."""
    real = cells.program_cells

    def mutant(weight: Tensor, grid: Any, pcm: Any, eps: Tensor, nu: Tensor) -> cells.Cells:
        idle = torch.stack([weight < 0, weight >= 0])
        return real(weight, grid, pcm, eps.masked_fill(idle, -100.0), nu)

    monkeypatch.setattr(cells, "program_cells", mutant)
    found = broken((1.0,), 100_000)
    assert ("w = 0", "programmed weight sd", -1.0) in found
    assert not any(cell.startswith("g/g_max") for cell, _, _ in found)
