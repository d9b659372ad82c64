"""The noise models and weight modifiers of aihwkit, by the law of a device.

A device whose law or numbers are not here still runs on aihwkit's tiles: `noise.LawNoiseModel`
uses our laws there. Only the noise of aihwkit's own training needs a modifier.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from aihwkit.inference import BaseNoiseModel, PCMLikeNoiseModel
from aihwkit.inference.converter.base import BaseConductanceConverter
from aihwkit.inference.converter.conductance import (
    NPairConductanceConverter,
    SingleDeviceConductanceConverter,
)
from aihwkit.inference.noise.custom import StateIndependentNoiseModel
from aihwkit.inference.noise.hermes import HermesNoiseModel
from aihwkit.inference.noise.reram import ReRamCMONoiseModel, ReRamWan2022NoiseModel
from torch import Tensor

from aimc_bridge.spec import DeviceSpec

_ARGUMENTS = {
    "g_max": "g_max_us",
    "t_read": "t_read_s",
    "t_0": "t0_s",
    "prog_noise_scale": "prog_noise_scale",
    "read_noise_scale": "read_noise_scale",
    "drift_scale": "drift_scale",
}


class BuiltIn(NamedTuple):
    """A noise model of aihwkit 1.1.0.

    Attributes:
        numbers: The numbers that are fixed in its code, by the names of the fields of our specs.
        build: A function that makes the model from the arguments of its constructor.
        arguments: The fields of our specs that its constructor takes, by the names there.
    """

    numbers: dict[str, Any]
    build: Callable[..., BaseNoiseModel]
    arguments: dict[str, str] = _ARGUMENTS


class ReferencedCells(ReRamCMONoiseModel):  # type: ignore[misc]
    """aihwkit's model of CMO ReRAM, for conductances as differences to the middle of the range."""

    def _middle(self) -> float:
        """Return the conductance of the reference, in microsiemens."""
        return float(self.g_max + self.g_min) / 2

    def apply_programming_noise_to_conductance(self, g_target: Tensor) -> Tensor:
        """Return the programmed conductance of devices.

        Args:
            g_target: Target conductances minus the reference in microsiemens, any shape.
        """
        middle = self._middle()
        g: Tensor = super().apply_programming_noise_to_conductance(g_target + middle)
        return g - middle

    def apply_drift_noise_to_conductance(
        self, g_prog: Tensor, drift_noise_param: Tensor, t_inference: float
    ) -> Tensor:
        """Return the conductance of devices some time after programming.

        Args:
            g_prog: Programmed conductances minus the reference in microsiemens, any shape.
            drift_noise_param: Not used.
            t_inference: Seconds after programming.
        """
        g, middle = g_prog + self._middle(), self._middle()
        later: Tensor = super().apply_drift_noise_to_conductance(g, drift_noise_param, t_inference)
        return later - middle


NOISE_MODELS = {
    "pcm": [
        BuiltIn(
            {
                "g_max_us": 25.0,
                "netting": True,
                "prog_coeff_us": (0.26348, 1.9650, -1.1731),
                "nu_mean": (-0.0155, 0.0244, 0.049, 0.1),
                "nu_sd": (-0.0125, -0.0059, 0.008, 0.045),
                "read_coeff": (0.0088, 0.65, 1e-3, 0.2),
            },
            PCMLikeNoiseModel,
        )
    ],
    "hermes": [
        BuiltIn(
            {
                "g_max_us": 20.7,
                "netting": True,
                "prog_coeff_us": (0.16603222, 4.71806468, -8.48101252, 4.68961419),
                "nu_mean_break": 0.0945,
                "nu_mean_low": (-0.0387, -0.0182, 0.0720, 0.13),
                "nu_mean_high": (0.0736, -0.0126, -0.0436),
                "nu_sd_break": 0.3055,
                "nu_sd_low": (-0.0117, -0.0057, 0.0091, 0.04),
                "nu_sd_high": (0.0073, 0.0093, -0.0118),
                "read_break": 0.16,
                "read_low": (-0.0117, -0.0069, 0.015, 0.04),
                "read_high": (0.0123, 0.0211, -0.0280, 0.0069),
            },
            partial(HermesNoiseModel, num_devices=2),
        ),
        BuiltIn(
            {
                "g_max_us": 10.35,
                "netting": True,
                "prog_coeff_us": (0.15781817, 2.32443916, -2.16310839, 0.68841818),
                "nu_mean_break": 0.0945,
                "nu_mean_low": (-0.0387, -0.0182, 0.0720, 0.13),
                "nu_mean_high": (0.0736, -0.0126, -0.0436),
                "nu_sd_break": 0.3039,
                "nu_sd_low": (-0.0120, -0.0023, 0.0124, 0.04),
                "nu_sd_high": (0.0104, 0.0116, -0.0165),
                "read_break": 0.1591,
                "read_low": (-0.0078, 0.0038, 0.0179, 0.04),
                "read_high": (0.0088, 0.0768, -0.1352, 0.0664),
            },
            partial(HermesNoiseModel, num_devices=1),
        ),
    ],
    "state independent": [
        BuiltIn(
            {
                "netting": True,
                "prog_coeff_us": (0.2, 0.0, 0.0),
                "nu_mean": 0.1,
                "nu_sd": 0.05,
                "read_us": 1.0,
            },
            StateIndependentNoiseModel,
        )
    ],
}
"""aihwkit's noise models, by the law of the devices that they describe."""

CELL_MODELS = {
    "reram wan2022": [
        BuiltIn(
            {
                "g_max_us": 40.0,
                "times_s": (1.0, 86400.0, 172800.0),
                "deviation_us": (
                    *(0.348, 16.030, -43.853, 45.393, -16.815),
                    *(0.701, 22.086, -50.773, 47.095, -16.458),
                    *(0.782, 20.274, -43.507, 37.062, -11.934),
                ),
            },
            ReRamWan2022NoiseModel,
            {"g_max": "g_max_us", "noise_scale": "noise_scale"},
        )
    ],
    "reram cmo": [
        BuiltIn(
            {
                "prog_coeff_us": coefficients,
                "decay_mean_us": -0.08900206,
                "decay_sd_us": (0.04201137, 0.41183342),
                "read_us": 0.0277316483,
                "t_read_s": 1e-6,
            },
            partial(ReferencedCells, acceptance_range=acceptance),
            {
                "g_max": "g_max_us",
                "g_min": "g_min_us",
                "prog_noise_scale": "prog_noise_scale",
                "read_noise_scale": "read_noise_scale",
                "drift_scale": "drift_scale",
            },
        )
        for acceptance, coefficients in (
            (0.2, (0.00081107, 0.00106879)),
            (2, (0.0112185391, 0.01129027418)),
        )
    ],
}
"""Noise models whose laws of single devices are ours, but not what they do with a weight.

The cross-check compares single devices with them. On aihwkit's tiles our own laws run instead:
docs/aihwkit-notes.md says why.
"""

MODIFIERS: dict[str, tuple[str, ...]] = {
    "pcm": ("programming", "pcm"),
    "signed pcm": ("programming", "pcm"),
    "scalar": ("programming",),
    "ideal": (),
}
"""The kinds of noise that aihwkit's weight modifiers inject, by a device's law.

The modifiers know one polynomial for the programming noise, and on top of it the read noise of PCM
("pcm"). A device without noise needs none.
"""


def own_model(pcm: DeviceSpec) -> BaseNoiseModel | None:
    """Return aihwkit's own noise model of a device.

    Args:
        pcm: The device.

    Returns:
        The model, or None if aihwkit has none with these numbers. It has none with faults. It reads
        weights of one device wrongly, see `referenced_model`.
    """
    if not pcm.pairs or pcm.faults or pcm.referenced:
        return None
    if pcm.pairs == 1:
        return _built(NOISE_MODELS, pcm)
    pairs = NPairConductanceConverter(list(pcm.factors), g_max=pcm.g_max_us)
    return _built(NOISE_MODELS, pcm, pairs)


def referenced_model(pcm: DeviceSpec) -> BaseNoiseModel | None:
    """Return aihwkit's noise model of devices that are read against a reference.

    Its functions of single devices and its converter are ours. Its tiles convert the programmed
    weights to conductances again at each reading, on another range; docs/aihwkit-notes.md says what
    that does. On aihwkit's tiles our own laws run instead.

    Args:
        pcm: The device.

    Returns:
        The model, or None if there is no reference, or if aihwkit has none with these numbers.
    """
    if not pcm.referenced:
        return None
    g_min_us = pcm.values().get("g_min_us", 0.0)
    single = SingleDeviceConductanceConverter(g_max=pcm.g_max_us, g_min=g_min_us)
    return _built(NOISE_MODELS, pcm, single)


def cell_model(pcm: DeviceSpec) -> BaseNoiseModel | None:
    """Return aihwkit's noise model of single devices, if its weights are not what ours are.

    Its three functions take and return conductances as our laws do.

    Args:
        pcm: The device.

    Returns:
        The model, or None if aihwkit has none with these numbers.
    """
    return _built(CELL_MODELS, pcm)


def _built(
    models: dict[str, list[BuiltIn]],
    pcm: DeviceSpec,
    g_converter: BaseConductanceConverter | None = None,
) -> BaseNoiseModel | None:
    """Return the first of the models that has the numbers of a device, or None."""
    fields = pcm.values()
    for known in models.get(pcm.law, ()):
        if all(fields[name] == value for name, value in known.numbers.items()):
            arguments = {argument: fields[n] for argument, n in known.arguments.items()}
            if g_converter is not None:
                arguments["g_converter"] = g_converter
            return known.build(**arguments)
    return None
