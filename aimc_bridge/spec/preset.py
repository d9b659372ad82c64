"""Device, crossbar, compensation and recipes under one name."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from aimc_bridge.errors import SpecError
from aimc_bridge.spec.base import Source, Spec, Table
from aimc_bridge.spec.crossbar import CompensationSpec, CrossbarSpec
from aimc_bridge.spec.device import DeviceSpec
from aimc_bridge.spec.training import TrainingSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Change:
    """One field of a changed preset, and why."""

    field: str
    old: Any
    new: Any
    why: str


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A device, a crossbar, a compensation and recipes, under one name."""

    name: str
    description: str
    pcm: DeviceSpec
    crossbar: CrossbarSpec
    compensation: CompensationSpec
    training: Table = field(default_factory=Table)
    changes: tuple[Change, ...] = ()

    PARTS: ClassVar[tuple[str, ...]] = ("pcm", "crossbar", "compensation")

    def __post_init__(self) -> None:
        kinds = {"pcm": DeviceSpec, "crossbar": CrossbarSpec, "compensation": CompensationSpec}
        given = {part: (getattr(self, part), kind) for part, kind in kinds.items()}
        given |= {f"training[{k!r}]": (v, TrainingSpec) for k, v in self.training.items()}
        for part, (spec, kind) in given.items():
            if not isinstance(spec, kind):
                raise SpecError(
                    f"{part} of preset {self.name!r} is a {type(spec).__name__}; "
                    f"allowed: a {kind.__name__}"
                )

    def __str__(self) -> str:
        changed = ", ".join(f"{c.field}={c.new!r}" for c in self.changes)
        return f"{self.name} with {changed}" if changed else self.name

    def change(self, *, why: str, **values: Any) -> Preset:
        """A copy with other values that says so in `changes` and in the sources.

        Args:    why  the reason, kept as the source of the new values.    values  field=value,
                 fields of pcm, crossbar and compensation.
        Raises:  SpecError where a field does not exist (it lists those that do) or a value is not
                 physical.
        """
        if not why.strip():
            raise SpecError("change needs why=: one line that says what the change is for")
        parts = {part: getattr(self, part) for part in self.PARTS}
        owner = {name: part for part, spec in parts.items() for name in spec.field_names()}
        unknown = [name for name in values if name not in owner]
        if unknown:
            raise SpecError(
                f"preset {self.name!r} has no field {', '.join(unknown)}; "
                f"fields: {', '.join(owner)}"
            )
        source = Source("changed", why, f"preset {self.name}")
        changes = tuple(
            Change(name, getattr(parts[owner[name]], name), value, why)
            for name, value in values.items()
        )
        for part in self.PARTS:
            mine = {name: value for name, value in values.items() if owner[name] == part}
            if mine:
                parts[part] = parts[part].replace(source, **mine)
        return dataclasses.replace(self, **parts, changes=self.changes + changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, JSON-safe; `Preset.from_dict` gives an equal preset back."""
        return {
            "name": self.name,
            "description": self.description,
            **{part: getattr(self, part).to_dict() for part in self.PARTS},
            "training": {name: spec.to_dict() for name, spec in self.training.items()},
            "changes": [[c.field, _plain(c.old), _plain(c.new), c.why] for c in self.changes],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Preset:
        """The preset that `to_dict` described.

        Raises:  SpecError where a part or a field is missing or unknown.
        """
        try:
            parts = {part: Spec.from_dict(data[part]) for part in Preset.PARTS}
            training = Table({k: Spec.from_dict(v) for k, v in data["training"].items()})
            changes = tuple(
                Change(f, _frozen(old), _frozen(new), why) for f, old, new, why in data["changes"]
            )
            name, description = str(data["name"]), str(data["description"])
        except SpecError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise SpecError(f"not a preset's data: {cause!r}") from cause
        return Preset(
            name=name,
            description=description,
            training=training,
            changes=changes,
            **typing.cast(Any, parts),
        )

    def rpu_config(
        self, tile: str = "auto", training: str | None = None, drop: tuple[str, ...] = ()
    ) -> Any:
        """The aihwkit RPU config of this preset; see `engines.aihwkit.config.rpu_config`."""
        from aimc_bridge.engines.aihwkit.config import rpu_config  # the one upward import

        return rpu_config(self, tile=tile, training=training, drop=drop)

    def explain(self) -> pd.DataFrame:
        """A table of every number: part, field, value, unit, source."""
        import pandas as pd

        specs: dict[str, Spec] = {part: getattr(self, part) for part in self.PARTS}
        specs |= {f"training.{name}": spec for name, spec in self.training.items()}
        rows = [
            {
                "part": part,
                "field": name,
                "value": value,
                "unit": next((u for end, u in _UNITS.items() if name.endswith(end)), ""),
                "source": str(spec.sources[name]),
            }
            for part, spec in specs.items()
            for name, value in spec.values().items()
        ]
        return pd.DataFrame(rows, dtype=object)  # a None stays None, not NaN


_UNITS = {"_us": "uS", "_s": "s", "_bits": "bit"}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
