"""The command line of programs with options of several words."""

import argparse
import os
from typing import NoReturn

from aimc_bridge.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse with our errors; typer has no option of several words as in `--times 1s 1h 1d`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")


def check_alone(program: str) -> None:
    """UsageError where a launcher started several processes of a program that shares no work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            f"{program} runs in one process; start it without a launcher "
            "(benchmarks.run is the program that several processes train for)"
        )
