"""Reports of finished folders and of tables: `python -m benchmarks.report RUN_OR_TABLE...`.

The command writes summary.md, report.html and the figures of each folder again from its results.csv
and run.json. With several runs it prints one table of them, and writes one report.html that
compares them into --out. Of tables that `aimc_bridge.sweep` returned or wrote (.csv), it writes one
report.html and a figure into --out.
"""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from aimc_bridge import plotting
from aimc_bridge.errors import UsageError
from benchmarks import cli
from benchmarks.report import folders, sweep_table, terminal
from benchmarks.report.html.page import FILE
from benchmarks.studies import shards


def report(
    *runs: Annotated[
        Path,
        Parameter(
            name="RUN_OR_TABLE",
            help="The --out of a finished command, or the .csv of a sweep.",
        ),
    ],
    merge: Annotated[
        Path | None,
        Parameter(help="Join the RUNs, all shards of a run, to the whole run in a new folder."),
    ] = None,
    out: Annotated[
        Path | None,
        Parameter(
            help="Folder of the comparison (default: comparison, beside the first run), or of the "
            "report of tables (default: NAME-report, beside the first table)."
        ),
    ] = None,
    digital: Annotated[
        tuple[str, ...],
        Parameter(
            consume_multiple=True,
            show_default=False,
            help="Tables: the digital model's value, such as 0.96; METRIC=VALUE if there are "
            "several metrics.",
        ),
    ] = (),
    samples: Annotated[
        cli.Count | None, Parameter(help="Tables: test samples of an accuracy or an error rate.")
    ] = None,
    chance: Annotated[
        tuple[str, ...],
        Parameter(
            consume_multiple=True,
            show_default=False,
            help="Tables: the value of guessing, such as 0.1; with --digital the report has A*.",
        ),
    ] = (),
    caption: Annotated[
        str, Parameter(help="Tables: what they are of, such as the preset's name.")
    ] = "",
    output: cli.Output = cli.Output(),
    words: cli.Words = (),
) -> None:
    """Write the report, summary and figures of finished folders again; compare several runs.

    Several runs get a report.html in --out that compares them. --merge DIR joins the shards of a
    run, which it checks, and writes the whole run's results.

    A .csv is a table of aimc_bridge.sweep: resume="direct.csv" wrote it, or table.to_csv(...). All
    tables stand in one report.
    """
    if not runs:
        raise UsageError(
            "name one or more folders, the --out of finished commands, or .csv files of sweeps"
        )
    tables = [path for path in runs if path.suffix == ".csv"]
    if tables and (len(tables) < len(runs) or merge is not None):
        raise UsageError("folders of runs and .csv files of sweeps together; name one kind alone")
    if tables:
        _of_tables(tables, out, digital, samples, chance, caption, output, words)
        return
    for name, value in (("digital", digital), ("chance", chance), ("caption", caption)):
        if value:
            raise UsageError(f"--{name} is for .csv files of sweeps; a run knows its own")
    if samples is not None:
        raise UsageError("--samples is for .csv files of sweeps; a run knows its own")
    if merge is not None:
        if not output.dry_run:
            shards.merge(runs, merge)
        output.result(f"Report: {merge / FILE}", {"merged": runs, "out": merge})
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
    told = f"{text}\n\nReport: {out / FILE}" if out and text else "\n".join(map(str, paths))
    output.result(told, {"kinds": kinds, "files": paths})


def _of_tables(
    paths: Sequence[Path],
    out: Path | None,
    digital: Sequence[str],
    samples: int | None,
    chance: Sequence[str],
    caption: str,
    output: cli.Output,
    words: Sequence[str],
) -> None:
    """Write the report of tables of sweeps."""
    tables = sweep_table.read(paths)
    metrics = list(dict.fromkeys(name for rows in tables.values() for name in rows["metric"]))
    values, guesses = _numbers("--digital", digital, metrics), _numbers("--chance", chance, metrics)
    if samples is not None and not any(0.0 <= value <= 1.0 for value in values.values()):
        if values:
            raise UsageError(
                f"--samples {samples} is for a share in [0, 1], and --digital is "
                f"{' '.join(digital)}; leave out --samples, or give tables and --digital as shares"
            )
        raise UsageError(
            f"--samples {samples}: of a digital share in [0, 1]; give it too, as --digital 0.96"
        )
    swept = plotting.checked(tables, values, samples=samples, caption=caption)
    chances = sweep_table.chances_of(swept, guesses)
    folder = out or paths[0].with_name(f"{paths[0].stem}-report")
    if not output.dry_run:
        command = shlex.join(["python", "-m", "benchmarks.report", *words])
        sweep_table.write_folder(folder, swept, chances, command)
    answers = sweep_table.of_tables(swept, chances).answer
    written = [folder / FILE, folder / "figures" / "sweep.png", folder / "figures" / "sweep.svg"]
    told = [*(terminal.wrapped(text, terminal.width()) for text in answers)]
    told.append(f"Report: {folder / FILE}")
    kinds = dict.fromkeys(map(str, paths), "sweep")
    output.result("\n\n".join(told), {"kinds": kinds, "answer": list(answers), "files": written})


def _numbers(option: str, given: Sequence[str], metrics: Sequence[str]) -> dict[str, float]:
    """Return the numbers of an option by metric; one number alone is that of the only metric."""
    values: dict[str, float] = {}
    for word in given:
        metric, separator, text = word.rpartition("=")
        try:
            value = float(text)
        except ValueError:
            raise UsageError(
                f"{option} {word}; allowed: a number, or METRIC=NUMBER for each metric"
            ) from None
        if not math.isfinite(value):
            raise UsageError(f"{option} {word}; allowed: a finite number")
        if not separator and len(given) == 1:
            if len(metrics) > 1:
                each = " ".join(f"{name}=NUMBER" for name in metrics)
                raise UsageError(
                    f"{option} {word}: the tables have {len(metrics)} metrics; give the number of "
                    f"each that has one, as {option} {each}"
                )
            metric, separator = metrics[0], "="
        if not separator or metric in values:
            raise UsageError(f"{option} {' '.join(given)}; allowed: METRIC=NUMBER, once per metric")
        if metric not in metrics:
            raise UsageError(
                f"{option} {word}: no metric {metric!r} in the tables; they have "
                f"{', '.join(metrics)}"
            )
        values[metric] = value
    return values


app = cli.command("report", report, "RUN_OR_TABLE...")
main = partial(cli.execute, app)


if __name__ == "__main__":
    sys.exit(main())
