"""All errors of the project.

Each message says what is wrong, what was given, what is allowed and what to do.
"""


def shown(value: object) -> str:
    """Return the repr of a value for a message: on one line, and cut if it is long.

    Args:
        value: Any value, also a number with more digits than Python writes.
    """
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes no integer of more than 4300 digits
        return f"a {type(value).__name__} with a number of thousands of digits"
    except Exception:  # noqa: BLE001 - a stranger's object
        return f"a {type(value).__name__}"
    return text if len(text) <= 200 else f"{text[:90]}...{text[-20:]}"


class AimcError(Exception):
    """Base of all errors that the project raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        """Return the message."""
        return " ".join(str(arg) for arg in self.args)


class SpecError(AimcError, ValueError):
    """A preset or recipe with an unphysical value, a wrong field or no source."""


class UnknownNameError(AimcError, KeyError):
    """A name that is not in a table. The message lists the names that are."""


class ShapeError(AimcError, ValueError):
    """A tensor whose shape does not fit."""


class ConversionError(AimcError, ValueError):
    """A model that cannot be converted in the requested way."""


class CalibrationError(AimcError, RuntimeError):
    """An input range that was never set, or data that cannot set it."""


class StateError(AimcError, RuntimeError):
    """A request that the state of a chip does not allow."""


class CapabilityError(AimcError, ValueError):
    """A preset that an engine, a tile or a machine cannot run."""


class VersionError(AimcError, ImportError):
    """Installed packages that do not work together."""


class ShadowedError(AimcError, ImportError):
    """A package of the project whose name another module on the import path has."""


class CheckpointError(AimcError, ValueError):
    """A file of weights or of a chip that is missing, damaged or of another model."""


class DataError(AimcError, ValueError):
    """Data that are missing, incomplete, damaged or empty."""


class TrainingError(AimcError, RuntimeError):
    """A training that diverged or that cannot start or go on."""


class UsageError(AimcError, ValueError):
    """An argument that is not understood."""
