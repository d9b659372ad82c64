"""The law of a device that is an object of the user's: it has no single cells."""

from __future__ import annotations

from typing import ClassVar, NoReturn

from torch import Tensor

from aimc_bridge.errors import CapabilityError
from aimc_bridge.physics.laws.base import Law
from aimc_bridge.physics.laws.registry import register
from aimc_bridge.spec import OwnDevice


class OwnLaw(Law[OwnDevice]):
    """The law "own": `aimc_bridge.physics.own` programs and reads whole tiles.

    What asks for a single device gets an error.
    """

    by_tile: ClassVar[bool] = True

    def _refuse(self, pcm: OwnDevice) -> NoReturn:
        """Raise CapabilityError."""
        raise CapabilityError(
            f"the device {pcm.label()} programs and reads tiles of weights; single "
            "conductances and their mean drift are not known, so that oracle compensation, the "
            "device level of the cross-check against formulas and the functions of physics have "
            'no answer: use drift_compensation="global", or crosscheck(..., against=preset)'
        )

    def sigma_prog_us(self, g_us: Tensor, pcm: OwnDevice) -> Tensor:
        """Refuse: a tile has no single device."""
        self._refuse(pcm)

    def nu_mean(self, g_us: Tensor, pcm: OwnDevice) -> Tensor:
        """Refuse: a tile has no single device."""
        self._refuse(pcm)


register(OwnDevice, OwnLaw())
