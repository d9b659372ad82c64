"""The console script `aimc-bridge`: the commands of the benchmarks, by their names."""

from __future__ import annotations

import importlib

from aimc_bridge.commands import fail
from aimc_bridge.errors import ShadowedError
from aimc_bridge.shadowing import check


def main() -> int:
    """Run the command that the first word of the process names.

    Returns:
        The exit code: the command's own, or 2 if something on the import path shadows `benchmarks`
        or `presets`.
    """
    try:
        check("benchmarks", "presets")
    except ShadowedError as error:
        return fail(str(error), 2)
    code: int = importlib.import_module("benchmarks.__main__").main()
    return code
