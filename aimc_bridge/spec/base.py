"""Values that carry their sources, and frozen specs made of them.

A number stands beside its source: `cite` builds specs from such pairs, and a field without a source
is an error.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from aimc_bridge.errors import SpecError, UnknownNameError, shown


@dataclass(frozen=True)
class Source:
    """The place where a value was read.

    Attributes:
        key: Key of the work in the bibliography, `presets.SOURCES`.
        where: Place in that work, such as "SI Table 1".
        how: How it was read, such as "from code".
    """

    key: str
    where: str = ""
    how: str = ""

    def __post_init__(self) -> None:
        """Raise SpecError if there is no key, or if a part is no text."""
        parts = (self.key, self.where, self.how)
        if not all(isinstance(part, str) for part in parts):
            raise SpecError(f"source {shown(parts)}; allowed: texts, (key, where, how)")
        if not self.key.strip():
            raise SpecError("a source needs a key of the bibliography, got ''")

    def __str__(self) -> str:
        """Return key, place and way in one line, without empty parts."""
        return ", ".join(part for part in (self.key, self.where, self.how) if part)


def reason(why: str) -> str:
    """Check the reason of a change and return it.

    Args:
        why: One line of text.

    Returns:
        The same text.

    Raises:
        SpecError: If it is empty or not a text.
    """
    if not isinstance(why, str) or not why.strip():
        raise SpecError(
            f"change needs why=, one line that says what the change is for; got {shown(why)}"
        )
    return why


@dataclass(frozen=True)
class V:
    """A value with its source, as a preset writes it.

    Attributes:
        value: The value of a field.
        key: Key of the work in the bibliography, `presets.SOURCES`.
        where: Place in that work.
        how: How it was read.
    """

    value: Any
    key: str
    where: str = ""
    how: str = ""


class Table(Mapping[str, Any]):
    """A read-only mapping that can be hashed, compared and pickled."""

    def __init__(self, entries: Mapping[str, Any] | None = None) -> None:
        """Copy the entries.

        Args:
            entries: Values by name; None makes an empty table.
        """
        self._entries = dict(entries or {})

    def __getitem__(self, key: str) -> Any:
        """Return an entry; UnknownNameError lists the names if there is none."""
        if key not in self:
            raise UnknownNameError(f"no entry {shown(key)}; there are: {', '.join(self._entries)}")
        return self._entries[key]

    def __contains__(self, key: object) -> bool:
        """Return whether there is such an entry."""
        return isinstance(key, str) and key in self._entries

    def __iter__(self) -> Iterator[str]:
        """Yield the names in their order."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self._entries)

    def __hash__(self) -> int:
        """Return a hash that does not depend on the order of the entries."""
        return hash(frozenset(self._entries.items()))  # equal tables may differ in order

    def __repr__(self) -> str:
        """Return the call that makes this table."""
        return f"Table({self._entries!r})"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Base of all specs: every field has a source, and every value is checked.

    A field with a default is optional: a spec that does not set it has no value and no source for
    it, also in `values` and in files. So a new optional field changes no spec that exists.

    Attributes:
        sources: The `Source` of each field, by the name of the field.
    """

    sources: Table = field(default_factory=Table, repr=False)

    def __post_init__(self) -> None:
        """Raise SpecError if a source is missing or a value has a wrong type or size."""
        unsourced = [name for name in self.values() if name not in self.sources]
        if unsourced:
            raise SpecError(
                f"{type(self).__name__}: no source for {', '.join(unsourced)}; build it with "
                f"cite({type(self).__name__}, field=V(value, source, where)), both of "
                "aimc_bridge.spec, or change a preset"
            )
        stray = [name for name in self.sources if name not in self.field_names()]
        if stray:
            raise SpecError(f"{type(self).__name__}: sources for {', '.join(stray)}, no such field")
        _check_types(self)
        self.check()

    def check(self) -> None:
        """Raise SpecError if the values are not physical."""

    @classmethod
    def field_names(cls) -> tuple[str, ...]:
        """Return the names of all fields but `sources`."""
        return tuple(f.name for f in dataclasses.fields(cls) if f.name != "sources")

    @classmethod
    def optional(cls) -> dict[str, Any]:
        """Return the defaults of the fields that need not be set, by name."""
        fields = (f for f in dataclasses.fields(cls) if f.name != "sources")
        return {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}

    def values(self) -> dict[str, Any]:
        """Return the values of all fields by name; optional fields only if they are set."""
        unset = self.optional()
        values = {name: getattr(self, name) for name in self.field_names()}
        return {k: v for k, v in values.items() if k not in unset or v != unset[k]}

    def identity(self) -> dict[str, Any]:
        """Return plain data that are equal for equal specs, sources aside.

        Fingerprints of chips, sweeps and cross-checks are made of it. A spec whose values are not
        plain data says here what it is known by.
        """
        return self.values()

    def change(self: S, *, why: str | Source, **values: Any) -> S:
        """Return a copy with other values.

        An optional field that gets its default back has no source any more.

        Args:
            why: The reason, which becomes the source of the new values; or a `Source`, if the
                values were read somewhere.
            **values: New values as field=value.

        Returns:
            The copy, checked like any other spec.

        Raises:
            SpecError: If there is no reason, if there is no such field (the error lists the
                fields), or if a value is not physical.
        """
        source = why if isinstance(why, Source) else Source("changed", reason(why))
        unknown = [name for name in values if name not in self.field_names()]
        if unknown:
            raise SpecError(
                f"{type(self).__name__} has no field {', '.join(unknown)}; "
                f"fields: {', '.join(self.field_names())}"
            )
        unset = self.optional()
        dropped = {k for k, value in values.items() if k in unset and value == unset[k]}
        sources = {**self.sources, **dict.fromkeys(values, source)}
        kept = Table({name: source for name, source in sources.items() if name not in dropped})
        return dataclasses.replace(self, sources=kept, **values)

    def require(self, ok: bool, field_name: str, allowed: str) -> None:
        """Raise an error about a field unless a condition holds; for use in `check`.

        Args:
            ok: The condition.
            field_name: The field that the error names, with its value.
            allowed: The allowed values, for the error.

        Raises:
            SpecError: If `ok` is false.
        """
        if not ok:
            raise SpecError(
                f"{type(self).__name__}.{field_name} = {shown(getattr(self, field_name))}; "
                f"allowed: {allowed}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the spec as plain data that JSON can hold.

        Returns:
            {"type": name of the class, "values": {...}, "sources": {...}}, with lists for tuples.
        """
        return {
            "type": type(self).__name__,
            "values": {k: list(v) if isinstance(v, tuple) else v for k, v in self.values().items()},
            "sources": {k: dataclasses.astuple(v) for k, v in self.sources.items()},
        }

    @staticmethod
    def from_dict(data: Mapping[str, Any]) -> Spec:
        """Return the spec that `to_dict` described.

        Args:
            data: What `to_dict` returned. A source may also be a text, which is its key.

        Returns:
            A spec of the class that `data` names.

        Raises:
            SpecError: If the class or a field is unknown, a source is missing, or a value is not
                physical.
        """
        kinds = {kind.__name__: kind for kind in _kinds(Spec)}
        kind = kinds.get(str(data.get("type")))
        if kind is None:
            raise SpecError(f"no spec {data.get('type')!r}; there are: {', '.join(kinds)}")
        values = {
            k: tuple(v) if isinstance(v, list) else v for k, v in dict(data["values"]).items()
        }
        unknown = [k for k in values if k not in kind.field_names()]
        if unknown:
            raise SpecError(
                f"{kind.__name__} has no field {', '.join(unknown)}; "
                f"fields: {', '.join(kind.field_names())}"
            )
        sources = Table(
            {
                name: Source(source) if isinstance(source, str) else Source(*source)
                for name, source in dict(data["sources"]).items()
            }
        )
        return kind(sources=sources, **values)


S = TypeVar("S", bound=Spec)


def cite(kind: type[S], **entries: V) -> S:
    """Build a spec from values that carry their sources.

    Args:
        kind: The class of the spec.
        **entries: field=V(value, key, where, how), one for every field that is not optional.

    Returns:
        The spec.

    Raises:
        SpecError: If a field is unknown or missing, if a value comes without a source (a plain
            number instead of a `V`), or if a value is not physical.
    """
    unknown = [name for name in entries if name not in kind.field_names()]
    if unknown:
        raise SpecError(
            f"{kind.__name__} has no field {', '.join(unknown)}; "
            f"fields: {', '.join(kind.field_names())}"
        )
    bare = [name for name, entry in entries.items() if not isinstance(entry, V)]
    if bare:
        raise SpecError(f"{kind.__name__}: {', '.join(bare)} given without a source, use V(...)")
    optional = kind.optional()
    missing = [n for n in kind.field_names() if n not in entries and n not in optional]
    if missing:
        raise SpecError(f"{kind.__name__}: no value and source for {', '.join(missing)}")
    sources = Table({name: Source(e.key, e.where, e.how) for name, e in entries.items()})
    return kind(sources=sources, **{name: e.value for name, e in entries.items()})


def _kinds(base: type[Spec]) -> Iterator[type[Spec]]:
    """Yield all subclasses of a base, also those of its subclasses."""
    for kind in base.__subclasses__():
        yield kind
        yield from _kinds(kind)


_KINDS = {float: (int, float), int: (int,), bool: (bool,), str: (str,), types.NoneType: ()}


def _matches(value: Any, annotation: Any) -> bool:
    """Return whether a value has the type of an annotation and is finite."""
    origin = typing.get_origin(annotation)
    if origin is tuple:
        args = typing.get_args(annotation)
        if not isinstance(value, tuple):
            return False
        if args[-1] is Ellipsis:
            return all(_matches(v, args[0]) for v in value)
        return len(value) == len(args) and all(map(_matches, value, args))
    if origin in (types.UnionType, typing.Union):
        return any(_matches(value, arg) for arg in typing.get_args(annotation))
    if annotation is types.NoneType:
        return value is None
    if annotation is Any:
        return True
    if isinstance(value, bool) and annotation is not bool:
        return False
    if isinstance(value, float) and not math.isfinite(value):
        return False
    if isinstance(value, int) and abs(value) >= 2**63:  # beyond what any engine computes with
        return False
    return isinstance(value, _KINDS[annotation])


def _check_types(spec: Spec) -> None:
    """Raise SpecError if a value does not have the type of its field."""
    hints = typing.get_type_hints(type(spec))
    for name, value in spec.values().items():
        if not _matches(value, hints[name]):
            raise SpecError(
                f"{type(spec).__name__}.{name} = {shown(value)}; allowed: a finite "
                f"{hints[name].__name__ if isinstance(hints[name], type) else hints[name]}"
            )
