"""Device physics as pure functions: programming, drift and reading of cells.

A function takes conductances, a device and the noise, and returns a new tensor. It draws no random
numbers, keeps no state and changes no argument. Chips come first in every shape:
`(*chips, *cells)`, where `*cells` is any shape and `*chips` may be empty. Conductances are in
microsiemens, times in seconds after the end of programming. The device is `preset.pcm` of a preset;
which formulas it has is in `aimc_bridge.physics.laws`.

Not modelled anywhere here: stuck cells, temperature.
"""

from aimc_bridge.physics.drift import drift_exponent, drifted
from aimc_bridge.physics.programming import programmed, sigma_prog_us
from aimc_bridge.physics.reading import read, read_sigma

__all__ = ["drift_exponent", "drifted", "programmed", "read", "read_sigma", "sigma_prog_us"]
