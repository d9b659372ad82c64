"""Commands: `python -m aimc_bridge doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aimc_bridge import doctor as checks
from aimc_bridge.errors import AimcError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)


@app.callback()
def main() -> None:
    """aimc_bridge: between PyTorch networks and analog in-memory computing."""


@app.command()
def doctor(
    data_dir: Annotated[
        Path | None, typer.Option(help=f"folder with data; default ${checks.DATA_VARIABLE}")
    ] = None,
) -> None:
    """What this machine can run: versions, tiles, devices, data. Exit code 1: no aihwkit engine."""
    try:
        healthy = checks.doctor(data_dir)
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    raise typer.Exit(0 if healthy else 1)


if __name__ == "__main__":
    app(prog_name="python -m aimc_bridge")
