"""The devices of the library: their numbers with sources, under the names of their laws."""

from __future__ import annotations

import dataclasses
from typing import Any

from aimc_bridge.errors import UnknownNameError
from aimc_bridge.spec.base import V, cite
from aimc_bridge.spec.device import (
    DeviceSpec,
    HermesSpec,
    IdealSpec,
    PcmSpec,
    ScalarDriftSpec,
    SignedPcmSpec,
)

_NETTED = V(True, "aihwkit", "BaseNoiseModel.apply_drift_noise", "from code")
_SIGNED = V(True, "definition", "the signed weight is one cell")


def _pcm(value: Any) -> V:
    """Return a value of the PCM statistics, as aihwkit codes them."""
    return V(value, "nandakumar2019", "via aihwkit PCMLikeNoiseModel", "from code")


def _hermes(value: Any) -> V:
    """Return a value with its source, the HERMES model of aihwkit."""
    return V(value, "legallo2023", "via aihwkit HermesNoiseModel(num_devices=2)", "from code")


def _replication(value: Any) -> V:
    """Return a value from the description of the replication."""
    return V(value, "replication", "physics")


def _ideal(value: Any) -> V:
    """Return a value that follows from the definition of an ideal chip."""
    return V(value, "definition", "an ideal device and periphery")


PCM = cite(
    PcmSpec,
    g_max_us=_pcm(25.0),
    t0_s=_pcm(20.0),
    t_read_s=_pcm(250e-9),
    netting=_NETTED,
    prog_coeff_us=_pcm((0.26348, 1.9650, -1.1731)),
    prog_noise_scale=_pcm(1.0),
    read_noise_scale=_pcm(1.0),
    drift_scale=_pcm(1.0),
    nu_mean=_pcm((-0.0155, 0.0244, 0.049, 0.1)),
    nu_sd=_pcm((-0.0125, -0.0059, 0.008, 0.045)),
    read_coeff=_pcm((0.0088, 0.65, 1e-3, 0.2)),
)

SIGNED_PCM = cite(
    SignedPcmSpec,
    **{
        name: V(value, *dataclasses.astuple(PCM.sources[name]))
        for name, value in PCM.values().items()
        if name != "netting"
    },
    netting=_SIGNED,
    weight_bits=_replication(8),
)

HERMES = cite(
    HermesSpec,
    g_max_us=_hermes(20.7),
    t0_s=_hermes(300.0),
    t_read_s=_hermes(512e-9),
    netting=_NETTED,
    prog_coeff_us=_hermes((0.16603222, 4.71806468, -8.48101252, 4.68961419)),
    prog_noise_scale=_hermes(1.0),
    read_noise_scale=_hermes(1.0),
    drift_scale=_hermes(1.0),
    nu_mean_break=_hermes(0.0945),
    nu_mean_low=_hermes((-0.0387, -0.0182, 0.0720, 0.13)),
    nu_mean_high=_hermes((0.0736, -0.0126, -0.0436)),
    nu_sd_break=_hermes(0.3055),
    nu_sd_low=_hermes((-0.0117, -0.0057, 0.0091, 0.04)),
    nu_sd_high=_hermes((0.0073, 0.0093, -0.0118)),
    read_break=_hermes(0.16),
    read_low=_hermes((-0.0117, -0.0069, 0.015, 0.04)),
    read_high=_hermes((0.0123, 0.0211, -0.0280, 0.0069)),
)

SCALAR_DRIFT = cite(
    ScalarDriftSpec,
    g_max_us=_replication(25.0),
    t0_s=_replication(1.0),
    netting=_SIGNED,
    prog_coeff_us=_replication((0.26348, 1.9650, -1.1731)),
    prog_noise_scale=_replication(1.0),
    weight_bits=_replication(8),
    nu=_replication(0.06),
)

IDEAL = cite(IdealSpec, g_max_us=_ideal(25.0), t0_s=_ideal(20.0), netting=_ideal(True))

DEVICES: dict[str, DeviceSpec] = {
    device.law: device for device in (PCM, SIGNED_PCM, HERMES, SCALAR_DRIFT, IDEAL)
}
"""The devices of the library, by name."""


def get(name: str) -> DeviceSpec:
    """Return a device of the library.

    Args:
        name: A name from `DEVICES`, such as "pcm".

    Returns:
        The device, with the numbers that were published.

    Raises:
        UnknownNameError: If there is none of that name; it lists the names.
    """
    if name not in DEVICES:
        raise UnknownNameError(f"no device {name!r}; there are: {', '.join(sorted(DEVICES))}")
    return DEVICES[name]
