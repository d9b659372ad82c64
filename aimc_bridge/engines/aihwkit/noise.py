"""Devices and drift compensation for aihwkit: models over our laws, or its own."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

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
from aimc_bridge.physics import compensation, own
from aimc_bridge.physics import faults as fault_law
from aimc_bridge.physics.drift import drift_exponent
from aimc_bridge.physics.faults import FaultMap
from aimc_bridge.physics.laws import law_of
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import programmed
from aimc_bridge.physics.reading import read_after_drift
from aimc_bridge.spec import DeviceSpec, OwnDevice, Preset


@contextmanager
def drawing(seed: int, *names: object) -> Iterator[None]:
    """Run a block with torch's default generator at the beginning of a named stream.

    aihwkit's noise models draw from that generator. After the block it is in the same state as
    before.

    Args:
        seed: The seed.
        *names: The name of the stream.

    Yields:
        None.
    """
    with rng.seeded(seed, *names), warnings.catch_warnings():
        # HermesNoiseModel of aihwkit 1.1.0 indexes with a list of masks, which torch warns about
        warnings.filterwarnings("ignore", message="Using a non-tuple sequence")
        yield


class OurNoiseModel(BaseNoiseModel):  # type: ignore[misc]
    """A noise model for aihwkit's tiles that knows our devices and their faults.

    Attributes:
        pcm: The device.
        broken: The broken devices of the tile that is programmed next, from `faults.draw`; None
            draws them from torch's default generator, as the noise is drawn.
    """

    def __init__(self, pcm: DeviceSpec) -> None:
        """Make the model of a device.

        Args:
            pcm: The device.
        """
        super().__init__(SinglePairConductanceConverter(g_max=pcm.g_max_us))
        self.pcm = pcm
        self.broken: FaultMap | None = None

    def _broken(self, weights: Tensor) -> FaultMap | None:
        """Return the broken devices of a tile to program, `[out, in]`; None if none can break."""
        if not self.pcm.faults:
            return None
        broken, self.broken = self.broken, None
        if broken is None:
            broken = fault_law.draw(_one_tile(weights), self.pcm, lambda *_: _generator())
        return broken.to(weights)


class LawNoiseModel(OurNoiseModel):
    """A noise model for any DeviceSpec on an aihwkit tile.

    Programming, drift and read noise follow our laws in `physics`. Numbers are drawn from torch's
    default generator, as in aihwkit's own models. The state of a tile (conductances, exponents,
    scale, broken devices) is kept where aihwkit keeps its drift parameters. We do not call the
    three functions for single devices; aihwkit's `apply_noise` needs them from every model.

    Attributes:
        pcm: The device.
        t_inference: Seconds after programming of the last drift.
    """

    def __init__(self, pcm: DeviceSpec) -> None:
        """Make the model of a device.

        Args:
            pcm: The device.
        """
        super().__init__(pcm)
        self.t_inference = 0.0

    @torch.no_grad()
    def apply_programming_noise(self, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the programmed weights of a tile, and its state.

        Args:
            weights: Normalised weights, `[out, in]`.

        Returns:
            The programmed weights, `[out, in]`, and the state: conductances, exponents, scale.
        """
        grid = _one_tile(weights)
        shapes = cell_law.noise_shapes(grid, self.pcm)
        eps = [torch.randn(shape, dtype=weights.dtype) for shape in shapes]
        broken = self._broken(weights)
        cells = cell_law.program_cells(weights, grid, self.pcm, eps[0], eps[1], broken)
        state = [cells.conductance_us, cells.nu, cells.us_per_unit]
        if cells.working is not None and cells.stuck is not None:
            state += [cells.working, cells.stuck]
        return cell_law.held_weight(cells, grid), state

    @torch.no_grad()
    def apply_drift_noise(
        self, weights: Tensor, drift_noise_parameters: list[Tensor], t_inference: float
    ) -> Tensor:
        """Return the weights of a tile as they are read some time after programming.

        Args:
            weights: Weights of the tile, `[out, in]`; only their dtype and shape are used.
            drift_noise_parameters: The state that `apply_programming_noise` returned.
            t_inference: Seconds after programming.
        """
        self.t_inference = t_inference
        g, nu, scale, *broken = drift_noise_parameters
        working, stuck = broken or (None, None)
        cells = cell_law.Cells(g, nu, scale, working, stuck, self.pcm)
        eps = torch.randn(cells.conductance_us.shape, dtype=weights.dtype)
        return cell_law.read_cells(cells, _one_tile(weights), self.pcm, t_inference, eps)

    def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor:
        """Return the programmed conductance of devices.

        Args:
            g_target: Target conductances in microsiemens, any shape.

        Returns:
            Conductances in microsiemens, same shape.
        """
        return programmed(g_target, self.pcm, torch.randn_like(g_target))

    def generate_drift_coefficients(self, g_target: Tensor) -> Tensor:
        """Return drift exponents of devices.

        Args:
            g_target: Target conductances in microsiemens, any shape.

        Returns:
            The exponents, same shape.
        """
        return drift_exponent(g_target, self.pcm, torch.randn_like(g_target))

    def apply_drift_noise_to_conductance(
        self, g_prog: Tensor, drift_noise_param: Tensor, t_inference: float
    ) -> Tensor:
        """Return the conductance of devices some time after programming.

        Args:
            g_prog: Programmed conductances in microsiemens, any shape.
            drift_noise_param: Drift exponents, same shape.
            t_inference: Seconds after programming.

        Returns:
            Conductances in microsiemens, same shape.
        """
        eps = torch.randn_like(g_prog)
        return read_after_drift(g_prog, drift_noise_param, t_inference, self.pcm, eps)


class OwnNoiseModel(OurNoiseModel):
    """A noise model for a user's device, which programs and reads whole tiles.

    The generators that the device gets are seeded from torch's default generator, from which
    aihwkit's own models draw. The state of a tile is a list of tensors, which aihwkit keeps as its
    drift parameters.

    Attributes:
        pcm: The device.
    """

    pcm: OwnDevice

    @torch.no_grad()
    def apply_programming_noise(self, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the programmed weights of a tile, and its state.

        Args:
            weights: Normalised weights, `[out, in]`.

        Returns:
            The weights as read at time 0, `[out, in]`, and the state.
        """
        broken = self._broken(weights)
        tile = own.program_tile(weights, self.pcm, _generator(), broken)
        return own.read_tile(tile, self.pcm, 0.0, _generator()), tile.tensors()

    @torch.no_grad()
    def apply_drift_noise(
        self, weights: Tensor, drift_noise_parameters: list[Tensor], t_inference: float
    ) -> Tensor:
        """Return the weights of a tile as they are read some time after programming.

        Args:
            weights: Weights of the tile, `[out, in]`; they show the structure of the state.
            drift_noise_parameters: The state that `apply_programming_noise` returned.
            t_inference: Seconds after programming.
        """
        structure = rng.stream(0, "structure")
        tile = own.restored(drift_noise_parameters, weights, self.pcm, structure)
        return own.read_tile(tile, self.pcm, t_inference, _generator())

    def _refuse(self) -> NoReturn:
        """Raise CapabilityError: there are no single devices."""
        law_of(self.pcm).sigma_prog_us(torch.zeros(1), self.pcm)
        raise AssertionError("the law of a user's device refuses single devices")

    def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor:
        """Refuse: there are no single devices."""
        self._refuse()

    def generate_drift_coefficients(self, g_target: Tensor) -> Tensor:
        """Refuse: there are no single devices."""
        self._refuse()

    def apply_drift_noise_to_conductance(
        self, g_prog: Tensor, drift_noise_param: Tensor, t_inference: float
    ) -> Tensor:
        """Refuse: there are no single devices."""
        self._refuse()


def _generator() -> torch.Generator:
    """Return a new generator, seeded from torch's default generator."""
    return torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))


def _one_tile(weight: Tensor) -> TileGrid:
    """Return the grid of a matrix that lies on one tile."""
    return TileGrid((weight.shape[1],), (weight.shape[0],))


class OracleDriftCompensation(BaseDriftCompensation):  # type: ignore[misc]
    """Drift compensation by the inverse of the known mean drift; nothing is measured.

    Attributes:
        noise_model: The noise model of the same tile, which knows the device and the time.
    """

    def __init__(self, noise_model: LawNoiseModel) -> None:
        """Make the compensation of a tile.

        Args:
            noise_model: The noise model of the same tile.
        """
        self.noise_model = noise_model

    def init_baseline(self, tile: Any) -> Tensor:
        """Return the target weights of a tile, `[out, in]`.

        Args:
            tile: The tile.
        """
        targets: Tensor = tile.reference_combined_weights.clone()
        return targets

    def readout(self, out_tensor: Tensor) -> Tensor:
        """Return the outputs as they are, since nothing is measured.

        Args:
            out_tensor: The outputs of the tile.
        """
        return out_tensor

    def get_readout_tensor(self, in_size: int) -> Tensor:
        """Return one input vector of zeros, since aihwkit always sends something.

        Args:
            in_size: Number of inputs of the tile.
        """
        return torch.zeros(1, in_size)

    def apply(self, forward_output: Tensor, ref_value: Tensor) -> Tensor:
        """Return the factor alpha at the time of the last drift, shape [1].

        Args:
            forward_output: The outputs of the tile; only their device is used.
            ref_value: The targets that `init_baseline` returned.
        """
        model = self.noise_model
        factor = compensation.oracle(ref_value, _one_tile(ref_value), model.pcm, model.t_inference)
        return factor[0, :1].to(forward_output.device)


def noise_model(preset: Preset) -> BaseNoiseModel:
    """Return aihwkit's own model if its numbers are the preset's, else ours.

    The compensation "oracle" uses our laws, so it always comes with our model.

    Args:
        preset: The preset.
    """
    oracle = preset.compensation.drift_compensation == "oracle"
    if isinstance(preset.pcm, OwnDevice):
        return OwnNoiseModel(preset.pcm)
    model = None if oracle else own_model(preset.pcm)
    return LawNoiseModel(preset.pcm) if model is None else model


def drift_compensation(preset: Preset, model: BaseNoiseModel) -> BaseDriftCompensation | None:
    """Return aihwkit's drift compensation of the preset's kind, or None.

    The floor of its readouts is always 1e-4.

    Args:
        preset: The preset.
        model: The noise model of the same tile.
    """
    kind = preset.compensation.drift_compensation
    if kind == "none":
        return None
    if kind == "oracle":
        if not isinstance(model, LawNoiseModel):
            law_of(preset.pcm).nu_mean(torch.zeros(1), preset.pcm)  # it has none: this raises
        return OracleDriftCompensation(model)
    kinds: dict[str, type[BaseDriftCompensation]] = {
        "global": GlobalDriftCompensation,
        "global_exact_reference": GlobalDriftCompensationWithExactReference,
        "per_column": PerColumnDriftCompensation,
    }
    return kinds[kind]()
