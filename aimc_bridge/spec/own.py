"""A device that is an object of the user's, with two functions."""

from __future__ import annotations

import hashlib
import inspect
import pickle
from dataclasses import dataclass, field
from typing import Any, ClassVar

from aimc_bridge.errors import SpecError, UsageError
from aimc_bridge.spec.base import Source, Table
from aimc_bridge.spec.device import DeviceSpec

_ARGUMENTS = {
    "program": ("weights", "generator"),
    "read": ("state", "t_inference", "generator"),
}
_DEEPEST = 8
"""How far the parts of a value that cannot be pickled are looked at; it may hold itself."""


@dataclass(frozen=True, kw_only=True)
class OwnDevice(DeviceSpec):
    """A device that is a Python object with `program` and `read`.

    The object programs and reads a whole tile of weights at a time. Such a device is not plain
    data: it cannot be written to a file, but it can be pickled if the object can.

    Two of them are equal if their objects are of the same class and had the same contents when they
    were wrapped.

    Attributes:
        physics: The object; its functions are `program(weights, generator) -> state` and
            `read(state, t_inference, generator) -> weights`.
        known_as: Module and name of its class, and a digest of its contents.
    """

    law: ClassVar[str] = "own"
    physics: Any = field(compare=False)
    known_as: str

    @classmethod
    def of(cls, physics: object, like: DeviceSpec, why: str) -> OwnDevice:
        """Wrap an object.

        Args:
            physics: The object.
            like: The device that it replaces; g_max_us and t0_s are taken from it.
            why: Where the object is from, or what it is for.

        Raises:
            UsageError: If the object does not have the two functions.
        """
        check_functions(physics)
        fields = {
            "g_max_us": like.g_max_us,
            "t0_s": like.t0_s,
            "netting": True,
            "physics": physics,
            "known_as": _known_as(physics),
        }
        sources = Table(dict.fromkeys(fields, Source("device", why)))
        return cls(sources=sources, **fields)  # type: ignore[arg-type]

    def label(self) -> str:
        """Return the name of the object's class."""
        return self.known_as.partition(" ")[0].rpartition(".")[2]

    def __deepcopy__(self, memo: dict[int, Any]) -> OwnDevice:
        """Return this device itself: specs do not change, and an object need not be copyable."""
        return self

    def identity(self) -> dict[str, Any]:
        """Return the values without the object."""
        return {name: value for name, value in self.values().items() if name != "physics"}

    def to_dict(self) -> dict[str, Any]:
        """Refuse to be written.

        Raises:
            SpecError: Always.
        """
        raise SpecError(
            f"the device {self.label()} is a Python object, which a file cannot hold: keep "
            "the code that makes it and call preset.with_device again, or measure it and use "
            "devices.TableDevice, which files hold"
        )


def check_functions(physics: object) -> None:
    """Check that an object has `program` and `read`, and that they take their arguments.

    Args:
        physics: The object.

    Raises:
        UsageError: If a function is missing or takes other arguments.
    """
    form = (
        "an object with program(weights, generator) -> state and "
        "read(state, t_inference, generator) -> weights"
    )
    kind = type(physics).__name__
    missing = [name for name in _ARGUMENTS if not callable(getattr(physics, name, None))]
    if missing:
        raise UsageError(f"the device is a {kind} without {' and '.join(missing)}; allowed: {form}")
    for name, arguments in _ARGUMENTS.items():
        try:
            inspect.signature(getattr(physics, name)).bind(*arguments)
        except TypeError as problem:
            hint = " (give an object of the class, not the class)" * isinstance(physics, type)
            raise UsageError(
                f"{name} of {kind} does not take ({', '.join(arguments)}): {problem}{hint}; "
                f"allowed: {form}"
            ) from problem
        except ValueError:  # a builtin that does not tell its arguments
            continue


def _known_as(physics: object) -> str:
    """Return the name of an object's class, and a digest of its contents."""
    kind = physics if inspect.ismodule(physics) or isinstance(physics, type) else type(physics)
    name = getattr(kind, "__qualname__", kind.__name__)
    home = f"{getattr(kind, '__module__', '')}.{name}".lstrip(".")
    contents = _contents(physics) if kind is type(physics) else {}
    digest = hashlib.sha256()
    for key, value in sorted(contents.items()):
        digest.update(key.encode() + b"=" + _bytes(value))
    return f"{home} {digest.hexdigest()[:16]}"


def _contents(value: object) -> dict[str, Any]:
    """Return what an object holds, by name: its attributes, those of slots, entries of a tuple."""
    contents = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__"):
                contents[slot] = getattr(value, slot, None)
    if isinstance(value, tuple):
        contents |= {f"[{place}]": entry for place, entry in enumerate(value)}
    return contents


def _bytes(value: object, depth: int = 0) -> bytes:
    """Return bytes that differ if a value differs, as far as it can be pickled.

    Of a value that cannot be pickled as a whole, such as a dict with a function, each part counts.
    """
    try:
        return pickle.dumps(value, protocol=4)
    except (pickle.PicklingError, TypeError, AttributeError, RecursionError):
        parts = _contents(value)
    if isinstance(value, dict):
        parts |= {repr(key): entry for key, entry in value.items()}
    elif isinstance(value, list):
        parts |= {f"[{place}]": entry for place, entry in enumerate(value)}
    name = type(value).__qualname__.encode()
    if depth == _DEEPEST or not parts:
        return name
    inside = (key.encode() + b"=" + _bytes(part, depth + 1) for key, part in sorted(parts.items()))
    return name + b"(" + b",".join(inside) + b")"
