"""Devices and drift compensation as aihwkit takes them: noise models over our laws, or its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from aihwkit.inference import BaseNoiseModel, GlobalDriftCompensation
from aihwkit.inference.compensation.base import BaseDriftCompensation
from aihwkit.inference.compensation.drift import (
    GlobalDriftCompensationWithExactReference,
    PerColumnDriftCompensation,
)
from aihwkit.inference.converter.conductance import SinglePairConductanceConverter
from torch import Tensor

from aimc_bridge import rng
from aimc_bridge.engines.aihwkit.builtin import own_model
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics import compensation
from aimc_bridge.physics.drift import drift_exponent, drifted
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import programmed
from aimc_bridge.physics.reading import read
from aimc_bridge.spec import DeviceSpec, Preset


@contextmanager
def drawing(seed: int, *names: object) -> Iterator[None]:
    """torch's default generator at the beginning of a named stream, given back as it was.

    aihwkit's noise models draw from that generator.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # aihwkit 1.1.0's HermesNoiseModel indexes with a list of masks
        warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
        torch.manual_seed(rng.derive(seed, *names))
        yield


class LawNoiseModel(BaseNoiseModel):  # type: ignore[misc]
    """Any DeviceSpec on an aihwkit tile: programming, drift and read noise by our `physics`.

    Draws come from torch's default generator, as in aihwkit's own models. The state of a tile is
    what aihwkit keeps as its drift parameters: conductances, exponents, scale. The three functions
    of single devices are not ours to call: aihwkit's `apply_noise` needs them from every model.
    """

    def __init__(self, pcm: DeviceSpec) -> None:
        super().__init__(SinglePairConductanceConverter(g_max=pcm.g_max_us))
        self.pcm = pcm
        self.t_inference = 0.0

    @torch.no_grad()
    def apply_programming_noise(self, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Programmed weights of a tile `[out, in]`, and its state."""
        grid = _one_tile(weights)
        shapes = cell_law.noise_shapes(grid, self.pcm)
        eps = [torch.randn(shape, dtype=weights.dtype) for shape in shapes]
        cells = cell_law.program_cells(weights, grid, self.pcm, eps[0], eps[1])
        state = [cells.conductance_us, cells.nu, cells.us_per_unit]
        return cell_law.held_weight(cells, grid), state

    @torch.no_grad()
    def apply_drift_noise(
        self, weights: Tensor, drift_noise_parameters: list[Tensor], t_inference: float
    ) -> Tensor:
        """Weights of a tile as read `t_inference` seconds after programming."""
        self.t_inference = t_inference
        cells = cell_law.Cells(*drift_noise_parameters)
        eps = torch.randn(cells.conductance_us.shape, dtype=weights.dtype)
        return cell_law.read_cells(cells, _one_tile(weights), self.pcm, t_inference, eps)

    def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor:
        """Programmed conductance of devices, microsiemens, any shape."""
        return programmed(g_target, self.pcm, torch.randn_like(g_target))

    def generate_drift_coefficients(self, g_target: Tensor) -> Tensor:
        """Drift exponents of devices with these targets, microsiemens, any shape."""
        return drift_exponent(g_target, self.pcm, torch.randn_like(g_target))

    def apply_drift_noise_to_conductance(
        self, g_prog: Tensor, drift_noise_param: Tensor, t_inference: float
    ) -> Tensor:
        """Conductance of devices `t_inference` seconds after programming, microsiemens."""
        now = drifted(g_prog, drift_noise_param, t_inference, self.pcm)
        return read(now, g_prog, t_inference, self.pcm, torch.randn_like(g_prog))


def _one_tile(weight: Tensor) -> TileGrid:
    return TileGrid((weight.shape[1],), (weight.shape[0],))


class OracleDriftCompensation(BaseDriftCompensation):  # type: ignore[misc]
    """Drift compensation by the inverse of the known mean drift; nothing is measured."""

    def __init__(self, noise_model: LawNoiseModel) -> None:
        self.noise_model = noise_model

    def init_baseline(self, tile: Any) -> Tensor:
        """The targets of the tile, `[out, in]`."""
        targets: Tensor = tile.reference_combined_weights.clone()
        return targets

    def readout(self, out_tensor: Tensor) -> Tensor:
        """Nothing is read."""
        return out_tensor

    def get_readout_tensor(self, in_size: int) -> Tensor:
        """One input of zeros: aihwkit sends something in any case."""
        return torch.zeros(1, in_size)

    def apply(self, forward_output: Tensor, ref_value: Tensor) -> Tensor:
        """alpha at the time of the last drift."""
        model = self.noise_model
        factor = compensation.oracle(ref_value, _one_tile(ref_value), model.pcm, model.t_inference)
        return factor[0, :1].to(forward_output.device)


def noise_model(preset: Preset) -> BaseNoiseModel:
    """Return aihwkit's own model if its numbers are the preset's, else ours in its interface.

    The oracle's compensation asks our laws, so it goes with our model.
    """
    oracle = preset.compensation.drift_compensation == "oracle"
    model = None if oracle else own_model(preset.pcm)
    return LawNoiseModel(preset.pcm) if model is None else model


def drift_compensation(preset: Preset, model: BaseNoiseModel) -> BaseDriftCompensation | None:
    """aihwkit's drift compensation of that kind; the floor of its readouts is 1e-4, always."""
    kind = preset.compensation.drift_compensation
    if kind == "none":
        return None
    if kind == "oracle":
        assert isinstance(model, LawNoiseModel)
        return OracleDriftCompensation(model)
    kinds: dict[str, type[BaseDriftCompensation]] = {
        "global": GlobalDriftCompensation,
        "global_exact_reference": GlobalDriftCompensationWithExactReference,
        "per_column": PerColumnDriftCompensation,
    }
    return kinds[kind]()
