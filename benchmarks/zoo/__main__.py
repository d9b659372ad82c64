"""Measurements of the zoo: `python -m benchmarks.zoo [ENTRY ...]`.

Each architecture goes through conversion, measured coverage, comparison with the digital model, one
step of training, programming and drift.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Annotated

from cyclopts import Parameter

from aimc_bridge.errors import AimcError
from benchmarks import cli
from benchmarks.zoo import catalogue
from benchmarks.zoo.entry import Measured


def zoo(
    *entries: Annotated[
        str, Parameter(name="ENTRY", help="Names or patterns, such as 'timm/*'; none: all.")
    ],
    keep: Annotated[
        bool, cli.flag("Keep what was measured, for docs/zoo.md, if nothing failed.")
    ] = False,
    output: cli.Output = cli.Output(),
) -> int:
    """Take architectures of other libraries through all that the library promises.

    Exit code 1: one of them does not do what its entry says.
    """
    chosen = catalogue.chosen(entries)
    if output.dry_run:
        names = [entry.key for entry in chosen]
        output.result("\n".join(names), {"plan": names})
        return 0
    from benchmarks.zoo.measure import measured

    results: dict[str, Measured | None] = {}
    failed: dict[str, str] = {}
    for entry in chosen:
        if not entry.installed:
            output.say(f"{entry.key}: {entry.library} is not installed", style="yellow")
            continue
        try:
            results[entry.key] = found = measured(entry)
        except AimcError as problem:
            failed[entry.key] = str(problem)
            output.say(f"{entry.key}: {problem}", style="red")
        else:
            output.say(f"{entry.key}: {found or 'refused'}")
    if keep and not failed:
        output.say(f"{catalogue.record(results)}; `python -m benchmarks.record write` shows it")
    done = {key: vars(value) if value else None for key, value in results.items()}
    text = f"{len(results)} of {len(chosen)} entries do what they say"
    output.result(text, {"measured": done, "failed": failed})
    return 1 if failed else 0


app = cli.command("zoo", zoo, "[ENTRY ...]")
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
