"""The noise models and weight modifiers of aihwkit, by the law of a device.

A device whose law or numbers are not here still runs on aihwkit's tiles: `noise.LawNoiseModel`
uses our laws there. Only the noise of aihwkit's own training needs a modifier.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from aihwkit.inference import BaseNoiseModel, PCMLikeNoiseModel
from aihwkit.inference.noise.hermes import HermesNoiseModel

from aimc_bridge.spec import DeviceSpec


class BuiltIn(NamedTuple):
    """A noise model of aihwkit 1.1.0.

    Attributes:
        numbers: The numbers that are fixed in its code, by the names of the fields of our specs.
        build: A function that makes the model from the arguments of its constructor.
    """

    numbers: dict[str, Any]
    build: Callable[..., BaseNoiseModel]


def _hermes(**fields: float) -> BaseNoiseModel:
    """Return aihwkit's Hermes model of a pair of devices."""
    return HermesNoiseModel(num_devices=2, **fields)


NOISE_MODELS = {
    "pcm": BuiltIn(
        {
            "g_max_us": 25.0,
            "netting": True,
            "prog_coeff_us": (0.26348, 1.9650, -1.1731),
            "nu_mean": (-0.0155, 0.0244, 0.049, 0.1),
            "nu_sd": (-0.0125, -0.0059, 0.008, 0.045),
            "read_coeff": (0.0088, 0.65, 1e-3, 0.2),
        },
        PCMLikeNoiseModel,
    ),
    "hermes": BuiltIn(
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
        _hermes,
    ),
}
"""aihwkit's noise models, by the law of the device that they describe."""

_ARGUMENTS = {
    "g_max": "g_max_us",
    "t_read": "t_read_s",
    "t_0": "t0_s",
    "prog_noise_scale": "prog_noise_scale",
    "read_noise_scale": "read_noise_scale",
    "drift_scale": "drift_scale",
}

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
        The model, or None if aihwkit has none with these numbers. It has none with faults.
    """
    known, fields = NOISE_MODELS.get(pcm.law), pcm.values()
    if known is None or not pcm.pairs or pcm.faults:
        return None
    if any(fields[name] != value for name, value in known.numbers.items()):
        return None
    return known.build(**{argument: fields[name] for argument, name in _ARGUMENTS.items()})
