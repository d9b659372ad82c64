"""Commands: `python -m aimc_bridge doctor`."""

from __future__ import annotations

import typer
from rich.console import Console

from aimc_bridge import doctor as checks

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """aimc_bridge: between PyTorch networks and analog in-memory computing."""


@app.command()
def doctor() -> None:
    """What this machine can run: versions, tiles, devices. Exit code 1: no aihwkit engine."""
    sections = checks.examine()
    checks.show(sections, Console())
    raise typer.Exit(0 if checks.healthy(sections) else 1)


if __name__ == "__main__":
    app(prog_name="python -m aimc_bridge")
