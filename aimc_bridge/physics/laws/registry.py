"""The table of device laws, by the name that a device's spec gives."""

from __future__ import annotations

from typing import Any

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.laws.base import D, Law
from aimc_bridge.spec import DeviceSpec

_LAWS: dict[str, Law[Any]] = {}


def register(spec: type[D], law: Law[D]) -> None:
    """Register the law of a kind of device, under the name that its spec gives.

    Args:
        spec: The class of the device's data, with `law: ClassVar[str] = "a name of its own"`.
        law: What such a device does. A class that is defined again under the same name, as a
            notebook cell that is run twice does, replaces the law of the first run.

    Other processes (a sweep's workers) find the law if the module that defines the two classes
    registers it too.

    Raises:
        UsageError: If `spec` is no device class or names no law, `law` is no `Law` object, or the
            name belongs to another law.
    """
    if not (isinstance(spec, type) and issubclass(spec, DeviceSpec)):
        raise UsageError(f"spec is {spec!r}; allowed: a subclass of DeviceSpec")
    if not isinstance(law, Law):
        raise UsageError(
            f"the law of {spec.__name__} is {law!r}; allowed: an object of a subclass of "
            "aimc_bridge.physics.laws.Law, such as MyLaw()"
        )
    name = spec.law
    if not name:
        raise UsageError(
            f'{spec.__name__} names no law; give the class law: ClassVar[str] = "a name of its own"'
        )
    other = _LAWS.get(name)
    if other is not None and _home(other) != _home(law):
        raise UsageError(
            f"the name {name!r} of {spec.__name__} belongs to {'.'.join(_home(other))}; "
            f"names that are taken: {', '.join(names())}"
        )
    _LAWS[name] = law


def law_of(pcm: object) -> Law[Any]:
    """Return the law of a device.

    Args:
        pcm: The device, `preset.pcm`.

    Raises:
        UsageError: If `pcm` is no device (such as the preset that has one), or its law is not
            registered.
    """
    if not isinstance(pcm, DeviceSpec):
        raise UsageError(
            f"pcm is a {type(pcm).__name__}; allowed: a device, such as preset.pcm of a preset"
        )
    law = _LAWS.get(pcm.law)
    if law is None:
        raise UsageError(
            f"no law {pcm.law!r} for a {type(pcm).__name__}; there are: {', '.join(names())}; "
            "register yours with aimc_bridge.physics.laws.register"
        )
    return law


def names() -> list[str]:
    """Return the names of all registered laws, sorted."""
    return sorted(_LAWS)


def _home(law: Law[Any]) -> tuple[str, str]:
    return type(law).__module__, type(law).__qualname__
