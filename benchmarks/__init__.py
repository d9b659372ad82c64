"""Programs that use the library: three tasks, their data, their training, and the studies."""

import sys

from aimc_bridge.errors import ShadowedError
from aimc_bridge.shadowing import check

try:
    check("presets")
except ShadowedError as error:
    if sys.argv[0] != "-m":  # which it is while Python looks for the module of `python -m`
        raise
    from aimc_bridge.commands import fail

    sys.exit(fail(str(error), 2))
