"""What this machine can run, data sets too: `python -m benchmarks.doctor [--data-dir DIR]`.

Exit codes: 0 the aihwkit engine can run, 1 it cannot, 2 bad usage.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aimc_bridge import doctor as checks
from aimc_bridge.doctor import Finding, Sections
from aimc_bridge.errors import AimcError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def data_section(folder: Path | None) -> Sections:
    """Find out which data sets and packaged models of the tasks are there.

    Args:
        folder: The data folder that the user names; None takes that of AIMC_BRIDGE_DATA.

    Returns:
        The findings under one heading, to be added to those of `aimc_bridge.doctor.examine`.

    Raises:
        DataError: If the folder is not there.
    """
    try:
        from benchmarks.tasks.data import data_dir
    except (ImportError, OSError) as problem:  # a broken torch: the other sections say more
        return {"data": [Finding("tasks", False, f"cannot be imported ({problem})")]}
    folder = data_dir(folder)
    return {f"data in {folder}" if folder else "data": list(data_sets(folder))}


def data_sets(folder: Path | None) -> Iterator[Finding]:
    """Yield a finding per data set and packaged model of all tasks.

    Args:
        folder: The data folder, or None if there is none.
    """
    from benchmarks import tasks
    from benchmarks.tasks.data import DATA_VARIABLE

    known = [tasks.find(name) for name in tasks.names()]
    if folder is None:
        note = f"no folder named by --data-dir or {DATA_VARIABLE}; real data would be downloaded"
        yield Finding("data folder", None, note)
    else:
        for files in dict.fromkeys(files for task in known for files in task.data_sets):
            choice = files.whole(folder)
            note = ", ".join(choice) if choice else f"not found; looked for {files.wanted}"
            yield Finding(files.name, True if choice else None, note)
    for model in dict.fromkeys(model for task in known for model in task.packaged):
        place = model.folder
        note = str(place) if place else f'not installed; run: pip install "{model.install}"'
        yield Finding(model.name, True if place else None, note)


@app.command()
def main(
    data: Annotated[
        Path | None, typer.Option("--data-dir", help="folder with data; default $AIMC_BRIDGE_DATA")
    ] = None,
) -> None:
    """What this machine can run: versions, tiles, devices, data. Exit code 1: no aihwkit engine."""
    try:
        data_of_tasks = data_section(data)
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    sections = checks.examine() | data_of_tasks
    checks.show(sections, Console())
    raise typer.Exit(0 if checks.healthy(sections) else 1)


if __name__ == "__main__":
    app(prog_name="python -m benchmarks.doctor")
