"""Device, crossbar, compensation and recipes under one name."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from aimc_bridge.errors import SpecError
from aimc_bridge.spec.base import Source, Spec, Table, reason
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
        parts = {part: (getattr(self, part), kind) for part, kind in kinds.items()}
        parts |= {f"training[{k!r}]": (v, TrainingSpec) for k, v in self.training.items()}
        for part, (spec, kind) in parts.items():
            if not isinstance(spec, kind):
                raise SpecError(
                    f"{part} of preset {self.name!r} is a {type(spec).__name__}; "
                    f"allowed: a {kind.__name__}"
                )

    def __str__(self) -> str:
        last_name = max((i for i, c in enumerate(self.changes) if c.field == "name"), default=-1)
        changed = ", ".join(f"{c.field}={c.new!r}" for c in self.changes[last_name + 1 :])
        return f"{self.name} with {changed}" if changed else self.name

    def change(self, *, why: str, name: str | None = None, **values: Any) -> Preset:
        """Return a copy with other values that says so in `changes` and in the sources.

        Args:
            why: The reason, kept as the source of the new values.
            name: A name of its own for the copy, for `presets.register` and for files.
            **values: field=value, fields of pcm, crossbar and compensation.

        Raises:
            SpecError: If there is no reason, no such field (the error lists the fields), a value is
                not physical, or the name cannot be one.
        """
        reason(why)
        parts = {part: getattr(self, part) for part in self.PARTS}
        owner = {field: part for part, spec in parts.items() for field in spec.field_names()}
        unknown = [field for field in values if field not in owner]
        if unknown:
            raise SpecError(
                f"preset {self.name!r} has no field {', '.join(unknown)}; "
                f"fields: {', '.join(owner)}"
            )
        source = Source("changed", why, f"preset {self.name}")
        changes = tuple(
            Change(field, getattr(parts[owner[field]], field), value, why)
            for field, value in values.items()
        )
        for part in self.PARTS:
            new = {field: value for field, value in values.items() if owner[field] == part}
            if new:
                parts[part] = parts[part].change(why=source, **new)
        copy = dataclasses.replace(self, **parts, changes=self.changes + changes)
        if name is None:
            return copy
        check_name(name)
        renamed = Change("name", self.name, name, why)
        return dataclasses.replace(
            copy,
            name=name,
            description=f"{self.name}, changed: {why}",
            changes=(*copy.changes, renamed),
        )

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
        """Return a table of every number.

        Printed, it cuts nothing, and the works that the sources name stand under it.

        Returns:
            A row per number: part, field, value, unit, source. `attrs["works"]` has the full
            citation of each source's key, as in `presets.SOURCES`.
        """
        from aimc_bridge.spec.explanation import Explanation

        specs: dict[str, Spec] = {part: getattr(self, part) for part in self.PARTS}
        specs |= {f"training.{name}": spec for name, spec in self.training.items()}
        return Explanation.of(specs)


def check_name(name: str) -> None:
    """Check that a preset can be found by this name, on a command line and in a table.

    Raises:
        SpecError: If it cannot.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise SpecError(
            f"preset name {name!r}; allowed: letters, digits, '_', '-', '+' and '.', the first a "
            "letter or a digit"
        )
    if name.endswith((".toml", ".json")):
        raise SpecError(f"preset name {name!r} would be taken for a file; leave its ending out")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
