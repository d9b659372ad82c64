"""Device laws: how memory devices are programmed, drift and are read.

There is one file per law. A device is data: a `DeviceSpec` of `aimc_bridge.spec`, which names its
law. A law is a set of functions and is found by that name; nothing outside this package asks which
kind of device it has. A device of your own is a spec, a law, and one line that registers the two:

    @dataclass(frozen=True, kw_only=True)
    class RelaxingSpec(DeviceSpec):
        law: ClassVar[str] = "relaxing"
        pairs: int = 1                     # a weight is a pair of devices
        sigma_us: float
        rate_per_s: float

    class Relaxing(Law[RelaxingSpec]):
        def sigma_prog_us(self, g_us, pcm):
            return torch.full_like(g_us, pcm.sigma_us)

        def nu_mean(self, g_us, pcm):      # here the rate of each device
            return torch.full_like(g_us, pcm.rate_per_s)

        def moment(self, t_s, pcm):
            return (t_s,)

        def drifted(self, g_prog_us, nu, moment, pcm):
            return g_prog_us * (-nu * moment[0]).exp()

    register(RelaxingSpec, Relaxing())
"""

from aimc_bridge.physics.laws import (
    afm,
    hermes,
    ideal,
    independent,
    own,
    pcm,
    reram_cmo,
    reram_wan,
    scalar,
    signed,
    table,
)
from aimc_bridge.physics.laws.base import Law
from aimc_bridge.physics.laws.registry import law_of, names, of_library, register
from aimc_bridge.physics.laws.statistical import StatisticalLaw

__all__ = ["Law", "StatisticalLaw", "law_of", "names", "of_library", "register"]

_LIBRARY = (
    pcm,
    signed,
    hermes,
    scalar,
    ideal,
    independent,
    reram_wan,
    reram_cmo,
    afm,
    table,
    own,
)  # each registers its law when it is imported
