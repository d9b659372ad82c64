"""The preset `hermes`: PCM statistics of the HERMES chip, two devices per weight.

It takes the periphery and the training recipes of `rasch2023`.
"""

from typing import Any

from aimc_bridge.spec import HermesSpec, Preset, V, cite
from presets._rasch2023 import COMPENSATION, CROSSBAR, TRAINING


def hermes(value: Any) -> V:
    """Return a value with its source, the HERMES model of aihwkit."""
    return V(value, "legallo2023", "via aihwkit HermesNoiseModel(num_devices=2)", "from code")


PRESET = Preset(
    name="hermes",
    description="PCM statistics of the HERMES project chip, with the paper's periphery.",
    pcm=cite(
        HermesSpec,
        g_max_us=hermes(20.7),
        t0_s=hermes(300.0),
        t_read_s=hermes(512e-9),
        netting=V(True, "aihwkit", "BaseNoiseModel.apply_drift_noise", "from code"),
        prog_coeff_us=hermes((0.16603222, 4.71806468, -8.48101252, 4.68961419)),
        prog_noise_scale=hermes(1.0),
        read_noise_scale=hermes(1.0),
        drift_scale=hermes(1.0),
        nu_mean_break=hermes(0.0945),
        nu_mean_low=hermes((-0.0387, -0.0182, 0.0720, 0.13)),
        nu_mean_high=hermes((0.0736, -0.0126, -0.0436)),
        nu_sd_break=hermes(0.3055),
        nu_sd_low=hermes((-0.0117, -0.0057, 0.0091, 0.04)),
        nu_sd_high=hermes((0.0073, 0.0093, -0.0118)),
        read_break=hermes(0.16),
        read_low=hermes((-0.0117, -0.0069, 0.015, 0.04)),
        read_high=hermes((0.0123, 0.0211, -0.0280, 0.0069)),
    ),
    crossbar=CROSSBAR,
    compensation=COMPENSATION,
    training=TRAINING,
)
