"""A recipe: what to inject and how to train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from aimc_bridge.spec import Preset, Source, TrainingSpec
from aimc_bridge.spec.base import reason


@dataclass(frozen=True)
class HWATraining:
    """A recipe: the TrainingSpec of a preset for one kind of model, possibly changed."""

    name: str
    spec: TrainingSpec

    @staticmethod
    def for_(preset: Preset, name: str) -> HWATraining:
        """The recipe of that name.

        Raises:  UnknownNameError that lists the recipes of the preset.
        """
        return HWATraining(f"{preset.name}/{name}", preset.training[name])

    def override(self, why: str = "override", **fields: Any) -> HWATraining:
        """Return a copy with other values: `change`, for which a reason need not be given.

        Args:
            why: The reason, which becomes the source of the new values.
            **fields: field=value.

        Raises:
            SpecError: As `change`.
        """
        return self.change(why=why, **fields)

    def change(self, *, why: str, **fields: Any) -> HWATraining:
        """Return a copy with other values.

        Args:
            why: The reason, which becomes the source of the new values.
            **fields: field=value.

        Raises:
            SpecError: If there is no reason, no such field (the error lists the fields), or a value
                is out of range.
        """
        source = Source("changed", reason(why), self.name)
        return replace(self, spec=self.spec.change(why=source, **fields))
