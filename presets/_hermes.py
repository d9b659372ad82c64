"""The preset `hermes`: PCM statistics of the HERMES chip, two devices per weight.

It takes the periphery and the training recipes of `rasch2023`.
"""

from aimc_bridge.spec import Preset
from aimc_bridge.spec.published import HERMES
from presets._rasch2023 import COMPENSATION, CROSSBAR, TRAINING

PRESET = Preset(
    name="hermes",
    description="PCM statistics of the HERMES project chip, with the paper's periphery.",
    pcm=HERMES,
    crossbar=CROSSBAR,
    compensation=COMPENSATION,
    training=TRAINING,
)
