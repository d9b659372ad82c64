"""A recipe: what to inject and how to train."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from aimc_bridge.spec import Preset, Source, TrainingSpec


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
        """A copy with other values; `why` becomes their source.

        Raises:  SpecError for an unknown field (it lists the fields) or a value out of range.
        """
        return replace(self, spec=self.spec.replace(Source("changed", why, self.name), **fields))
