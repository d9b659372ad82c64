"""Reports of finished folders: `python -m benchmarks.report RUN...`.

The command writes summary.md, report.html and the figures of each folder again from its results.csv
and run.json. With several runs it prints one table of them, and writes one report.html that
compares them into --out.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aimc_bridge.errors import UsageError
from benchmarks import cli
from benchmarks.report import folders
from benchmarks.report.html.page import FILE
from benchmarks.studies import shards


def report(
    *runs: Annotated[Path, Parameter(name="RUN", help="The --out of a finished command.")],
    merge: Annotated[
        Path | None,
        Parameter(help="Join the RUNs, all shards of a run, to the whole run in a new folder."),
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(help="Folder of the comparison; default: comparison, beside the first run."),
    ] = None,
    output: cli.Output = cli.Output(),
) -> None:
    """Write the report, summary and figures of finished folders again; compare several runs.

    Several runs get a report.html in --out that compares them. --merge DIR joins the shards of a
    run, which it checks, and writes the whole run's results.
    """
    if not runs:
        raise UsageError("name one or more folders, the --out of finished commands")
    if merge is not None:
        if not output.dry_run:
            shards.merge(runs, merge, output)
        output.result(str(merge / "summary.md"), {"merged": runs, "out": merge})
        return
    kinds = {str(folder): folders.kind_of(folder) for folder in runs}
    text = folders.comparison(runs) if len(runs) > 1 else ""
    if not output.dry_run:
        for folder in runs:
            folders.rebuild(folder)
    reported = [folder for folder in runs if kinds[str(folder)] != "speed"]
    paths = [folder / FILE for folder in reported] + [folder / "summary.md" for folder in runs]
    if len(runs) > 1:
        out = out or runs[0].resolve().parent / "comparison"
        paths.insert(0, out / FILE)
        if not output.dry_run:
            out.mkdir(parents=True, exist_ok=True)
            folders.compare(runs, out / FILE)
    output.result(text or "\n".join(map(str, paths)), {"kinds": kinds, "files": paths})


app = cli.command("report", report, "RUN...")
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
