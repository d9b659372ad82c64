"""Noise injected in training: its moments against integrals of the law."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from aimc_bridge.errors import ShapeError, SpecError
from aimc_bridge.physics.injection import injected, ramped
from aimc_bridge.spec import TrainingSpec
from presets import ideal, rasch2023, scalar_drift
from tests import stats
from tests.physics.test_physics import PCM


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(20230802)


RECIPE: TrainingSpec = rasch2023.training["wrn16"]


def recipe(**values: Any) -> TrainingSpec:
    return RECIPE.change(why="test", **values)


def injection_moments(x: float, scale: float, read: bool) -> tuple[float, float]:
    """Return mean and sd of an injected weight of size x (in units of the largest), by integration.

    The programming draw lies on a grid; for each point of it, the read draw folds in closed form.
    """
    z = torch.linspace(-9.0, 9.0, 20_001, dtype=torch.float64)
    density = torch.exp(-z * z / 2)
    density /= density.sum()
    g = x * 25.0 + scale * (0.26348 + 1.9650 * x - 1.1731 * x**2) * z
    size = g.abs()
    q = (0.0088 / ((size / 25.0) ** 0.65).clamp_min(1e-3)).clamp_max(0.2)
    growth = math.sqrt(math.log((20.0 + 250e-9) / (2 * 250e-9))) if read else 0.0
    sd = scale * size * q * growth
    ratio = torch.where(sd > 0, g / sd.clamp_min(1e-300), torch.zeros_like(g))
    mean = sd * math.sqrt(2.0 / math.pi) * torch.exp(-ratio.square() / 2) + g * torch.special.erf(
        ratio / math.sqrt(2.0)
    )
    mean = torch.where(sd > 0, mean, size)
    first = float((mean * density).sum()) / 25.0
    second = float(((g.square() + sd.square()) * density).sum()) / 25.0**2
    return first, math.sqrt(second - first**2)


class TestInjection:
    @pytest.mark.parametrize("kind", ["pcm", "programming"])
    @pytest.mark.parametrize("scale", [1.0, 3.0])
    @pytest.mark.parametrize("x", [0.01, 0.1, 0.5, 1.0])
    def test_moments(self, kind: str, scale: float, x: float) -> None:
        count, largest = 400_000, 0.8
        weight = torch.full((count,), x * largest)
        weight[::2] *= -1.0
        eps = torch.randn(2, count)
        got = injected(weight, largest, PCM, recipe(noise_type=kind), scale, eps[0], eps[1])
        # Weights are reflected at 0, they do not cross it.
        assert torch.equal(got.sign(), weight.sign())
        first, spread = injection_moments(x, scale, kind == "pcm")
        stats.assert_mean(got.abs(), first * largest, "mean size")
        stats.assert_sd(got.abs(), spread * largest, "sd of the size")

    def test_growth_is_that_of_t0_without_drift(self) -> None:
        """Read noise has the growth of t0, and no mean drift is injected.

        Without programming noise, it is |w| Q(w) sqrt(ln((20 + t_read) / (2 t_read))).
        """
        quiet = rasch2023.change(prog_noise_scale=0.0, why="test").pcm
        weight, ones = torch.full((4,), 0.5).double(), torch.ones(4).double()
        got = injected(weight, 1.0, quiet, RECIPE, 2.0, ones, ones)
        q = 0.0088 / 0.5**0.65
        expected = 0.5 * (1.0 + 2.0 * q * math.sqrt(math.log((20 + 250e-9) / 500e-9)))
        torch.testing.assert_close(got, ones * expected, rtol=1e-12, atol=0.0)

    @pytest.mark.parametrize("kind", ["pcm", "programming"])
    def test_zero_stays_zero(self, kind: str) -> None:
        weight, eps = torch.tensor([0.0, -0.0, 1.0]), torch.full((3,), 2.0)
        got = injected(weight, 1.0, PCM, recipe(noise_type=kind), 3.0, eps, eps)
        assert not got[:2].any() and got[2] > 1.0

    def test_gaussian(self) -> None:
        weight = torch.full((300_000,), 0.2)
        spec = recipe(noise_type="gaussian", gaussian_sd=0.05)
        got = injected(weight, 0.5, PCM, spec, 2.0, torch.randn(300_000), torch.zeros(300_000))
        stats.assert_mean(got, 0.2)
        stats.assert_sd(got, 0.5 * 2.0 * 0.05)

    def test_none_and_zero_scale_are_copies(self) -> None:
        weight, eps = torch.rand(3, 4), torch.randn(3, 4)
        for spec, scale in ((recipe(noise_type="none"), 3.0), (RECIPE, 0.0)):
            got = injected(weight, 1.0, PCM, spec, scale, eps, eps)
            assert torch.equal(got, weight) and got.data_ptr() != weight.data_ptr()

    def test_each_tile_has_its_own_largest(self) -> None:
        """Twice the weights with twice the largest get twice the noise."""
        weight, eps = torch.rand(2, 5, 6), torch.randn(2, 2, 5, 6)
        largest = torch.tensor([1.0, 2.0]).view(2, 1, 1)
        weight, eps = weight[:1] * largest, eps[:, :1].expand(2, 2, 5, 6)
        got = injected(weight, largest, PCM, RECIPE, 3.0, eps[0], eps[1])
        torch.testing.assert_close(got[1], 2.0 * got[0])

    def test_ideal_device_and_scalar_device(self) -> None:
        weight, eps = torch.linspace(-1.0, 1.0, 9), torch.randn(9)
        got = injected(weight, 1.0, ideal.pcm, RECIPE, 3.0, eps, eps)
        torch.testing.assert_close(got, weight)
        noisy = [
            injected(weight, 1.0, scalar_drift.pcm, s, 3.0, eps, eps)
            for s in (RECIPE, recipe(noise_type="programming"))
        ]
        assert torch.equal(*noisy)  # A device without read noise has programming noise alone.

    def test_untouched_and_errors(self) -> None:
        weight, eps = torch.rand(3, 4), torch.randn(2, 3, 4)
        before = weight.clone(), eps.clone()
        injected(weight, 1.0, PCM, RECIPE, 3.0, eps[0], eps[1])
        assert torch.equal(weight, before[0]) and torch.equal(eps, before[1])
        with pytest.raises(ShapeError):
            injected(weight, 1.0, PCM, RECIPE, 3.0, eps[0, :2], eps[1])
        with pytest.raises(ShapeError):
            injected(weight, 1.0, PCM, RECIPE, 3.0, eps[0], eps[1, :2])
        with pytest.raises(SpecError, match="noise_t_s = 1e-08.*2.5e-07 s"):
            injected(weight, 1.0, PCM, recipe(noise_t_s=1e-8), 3.0, eps[0], eps[1])

    def test_ramp(self) -> None:
        """The noise grows linearly over the first batches, and the first one has some already."""
        got = [ramped(3.0, batch, 4) for batch in range(7)]
        assert got == pytest.approx([0.75, 1.5, 2.25, 3.0, 3.0, 3.0, 3.0])
        assert ramped(3.0, 0, 0) == 3.0
        assert ramped(3.0, 0, 40_000) > 0.0
