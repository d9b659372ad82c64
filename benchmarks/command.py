"""The command line of programs with options of several words."""

import argparse
from typing import NoReturn

from aimc_bridge.errors import UsageError


class Parser(argparse.ArgumentParser):
    """argparse with our errors; typer has no option of several words as in `--times 1s 1h 1d`."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; see {self.prog} --help")
