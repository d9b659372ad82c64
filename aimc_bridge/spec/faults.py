"""Faults of a device: how often cells are stuck, and rows and columns are dead."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from aimc_bridge.errors import SpecError, shown


@dataclass(frozen=True, kw_only=True)
class Faults:
    """Rates of faults, which are drawn once for each chip.

    Each rate is a probability from 0 to 1. The draws are independent: of each other, between
    devices, tiles, layers and chips.

    Attributes:
        stuck_at_gmax: Probability that a device is stuck at its largest conductance, g_max.
        stuck_at_zero: Probability that a device is stuck at a conductance of 0.
        dead_rows: Probability that a row of a tile is dead: the input of that tile reaches no
            device.
        dead_columns: Probability that a column of a tile is dead: the tile adds nothing to that
            output.
    """

    stuck_at_gmax: float = 0.0
    stuck_at_zero: float = 0.0
    dead_rows: float = 0.0
    dead_columns: float = 0.0

    def __post_init__(self) -> None:
        """Raise SpecError if a rate is no probability, or if both kinds of stuck exceed 1."""
        for name, rate in self.rates().items():
            number = isinstance(rate, int | float) and not isinstance(rate, bool)
            if not number or not 0 <= rate <= 1:
                raise SpecError(
                    f"Faults.{name} = {shown(rate)}; allowed: a probability from 0 to 1, such as "
                    "0.01 for 1 % of all devices (of all rows or columns of a tile)"
                )
        if self.stuck_at_gmax + self.stuck_at_zero > 1:
            raise SpecError(
                f"Faults.stuck_at_gmax + stuck_at_zero = {self.stuck_at_gmax:g} + "
                f"{self.stuck_at_zero:g}; allowed: at most 1, as no device is stuck at both"
            )

    def rates(self) -> dict[str, float]:
        """Return the four rates by name."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __bool__(self) -> bool:
        """Return whether there can be any fault."""
        return any(self.rates().values())
