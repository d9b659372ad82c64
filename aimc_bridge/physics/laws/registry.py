"""The table of device laws, by the names that the specs of devices give them."""

from __future__ import annotations

from typing import Any

from aimc_bridge.errors import UsageError
from aimc_bridge.physics.laws.base import D, Law
from aimc_bridge.spec import DeviceSpec

_LAWS: dict[str, Law[Any]] = {}


def register(spec: type[D], law: Law[D]) -> None:
    """Register the law of a kind of device, under the name that its spec gives.

    Other processes, such as the workers of a sweep, find the law only if the module that defines
    the two classes also registers it.

    Args:
        spec: The class of the device's data, with `law: ClassVar[str] = "a name of its own"`.
        law: An object of the law's class. If a class of the same name and module is registered
            again, as by a notebook cell that is run twice, it replaces the earlier one.

    Raises:
        UsageError: If `spec` is not a device class or names no law, if `law` is not a `Law` object,
            or if the name belongs to another law.
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

    Returns:
        The law that is registered under the name in `pcm.law`.

    Raises:
        UsageError: If `pcm` is not a device (but the preset that has one, say), or if its law is
            not registered.
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


def of_library(pcm: DeviceSpec) -> bool:
    """Return whether the law of a device is one of the library, which needs no checks.

    Args:
        pcm: The device, `preset.pcm`.
    """
    return type(law_of(pcm)).__module__.startswith("aimc_bridge.")


def names() -> list[str]:
    """Return the names of all registered laws, sorted."""
    return sorted(_LAWS)


def _home(law: Law[Any]) -> tuple[str, str]:
    """Return the module and the name of a law's class."""
    return type(law).__module__, type(law).__qualname__
