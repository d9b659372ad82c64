"""Commands of the library: `python -m aimc_bridge doctor`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from aimc_bridge import doctor
from aimc_bridge.commands import application, execute

PROGRAM = "python -m aimc_bridge"

app = application(
    "aimc_bridge",
    usage=f"Usage: {PROGRAM} COMMAND [OPTIONS]",
    help="Between PyTorch networks and analog in-memory computing.",
)
app.command(doctor.app)


def main(words: Sequence[str] | None = None) -> int:
    """Run the command that the words name.

    Args:
        words: The words of the command line after the program; None takes those of the process.

    Returns:
        The exit code.
    """
    return execute(app, words, program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
