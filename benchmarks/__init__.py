"""Programs that use the library: three tasks, their data, their training, and the studies."""

import sys

STARTING = sys.argv[0] == "-m"
"""Whether Python looks for the module of `python -m`: an error then is a line of text."""

try:
    from aimc_bridge.errors import ShadowedError
    from aimc_bridge.shadowing import check
except ModuleNotFoundError as problem:
    if problem.name != "aimc_bridge.errors":
        raise
    import aimc_bridge

    text = f"{aimc_bridge.__file__} shadows the package aimc_bridge, which benchmarks needs"
    if not STARTING:
        raise ImportError(f"{text}; rename it") from None
    print(f"error: {text}; rename it", file=sys.stderr)
    sys.exit(2)

try:
    check("presets")
except ShadowedError as error:
    if not STARTING:
        raise
    from aimc_bridge.commands import fail

    sys.exit(fail(str(error), 2))
