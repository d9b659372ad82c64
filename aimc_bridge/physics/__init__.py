"""Pure laws: tensors and noise in, a new tensor out. No randomness, no state.

One shape law: chips in front, `(*chips, *cells)`. Conductances in microsiemens, times in seconds
after the end of programming.
"""

from aimc_bridge.physics.drift import drift_exponent, drifted
from aimc_bridge.physics.programming import programmed, sigma_prog_us
from aimc_bridge.physics.reading import read, read_sigma

__all__ = ["drift_exponent", "drifted", "programmed", "read", "read_sigma", "sigma_prog_us"]
