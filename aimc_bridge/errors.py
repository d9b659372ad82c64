"""All errors of the project. Each says what is wrong, what was got, what is allowed, what to do."""


class AimcError(Exception):
    """Base of all errors raised on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return " ".join(str(arg) for arg in self.args)


class SpecError(AimcError, ValueError):
    """A preset or a recipe that is not physical, not sourced, or has no such field."""


class UnknownNameError(AimcError, KeyError):
    """A name that is not in a table; the message lists the names that are."""


class ShapeError(AimcError, ValueError):
    """A tensor whose shape does not fit."""


class ConversionError(AimcError, ValueError):
    """A model that cannot be converted as asked."""


class CalibrationError(AimcError, RuntimeError):
    """An input range that was never set, or data that cannot set it."""


class StateError(AimcError, RuntimeError):
    """A chip asked for something its state does not allow."""


class CapabilityError(AimcError, ValueError):
    """An engine, tile or device that cannot run what a preset asks for."""


class VersionError(AimcError, ImportError):
    """Installed packages that do not work together."""


class CheckpointError(AimcError, ValueError):
    """A file of weights or of a chip that is damaged or belongs to another model."""


class DataError(AimcError, ValueError):
    """Data that is missing, truncated or empty."""


class TrainingError(AimcError, RuntimeError):
    """A training that diverged or cannot start."""


class UsageError(AimcError, ValueError):
    """An argument that is not understood."""
