"""Presets: device, crossbar, compensation and recipes under one name."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from aimc_bridge.errors import SpecError, shown
from aimc_bridge.spec import published
from aimc_bridge.spec.base import Source, Spec, Table, reason
from aimc_bridge.spec.crossbar import CompensationSpec, CrossbarSpec
from aimc_bridge.spec.device import DeviceSpec
from aimc_bridge.spec.faults import Faults
from aimc_bridge.spec.own import OwnDevice
from aimc_bridge.spec.training import TrainingSpec

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Change:
    """One changed field of a preset, with the reason.

    Attributes:
        field: Name of the field; "name" if the preset was renamed.
        old: The value before.
        new: The value after.
        why: The reason.
    """

    field: str
    old: Any
    new: Any
    why: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Preset:
    """A device, a crossbar, a compensation and recipes, under one name.

    Attributes:
        name: The name, as on a command line.
        description: One line about the chip.
        pcm: The memory device.
        crossbar: The tiles and their periphery.
        compensation: The drift compensation.
        training: Recipes of hardware-aware training, by name.
        changes: All that `change` changed, in order.
        PARTS: Names of the parts whose fields `change` can change.
    """

    name: str
    description: str
    pcm: DeviceSpec
    crossbar: CrossbarSpec
    compensation: CompensationSpec
    training: Table = field(default_factory=Table)
    changes: tuple[Change, ...] = ()

    PARTS: ClassVar[tuple[str, ...]] = ("pcm", "crossbar", "compensation")

    def __post_init__(self) -> None:
        """Raise SpecError if a part is not a spec of its kind."""
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
        """Return the name, with what was changed since the preset got this name."""
        last_name = max((i for i, c in enumerate(self.changes) if c.field == "name"), default=-1)
        changed = ", ".join(f"{c.field}={shown(c.new)}" for c in self.changes[last_name + 1 :])
        return f"{self.name} with {changed}" if changed else self.name

    def __repr__(self) -> str:
        """Return the name with what was changed, and the description; `explain` has the numbers."""
        return f"<Preset {self}: {self.description}>"

    def change(self, *, why: str, name: str | None = None, **values: Any) -> Preset:
        """Return a copy with other values; its `changes` and sources name them.

        Args:
            why: The reason. It is kept as the source of the new values.
            name: A new name for the copy, for `presets.register` and for files.
            **values: New values as field=value: fields of pcm, crossbar and compensation. `faults`
                takes all rates of the device's faults at once, as a `devices.Faults`.

        Returns:
            The copy. This preset stays as it is.

        Raises:
            SpecError: If there is no reason, if there is no such field (the error lists the
                fields), if a value is not physical, or if the name cannot be used.
        """
        reason(why)
        if "faults" in values:
            values = _rates(values, self.pcm.faults)
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

    def with_device(
        self, device: object, *, name: str, why: str, faults: Faults | None = None
    ) -> Preset:
        """Return a copy with another memory device, under a name of its own.

        Crossbar, compensation and recipes stay as they are.

        Args:
            device: A device of the library, by its name in `devices.names()`; any `DeviceSpec`,
                such as a `TableDevice` of measurements; or an object of your own with
                `program(weights, generator) -> state` and
                `read(state, t_inference, generator) -> weights`. The object gets the weights of a
                tile, `[out, in]`, scaled to [-1, 1].
            name: The name of the copy.
            why: The reason, or where the device is from.
            faults: Cells that are stuck, and rows and columns that are dead: a `devices.Faults`.
                None leaves the device as it is.

        Returns:
            The copy. This preset stays as it is.

        Raises:
            UnknownNameError: If the library has no device of that name.
            UsageError: If the object does not have the two functions.
            SpecError: If the name cannot be used, if there is no reason, or if `faults` is
                something else.
        """
        check_name(name)
        reason(why)
        if isinstance(device, str):
            pcm = published.get(device)
        elif isinstance(device, DeviceSpec):
            pcm = device
        else:
            pcm = OwnDevice.of(device, self.pcm, why)
        if faults is not None:
            pcm = pcm.with_faults(_checked(faults), Source("changed", why, f"preset {self.name}"))
        label = device if isinstance(device, str) and not pcm.faults else pcm.label()
        change = Change("pcm", self.pcm.label(), label, why)
        renamed = Change("name", self.name, name, why)
        return dataclasses.replace(
            self,
            name=name,
            description=f"{self.name} with the device {label}: {why}",
            pcm=pcm,
            changes=(*self.changes, change, renamed),
        )

    def identity(self) -> dict[str, Any]:
        """Return plain data that tell this preset from others.

        It is what `to_dict` returns, except that a Python object is known by its class and a digest
        of its contents. Resumed work is recognised by it; no preset can be made of it.
        """
        if not isinstance(self.pcm, OwnDevice):
            return self.to_dict()
        rest = dataclasses.replace(self, pcm=published.IDEAL).to_dict()
        return {**rest, "pcm": self.pcm.identity()}

    def to_dict(self) -> dict[str, Any]:
        """Return the preset as plain data that JSON can hold.

        Returns:
            A dict from which `Preset.from_dict` makes an equal preset.

        Raises:
            SpecError: If the device is a Python object (`with_device`), which is no plain data.
        """
        return {
            "name": self.name,
            "description": self.description,
            **{part: getattr(self, part).to_dict() for part in self.PARTS},
            "training": {name: spec.to_dict() for name, spec in self.training.items()},
            "changes": [[c.field, _plain(c.old), _plain(c.new), c.why] for c in self.changes],
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Preset:
        """Return the preset that `to_dict` described.

        Args:
            data: What `to_dict` returned.

        Returns:
            An equal preset.

        Raises:
            SpecError: If a part or a field is missing or unknown, or if a value is not physical.
        """
        try:
            parts = {part: Spec.from_dict(data[part]) for part in Preset.PARTS}
            training = Table({k: Spec.from_dict(v) for k, v in data["training"].items()})
            changes = tuple(
                Change(f, frozen(old), frozen(new), why) for f, old, new, why in data["changes"]
            )
            name, description = data["name"], data["description"]
            for text in (name, description, *(t for c in changes for t in (c.field, c.why))):
                if not isinstance(text, str):
                    raise SpecError(f"{shown(text)} in a preset's data; allowed: a text")
            for change in changes:
                _check_plain(change.field, (change.old, change.new))
        except SpecError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as cause:
            raise SpecError(f"not a preset's data: {shown(cause)}") from cause
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
        """Return the aihwkit RPU config of this preset.

        Args:
            tile: "rpucuda" (aihwkit's C++ tile), "torch" (its torch tile) or "auto", which takes
                the C++ tile.
            training: Name of a recipe whose settings go into the config too; None means none.
            drop: Settings to leave out if the tile cannot run them, by name.

        Returns:
            An InferenceRPUConfig, or a TorchInferenceRPUConfig for the torch tile.

        Raises:
            CapabilityError: If the tile cannot run a setting; it names the setting.
            UnknownNameError: If the preset has no such recipe.
            UsageError: If the tile or a name in `drop` is unknown.
            VersionError: If there is no working aihwkit.
        """
        from aimc_bridge.engines.aihwkit.config import rpu_config  # the one upward import

        return rpu_config(self, tile=tile, training=training, drop=drop)

    def explain(self) -> pd.DataFrame:
        """Return a table of every number with its source.

        All rows and texts are printed whole, and below them the works that the sources name.

        Returns:
            A DataFrame with one row per number: part, field, value, unit, source. `attrs["works"]`
            has the full citation of each source's key, as in `presets.SOURCES`.
        """
        from aimc_bridge.spec.explanation import Explanation

        return Explanation.of(self._specs())

    def diff(self, other: Preset) -> pd.DataFrame:
        """Return a table of the numbers in which another preset differs from this one.

        Args:
            other: The other preset.

        Returns:
            A DataFrame with one row per number that differs: part, field, unit, first (this
            preset's value), second (the other's), first_source, second_source. A field that one of
            the two does not have, such as that of another kind of device or of a recipe, is
            "absent" there, with the source "".

        Raises:
            SpecError: If `other` is not a preset.
        """
        from aimc_bridge.spec.explanation import differences

        if not isinstance(other, Preset):
            raise SpecError(f"diff: {shown(other)}; allowed: a Preset, such as presets.hermes")
        return differences(self._specs(), other._specs())

    def _specs(self) -> dict[str, Spec]:
        """Return all specs by the names of their parts; recipes are "training.NAME"."""
        specs: dict[str, Spec] = {part: getattr(self, part) for part in self.PARTS}
        return specs | {f"training.{name}": spec for name, spec in self.training.items()}


def check_name(name: str) -> None:
    """Check that a name can stand for a preset, on a command line and in a table.

    Args:
        name: The name.

    Raises:
        SpecError: If it has other characters than letters, digits, "_", "-", "+" and ".", starts
            with a sign, or ends like the name of a file.
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name):
        raise SpecError(
            f"preset name {shown(name)}; allowed: letters, digits, '_', '-', '+' and '.', the "
            "first a letter or a digit"
        )
    if name.endswith((".toml", ".json")):
        raise SpecError(f"preset name {name!r} would be taken for a file; leave its ending out")


def _checked(faults: object) -> Faults:
    """Return the faults; raise SpecError if they are something else."""
    if not isinstance(faults, Faults):
        raise SpecError(
            f"faults = {shown(faults)}; allowed: devices.Faults(stuck_at_gmax=, stuck_at_zero=, "
            "dead_rows=, dead_columns=), with aimc_bridge.devices"
        )
    return faults


def _rates(values: dict[str, Any], old: Faults) -> dict[str, Any]:
    """Return new values of a preset, with the rates that are new in place of `faults`."""
    rates = _checked(values["faults"]).rates()
    if twice := [name for name in rates if name in values]:
        raise SpecError(f"{', '.join(twice)} beside faults=, which says the same; give one of them")
    new = {name: rate for name, rate in rates.items() if rate != old.rates()[name]}
    return {**{name: value for name, value in values.items() if name != "faults"}, **new}


def _check_plain(name: str, value: Any) -> None:
    """Raise SpecError unless a value of a change is a text, a number, a truth value or None."""
    if isinstance(value, tuple | list):
        for part in value:
            _check_plain(name, part)
        return
    huge = isinstance(value, int) and abs(value) >= 2**63
    odd = isinstance(value, float) and not math.isfinite(value)
    if huge or odd or not isinstance(value, str | int | float | None):
        raise SpecError(
            f"a change of {name} = {shown(value)}; allowed: texts and finite numbers below 2^63"
        )


def _plain(value: Any) -> Any:
    """Return a list for a tuple, as JSON has it, and other values as they are."""
    return list(value) if isinstance(value, tuple) else value


def frozen(value: Any) -> Any:
    """Return a tuple for a list, as specs have it, and other values as they are."""
    return tuple(value) if isinstance(value, list) else value
