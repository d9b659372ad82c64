"""The variance of injected noise, measured in every layer and compared with the device's law."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aimc_bridge import HWATraining
from aimc_bridge.converted import matrices_of
from tests.stats import assert_sd
from tests.training.test_training import recipe

SCALE = 2.0
PCM: dict[str, Any] = {"noise_type": "pcm", "noise_scale": SCALE}


def pcm_sds(size: Tensor, scale: float) -> Tensor:
    """Return the root mean square of PCM_NOISE on weights of these sizes, without reflection."""
    x = size.double().numpy()[..., None]
    sigma = scale * (0.26348 + 1.9650 * x - 1.1731 * x**2) / 25.0
    nodes, probability = np.polynomial.hermite_e.hermegauss(40)
    programmed = np.abs(x + sigma * nodes)
    coefficient = np.minimum(0.0088 / np.maximum(programmed**0.65, 1e-3), 0.2)
    mean = ((programmed * coefficient) ** 2 * probability).sum(-1) / probability.sum()
    growth = np.log((20.0 + 250e-9) / (2 * 250e-9))
    return torch.from_numpy(np.sqrt(sigma[..., 0] ** 2 + scale**2 * growth * mean))


class Seen:
    """The noise of every layer in every training pass, in standard deviations of the law.

    `watch` is called in each training pass. Sizes near 0, whose sign may be reflected, are left
    out.
    """

    def __init__(self) -> None:
        self.errors: dict[str, list[Tensor]] = {}

    def watch(self, model: nn.Module, scale: float = SCALE) -> None:
        for name, matrix in matrices_of(model).items():
            columns = matrix.grid.expand_columns(matrix.column_scale() * matrix.learned_scale())
            noisy, clean = matrix.effective_weight().detach() / columns, clean_weight(matrix)
            error, size = (noisy - clean).flatten(), clean.abs().flatten()
            counted = (size > 0.25).nonzero().flatten()
            counted = counted[:: 1 + len(counted) // 8000]  # enough of a large matrix
            error = error[counted] / pcm_sds(size[counted], scale)
            self.errors.setdefault(name, []).append(error)

    def check(self, passes: int) -> None:
        """Assert that every layer had the law's variance in all of these passes."""
        for name, errors in self.errors.items():
            assert len(errors) == passes, name
            for step, error in enumerate(errors):
                # a single pass has few weights: within 6 standard errors of 1
                spread = float(error.square().mean())
                assert abs(spread - 1.0) < 6.0 * (2.0 / error.numel()) ** 0.5, (name, step)
        assert_sd(torch.cat([e for errors in self.errors.values() for e in errors]), 1.0)


def clean_weight(matrix: Any) -> Tensor:
    """Return the normalised trained weights."""
    weight: Tensor = matrix.normalised_weight()
    return weight


def noisy_recipe(**fields: Any) -> HWATraining:
    """Return a recipe with PCM noise of full size from the start."""
    return recipe(**{**PCM, **fields})
