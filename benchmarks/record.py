"""Records of finished runs, and the README's table of results made from them.

    python -m benchmarks.record add runs/NAME --name NAME     a run's folder -> records/NAME.json
    python -m benchmarks.record table                         the table of all records

A record keeps the command, versions, hardware, data, preset, seeds and every row of results.csv.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aimc_bridge import report
from aimc_bridge.errors import AimcError, DataError, UsageError
from aimc_bridge.times import label
from benchmarks.digital import replace_file

if TYPE_CHECKING:
    import pandas as pd

FOLDER = Path(__file__).parent / "records"
MARKS = ("<!-- results -->", "<!-- /results -->")
_TIMES = (1.0, 3600.0, 86400.0, 31536000.0)
_KEPT = ("command", "arguments", "versions", "hardware", "studies")


def read(file: Path) -> dict[str, Any]:
    """A record.

    Raises:  DataError where it is damaged or has no results.
    """
    try:
        record: dict[str, Any] = json.loads(file.read_text())
        of_a_run = record.get("kind", "run") == "run"
        needed = ("name", *_KEPT, "rows") if of_a_run else ("name",)
        missing = [key for key in needed if key not in record]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is not a record ({error}); make it anew with add") from None
    if missing or (of_a_run and not record["rows"]):
        raise DataError(f"{file} lacks {', '.join(missing) or 'rows'}; make it anew with add")
    return record


def record_of(run: Path, name: str) -> dict[str, Any]:
    """What a finished run's folder says, as one JSON-safe dict.

    Raises:  DataError where the folder holds no finished run.
    """
    import pandas as pd

    try:
        about = json.loads((run / "run.json").read_text())
        rows = pd.read_csv(run / "results.csv", keep_default_na=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{run} holds no finished run ({error}); name the --out of one") from None
    columns = [*report.COLUMNS, *(["training_seed"] if "training_seed" in rows else [])]
    if list(rows.columns) != columns:
        raise DataError(f"{run / 'results.csv'} has other columns than {', '.join(report.COLUMNS)}")
    unfinished = set(about["arguments"]["tasks"]) - set(about.get("studies", {}))
    if unfinished:
        raise DataError(
            f"{run} is not finished: {', '.join(sorted(unfinished))} is missing; "
            "go on with it (--resume)"
        )
    return {
        "name": name,
        **{key: about[key] for key in _KEPT},
        "columns": columns,
        "rows": [[_plain(value) for value in row] for row in rows.to_numpy().tolist()],
    }


def _plain(value: Any) -> Any:
    return None if value == "" else value


def results_of(record: dict[str, Any]) -> pd.DataFrame:
    """The rows of a record as results.csv has them."""
    import pandas as pd

    table = pd.DataFrame(record["rows"], columns=record["columns"])
    return table.astype({"t_inference": float, "chip": float, "value": float})


def write(record: dict[str, Any], folder: Path | None = None) -> Path:
    """The record as a file, a row of results a line.

    Raises:  UsageError for a name that is not a file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9._-]+", record["name"]):
        raise UsageError(
            f"--name {record['name']!r}; allowed: letters, digits, points, dashes, underscores"
        )
    folder = FOLDER if folder is None else folder
    folder.mkdir(exist_ok=True)
    rows = ",\n".join("  " + json.dumps(row, ensure_ascii=False) for row in record["rows"])
    head = json.dumps({**record, "rows": []}, indent=1, ensure_ascii=False)
    file = folder / f"{record['name']}.json"
    replace_file(file, head.replace(' "rows": []', f' "rows": [\n{rows}\n ]') + "\n")
    return file


def lines_of(record: dict[str, Any]) -> list[dict[str, str]]:
    """A record's lines of the README's table: one a model, phase, engine and part of its data."""
    lines = []
    results = results_of(record)
    for study in record["studies"].values():
        mine = results[results.model == study["model"]]
        stars = report.a_star_summary(mine, study["chance_error"])
        table = report.summary(mine, study["metric"])
        pairs = zip(table.to_dict("records"), stars.to_dict("records"), strict=True)
        for row, star in pairs:
            lines.append(
                {
                    "model": study["model"],
                    "data": study["dataset"],
                    "metric": study["metric"],
                    "phase": row["phase"],
                    "engine": row["engine"],
                    "samples": f"{study['samples'][row['data']]:,}",
                    "chips": row["chips"],
                    "digital": row["digital"],
                    **{label(t_s): row.get(label(t_s)) or "?" for t_s in _TIMES},
                    "A* 1y": star.get("A* 1y") or "?",
                    "record": f"[{record['name']}](benchmarks/records/{record['name']}.json)",
                }
            )
    return lines


def table(folder: Path | None = None) -> str:
    """The README's table of all records of runs, in the order of their names; "" without any.

    Records of another kind, as the ladder's, have pages of their own.
    """
    import pandas as pd

    files = sorted((FOLDER if folder is None else folder).glob("*.json"))
    found = [record for record in map(read, files) if record.get("kind", "run") == "run"]
    lines = [line for record in found for line in lines_of(record)]
    return report.markdown(pd.DataFrame(lines)) if lines else ""


def section(readme: str) -> str | None:
    """What stands between the marks of a README, or None where it has no marks."""
    begin, end = MARKS
    if readme.count(begin) != 1 or readme.count(end) != 1:
        return None
    return readme.partition(begin)[2].partition(end)[0].strip()


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def add(
    run: Annotated[Path, typer.Argument(metavar="RUNDIR", help="the --out of a finished run")],
    name: Annotated[str, typer.Option(help="what the record is called")],
) -> None:
    """Keep a finished run as a record."""
    try:
        file = write(record_of(run, name))
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{file}; put the output of `python -m benchmarks.record table` into README.md")


@app.command(name="table")
def print_table() -> None:
    """Print the README's table of results."""
    try:
        typer.echo(table())
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app()
