"""A*, the share of the digital model's lead over guessing that is left."""

from aimc_bridge.errors import DataError


def normalised_accuracy(error: float, digital: float, chance: float) -> float:
    """Return A* = 1 - (err - err_FP) / (err_chance - err_FP).

    Args:
        error: The error of the analog model, in [0, 1].
        digital: The error of the digital model, in [0, 1].
        chance: The error of guessing, in [0, 1].

    Raises:
        DataError: If the digital model is no better than guessing, because A* means nothing then.

    Source: rasch2023.
    """
    if not digital < chance:
        raise DataError(
            f"A*: the digital error {digital:.4f} is not below chance {chance:.4f}; "
            "train the digital model first"
        )
    return 1.0 - (error - digital) / (chance - digital)
