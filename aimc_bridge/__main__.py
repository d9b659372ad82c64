"""Commands of the library: `python -m aimc_bridge doctor`."""

from __future__ import annotations

import sys
from functools import partial

from aimc_bridge import doctor
from aimc_bridge.commands import application, execute

PROGRAM = "python -m aimc_bridge"

app = application(
    "aimc_bridge",
    usage=f"Usage: {PROGRAM} COMMAND [OPTIONS]",
    help="Between PyTorch networks and analog in-memory computing.",
)
app.command(doctor.app)

main = partial(execute, app, program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
