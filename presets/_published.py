"""Presets of other published devices, each with the periphery and the recipes of `rasch2023`."""

from aimc_bridge.spec import DeviceSpec, Preset, Source, Table
from aimc_bridge.spec.published import (
    HERMES_SINGLE,
    PCM_AFM,
    PCM_STATE_INDEPENDENT,
    RERAM_CMO,
    RERAM_WAN2022,
)
from presets._rasch2023 import COMPENSATION, CROSSBAR, TRAINING


def _preset(name: str, description: str, device: DeviceSpec) -> Preset:
    """Return the preset of a device."""
    return Preset(
        name=name,
        description=f"{description}, with the paper's periphery.",
        pcm=device,
        crossbar=CROSSBAR,
        compensation=COMPENSATION,
        training=TRAINING,
    )


def _with_programming_noise(preset: Preset, why: str) -> Preset:
    """Return a preset whose recipes inject the programming noise alone."""
    source = Source("choice", why)
    recipes = {
        name: recipe.change(why=source, noise_type="programming")
        for name, recipe in preset.training.items()
    }
    return Preset(
        name=preset.name,
        description=preset.description,
        pcm=preset.pcm,
        crossbar=preset.crossbar,
        compensation=preset.compensation,
        training=Table(recipes),
    )


HERMES_SINGLE_PRESET = _preset(
    "hermes_single", "PCM of the HERMES project chip, one device for each sign", HERMES_SINGLE
)

STATE_INDEPENDENT_PRESET = _preset(
    "pcm_state_independent",
    "PCM with the same noise and drift for every conductance",
    PCM_STATE_INDEPENDENT,
)

WAN_PRESET = _with_programming_noise(
    _preset(
        "reram_wan2022", "ReRAM of Wan et al. 2022, known at 1 s, 1 day and 2 days", RERAM_WAN2022
    ),
    "the device is not known at the paper's 20 s: the deviation at 1 s instead",
)

CMO_PRESET = _preset("reram_cmo", "CMO/HfOx ReRAM, one device per weight", RERAM_CMO)

AFM_PRESET = _with_programming_noise(
    _preset("pcm_afm", "The PCM noise of IBM's analog foundation models, without drift", PCM_AFM),
    "all the noise that the device has: its readings have none",
)
