"""The devices of the library: their numbers with sources, by name."""

from __future__ import annotations

import dataclasses
from typing import Any

from aimc_bridge.errors import UnknownNameError, shown
from aimc_bridge.spec.base import V, cite
from aimc_bridge.spec.device import (
    AfmPcmSpec,
    DeviceSpec,
    HermesSpec,
    IdealSpec,
    PcmSpec,
    ScalarDriftSpec,
    SignedPcmSpec,
    StateIndependentSpec,
)
from aimc_bridge.spec.reram import ReramCmoSpec, ReramWanSpec

_NETTED = V(True, "aihwkit", "BaseNoiseModel.apply_drift_noise", "from code")
_SIGNED = V(True, "definition", "the signed weight is one cell")


def _pcm(value: Any) -> V:
    """Return a value of the PCM statistics, as aihwkit codes them."""
    return V(value, "nandakumar2019", "via aihwkit PCMLikeNoiseModel", "from code")


def _hermes(value: Any) -> V:
    """Return a value with its source, the HERMES model of aihwkit."""
    return V(value, "legallo2023", "via aihwkit HermesNoiseModel(num_devices=2)", "from code")


def _single(value: Any) -> V:
    """Return a value with its source, aihwkit's model of one device of the HERMES chip."""
    return V(value, "legallo2023", "via aihwkit HermesNoiseModel(num_devices=1)", "from code")


def _independent(value: Any) -> V:
    """Return a value of aihwkit's state-independent model."""
    return V(value, "aihwkit", "StateIndependentNoiseModel", "from code")


def _wan(value: Any) -> V:
    """Return a value of the ReRAM of Wan et al., as aihwkit codes it."""
    return V(value, "wan2022", "via aihwkit ReRamWan2022NoiseModel", "from code")


def _cmo(value: Any, what: str = "from code") -> V:
    """Return a value of CMO/HfOx ReRAM, as aihwkit codes it."""
    return V(value, "falcone_cmo", "via aihwkit ReRamCMONoiseModel", what)


def _afm(value: Any) -> V:
    """Return a value of the noise that analog foundation models are evaluated with."""
    return V(value, "afm2025", "apply_noise_model.py, commit 4f4c505", "from code")


def _replication(value: Any) -> V:
    """Return a value from the description of the replication."""
    return V(value, "replication", "physics")


def ideal(value: Any) -> V:
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

HERMES_SINGLE = cite(
    HermesSpec,
    g_max_us=_single(10.35),
    t0_s=_single(200.0),
    t_read_s=_single(512e-9),
    netting=_NETTED,
    prog_coeff_us=_single((0.15781817, 2.32443916, -2.16310839, 0.68841818)),
    prog_noise_scale=_single(1.0),
    read_noise_scale=_single(1.0),
    drift_scale=_single(1.0),
    nu_mean_break=_single(0.0945),
    nu_mean_low=_single((-0.0387, -0.0182, 0.0720, 0.13)),
    nu_mean_high=_single((0.0736, -0.0126, -0.0436)),
    nu_sd_break=_single(0.3039),
    nu_sd_low=_single((-0.0120, -0.0023, 0.0124, 0.04)),
    nu_sd_high=_single((0.0104, 0.0116, -0.0165)),
    read_break=_single(0.1591),
    read_low=_single((-0.0078, 0.0038, 0.0179, 0.04)),
    read_high=_single((0.0088, 0.0768, -0.1352, 0.0664)),
)

PCM_STATE_INDEPENDENT = cite(
    StateIndependentSpec,
    g_max_us=V(25.0, "aihwkit", "SinglePairConductanceConverter", "from code"),
    t0_s=_independent(20.0),
    t_read_s=_independent(250e-9),
    netting=_NETTED,
    prog_coeff_us=_independent((0.2, 0.0, 0.0)),
    prog_noise_scale=_independent(1.0),
    read_noise_scale=_independent(1.0),
    drift_scale=_independent(1.0),
    nu_mean=_independent(0.1),
    nu_sd=_independent(0.05),
    read_us=_independent(1.0),
)

RERAM_WAN2022 = cite(
    ReramWanSpec,
    g_max_us=_wan(40.0),
    t0_s=V(1.0, "definition", "the first known time; there is no power law"),
    netting=V(False, "definition", "each device is read around its own target"),
    times_s=_wan((1.0, 86400.0, 172800.0)),
    deviation_us=_wan(
        (
            *(0.348, 16.030, -43.853, 45.393, -16.815),
            *(0.701, 22.086, -50.773, 47.095, -16.458),
            *(0.782, 20.274, -43.507, 37.062, -11.934),
        )
    ),
    noise_scale=_wan(1.0),
)

RERAM_CMO = cite(
    ReramCmoSpec,
    g_max_us=V(88.199997, "aihwkit", "SingleDeviceConductanceConverter", "from code"),
    g_min_us=V(9.0, "aihwkit", "SingleDeviceConductanceConverter", "from code"),
    t0_s=V(1.0, "definition", "ln t is 0 at 1 s; there is no power law"),
    netting=_SIGNED,
    prog_coeff_us=_cmo((0.00081107, 0.00106879), "acceptance range 0.2 %, from code"),
    decay_mean_us=_cmo(-0.08900206),
    decay_sd_us=_cmo((0.04201137, 0.41183342)),
    read_us=_cmo(0.0277316483),
    t_read_s=_cmo(1e-6),
    prog_noise_scale=_cmo(1.0),
    read_noise_scale=_cmo(1.0),
    drift_scale=_cmo(1.0),
)

PCM_AFM = cite(
    AfmPcmSpec,
    g_max_us=_afm(180.0),
    t0_s=V(1.0, "definition", "no drift: not used"),
    netting=_SIGNED,
    smallest_us=_afm(0.6),
    one_device_us=_afm(52.5),
    prog_coeff_us=_afm(
        (2.5797410660159494, 0.22419685954327148, -0.00371581208142707, 2.939751381126213e-05)
    ),
    prog_coeff_two_us=_afm(
        (2.110295720240385, 0.2453487119885723, -0.003054993405157235, 1.2329755395573392e-05)
    ),
    prog_noise_scale=_afm(1.0),
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

IDEAL = cite(IdealSpec, g_max_us=ideal(25.0), t0_s=ideal(20.0), netting=ideal(True))

DEVICES: dict[str, DeviceSpec] = {
    **{device.law: device for device in (PCM, SIGNED_PCM, HERMES, SCALAR_DRIFT, IDEAL)},
    "hermes_single": HERMES_SINGLE,
    "pcm_state_independent": PCM_STATE_INDEPENDENT,
    "reram_wan2022": RERAM_WAN2022,
    "reram_cmo": RERAM_CMO,
    "pcm_afm": PCM_AFM,
}
"""The devices of the library, by name; the first five have the names of their laws."""


def get(name: str) -> DeviceSpec:
    """Return a device of the library.

    Args:
        name: A name from `DEVICES`, such as "pcm".

    Returns:
        The device, with the numbers that were published.

    Raises:
        UnknownNameError: If there is none of that name; it lists the names.
    """
    if not isinstance(name, str) or name not in DEVICES:
        raise UnknownNameError(f"no device {shown(name)}; there are: {', '.join(sorted(DEVICES))}")
    return DEVICES[name]
