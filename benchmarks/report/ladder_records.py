"""Records of the ladder, and docs/ladder.md made from them.

    python -m benchmarks.report.ladder_records add runs/NAME  a folder -> records/ladder-TASK.json
    python -m benchmarks.report.ladder_records write          records -> docs/ladder.md, its figure

A record keeps the command, versions, hardware, data, presets, seeds and every repeat.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aimc_bridge.errors import AimcError, DataError
from benchmarks import record as records
from benchmarks.files import replace_file
from benchmarks.report.ladder_page import LEGEND, figure, study_text
from benchmarks.report.ladder_tables import COLUMNS, read_results

if TYPE_CHECKING:
    import pandas as pd

DOCS = Path(__file__).parents[2] / "docs"
MARKS = ("<!-- ladder -->", "<!-- /ladder -->")


def record_of(run: Path, task: str) -> dict[str, Any]:
    """What a finished run says of one task, as one JSON-safe dict.

    A row of results a (row, time, chip); the layers' errors, to 5 digits, are a list at its end.
    Raises:  DataError where the folder holds no finished ladder of that task.
    """
    try:
        about = json.loads((run / "run.json").read_text())
        facts = about["studies"][task]
        results = read_results(run / "results.csv")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{run} holds no finished ladder of {task} ({error!r})") from None
    mine = results[results.task == task]
    names = [f"mvm {layer}" for layer in facts["layers"]]
    metrics = [str(m) for m in mine.metric.unique() if not str(m).startswith("mvm ")]
    rows: list[list[Any]] = []
    keys = ["row", "t_inference", "chip", "seed"]
    key: Any
    for key, group in mine.groupby(keys, sort=False, dropna=False):
        found = dict(zip(group.metric, group.value.tolist(), strict=True))
        errors = [float(f"{found[name]:.5g}") for name in names if name in found]
        place = [None if isinstance(x, float) and math.isnan(x) else x for x in tuple(key)]
        place[2:] = [x if x is None else int(x) for x in place[2:]]  # a chip is a whole number
        rows.append([*place, *(found.get(name) for name in metrics), errors])
    return {
        "name": f"ladder-{task}",
        "kind": "ladder",
        **{key: about[key] for key in ("command", "arguments", "versions", "hardware")},
        "studies": {task: facts},
        "columns": [*keys, *metrics, "layers"],
        "rows": rows,
    }


def results_of(record: dict[str, Any]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """(rows of `COLUMNS`, facts) of a record."""
    import pandas as pd

    ((task, facts),) = record["studies"].items()
    keys, metrics = record["columns"][:4], record["columns"][4:-1]
    rows = []
    for line in record["rows"]:
        place = dict(zip(keys, line[:4], strict=True))
        values = dict(zip(metrics, line[4:-1], strict=True))
        values |= {f"mvm {k}": v for k, v in zip(facts["layers"], line[-1], strict=False)}
        rows += [{**place, "metric": k, "value": v} for k, v in values.items() if v is not None]
    table = pd.DataFrame(rows).assign(task=task, model=facts["model"])
    kinds = {"t_inference": float, "chip": float, "seed": float, "value": float}
    return table[COLUMNS].astype(kinds), facts


def files(folder: Path | None = None) -> list[Path]:
    """The ladder's records, wrn first."""
    found = (records.FOLDER if folder is None else folder).glob("ladder-*.json")
    return sorted(found, key=lambda file: (-ord(file.stem.rpartition("-")[2][0]), file.stem))


def digest(paths: list[Path]) -> str:
    """SHA-256 of records, in the figure's metadata: which records it was drawn from."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def section(paths: list[Path]) -> str:
    """What stands between the marks of docs/ladder.md.

    Raises:  DataError where there are no records, or one is damaged.
    """
    if not paths:
        raise DataError("no records of the ladder; make them with add")
    parts = [LEGEND, "![metric and MVM error against the rung](ladder.png)"]
    for path in paths:
        record = records.read(path)
        parts.append(study_text(*results_of(record)))
        parts.append(f"[{path.name}](../benchmarks/records/{path.name}): `{record['command']}`.")
    return "\n\n".join(parts)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def add(
    run: Annotated[Path, typer.Argument(metavar="RUNDIR", help="the --out of a finished ladder")],
) -> None:
    """Keep a finished ladder as records, one a task."""
    try:
        try:
            studies = json.loads((run / "run.json").read_text())["studies"]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{run} holds no finished ladder ({error!r})") from None
        for task in studies:
            typer.echo(records.write(record_of(run, task)))
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@app.command()
def write() -> None:
    """Write the tables and the figure of docs/ladder.md from the records."""
    try:
        page, paths = DOCS / "ladder.md", files()
        made = section(paths)
        before, begin, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
        _, end, after = rest.partition(MARKS[1])
        if not begin or not end:
            raise DataError(f"{page} has no {MARKS[0]} ... {MARKS[1]}")
        figure([results_of(records.read(p)) for p in paths], DOCS / "ladder.png", digest(paths))
        replace_file(page, f"{before}{begin}\n\n{made}\n\n{end}{after}")
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{page}, {DOCS / 'ladder.png'}")


if __name__ == "__main__":
    app()
