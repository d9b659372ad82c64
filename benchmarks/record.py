"""Records of finished runs, and the tables made from them.

    python -m benchmarks.record add runs/NAME --name NAME     a run's folder -> records/NAME.json
    python -m benchmarks.record table                         all records
    python -m benchmarks.record compare                       beside others' results, for README.md
    python -m benchmarks.record write                         all tables into their pages

A record keeps the command, versions, hardware, data, preset, seeds and every row of results.csv.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aimc_bridge.errors import AimcError, DataError, UsageError
from aimc_bridge.times import label
from benchmarks.files import replace_file
from benchmarks.report import confirmed, tables
from benchmarks.report.standing import EARLIER_ON_AIHWKIT, IN_FORCE, ON_AIHWKIT, STANDING

if TYPE_CHECKING:
    import pandas as pd

    from benchmarks.tasks.published import Published

FOLDER = Path(__file__).parent / "records"
PAGES = {  # where the tables stand, from the project's root
    "results": Path("docs") / "results.md",
    "on aihwkit": Path("docs") / "results.md",
    "earlier": Path("docs") / "results-earlier.md",
    "earlier on aihwkit": Path("docs") / "results-earlier.md",
    "compare": Path("README.md"),
}
_TIMES = (1.0, 3600.0, 86400.0, 31536000.0)
_STARS = tuple(f"A* {label(t_s)}" for t_s in _TIMES)
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
    columns = [*tables.COLUMNS, *(["training_seed"] if "training_seed" in rows else [])]
    if list(rows.columns) != columns:
        raise DataError(f"{run / 'results.csv'} has other columns than {', '.join(tables.COLUMNS)}")
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


def lines_of(
    record: dict[str, Any], metric: str | None = None, link: str = "../benchmarks/records/"
) -> list[dict[str, str]]:
    """A record's lines of the table: one a model, phase, engine and part of its data.

    Args:    metric  None is each model's own.    link  from the page to the records.
    """
    lines = []
    results = results_of(record)
    for name, study in record["studies"].items():
        mine = results[results.model == study["model"]]
        shown = metric or study["metric"]
        if not (mine.metric == shown).any():
            continue
        stars = tables.a_star_summary(mine, study["chance_error"])
        table = tables.summary(mine, shown)
        pairs = zip(table.to_dict("records"), stars.to_dict("records"), strict=True)
        for row, star in pairs:
            lines.append(
                {
                    "task": name,
                    "model": study["model"],
                    "data": study["dataset"],
                    "metric": shown,
                    "phase": row["phase"],
                    "engine": row["engine"],
                    "samples": f"{study['samples'][row['data']]:,}",
                    "chips": row["chips"],
                    "digital": row["digital"],
                    **{label(t_s): row.get(label(t_s)) or "?" for t_s in _TIMES},
                    **{at: star.get(at) or "?" for at in _STARS},
                    "record": f"[{record['name']}]({link}{record['name']}.json)",
                }
            )
    return lines


def _of_runs(folder: Path | None) -> list[dict[str, Any]]:
    """The records of runs, in the order of their names; those of another kind have own pages."""
    files = sorted((FOLDER if folder is None else folder).glob("*.json"))
    return [record for record in map(read, files) if record.get("kind", "run") == "run"]


def table(folder: Path | None = None) -> str:
    """The table of all records of runs; "" without any."""
    return _table(_of_runs(folder))


def results(folder: Path | None = None) -> str:
    """The table of the records in `IN_FORCE`, in its order."""
    return _table(_named(IN_FORCE, folder))


def earlier(folder: Path | None = None) -> str:
    """The table of the other records of runs."""
    return _table([record for record in _of_runs(folder) if record["name"] not in IN_FORCE])


def on_aihwkit(folder: Path | None = None) -> str:
    """The table of the cross-checks in `ON_AIHWKIT`, in its order."""
    return confirmed.table(_named(ON_AIHWKIT, folder))


def earlier_on_aihwkit(folder: Path | None = None) -> str:
    """The table of the cross-checks in `EARLIER_ON_AIHWKIT`, in its order."""
    return confirmed.table(_named(EARLIER_ON_AIHWKIT, folder))


def _named(names: Sequence[str], folder: Path | None) -> list[dict[str, Any]]:
    """The records of these names, of those that are there."""
    files = [(FOLDER if folder is None else folder) / f"{name}.json" for name in names]
    return [read(file) for file in files if file.exists()]


def _table(records: list[dict[str, Any]]) -> str:
    import pandas as pd

    lines = pd.DataFrame([line for record in records for line in lines_of(record)])
    if lines.empty:
        return ""
    stars = lines[["model", "phase", "engine", "samples", "chips", *_STARS, "record"]]
    values = lines.drop(columns=["task", *_STARS])
    return f"{tables.markdown(values)}\n\n{tables.markdown(stars)}"


def compare(folder: Path | None = None) -> str:
    """Hardware-aware models of the paper, the replication and this project side by side; of this
    project those of `STANDING`, and of a task without any the one measured natively on the most
    samples, then chips."""
    import pandas as pd

    from benchmarks import tasks

    ours = _measured(_of_runs(folder))
    lines = []
    for task in tasks.names():
        theirs = tasks.find(task).published
        lines += [_published_line(one) for one in theirs]
        for metric in dict.fromkeys(one.metric for one in theirs):
            lines += ours.get(
                (task, metric), [{"": "this project", "model": task, "metric": metric}]
            )
    return tables.markdown(pd.DataFrame(lines).fillna("?"))


def _measured(records: list[dict[str, Any]]) -> dict[tuple[str, str], list[dict[str, str]]]:
    """(task, metric) -> the lines of this project."""
    standing: dict[tuple[str, str], list[dict[str, str]]] = {}
    largest: dict[tuple[str, str], tuple[tuple[int, ...], dict[str, str]]] = {}
    known = {record["name"]: record for record in records}
    first = [known.pop(name) for name in STANDING if name in known]
    for record in (*first, *known.values()):
        for metric in _METRICS:
            for line in lines_of(record, metric, "benchmarks/records/"):
                if line["phase"] != "hardware-aware" or line["engine"] != "native":
                    continue
                key, ours = (line["task"], metric), _our_line(line)
                if record["name"] in STANDING:
                    standing.setdefault(key, []).append(ours)
                size = tuple(int(line[name].split()[0].replace(",", "")) for name in _SIZES)
                if key not in largest or size > largest[key][0]:
                    largest[key] = (size, ours)
    return {key: standing.get(key, [line]) for key, (_, line) in largest.items()}


def _our_line(line: dict[str, str]) -> dict[str, str]:
    chips = line["chips"].replace(" x", " chips x", 1)
    chips += "" if "x" in chips else " chips"
    return {
        "": "this project",
        "model": line["model"],
        "data": f"{line['data']}, {line['samples']} samples, {chips}",
        "metric": _METRICS[line["metric"]],
        **{name: line[name] for name in _VALUES},
        "source": line["record"],
    }


_METRICS = {"accuracy": "accuracy", "error": "word error", "perplexity": "perplexity"}
_SIZES = ("samples", "chips")
_VALUES = ("digital", *map(label, _TIMES), "A* 1h", "A* 1y")


def _published_line(one: Published) -> dict[str, str]:
    def shown(t_s: float) -> str:
        if t_s not in one.at:
            return "?"
        mark = "~" if t_s in one.about else ""
        return mark + tables.number(one.at[t_s], one.metric)

    def star(t_s: float) -> str:
        if t_s in one.stars:
            return tables.number(one.stars[t_s], "A*")
        if t_s not in one.at or one.chance is None:
            return "?"
        error, before = (v if one.metric == "error" else 1 - v for v in (one.at[t_s], one.digital))
        return tables.number(tables.normalised_accuracy(error, before, one.chance), "A*")

    return {
        "": one.by,
        "model": one.model,
        "data": one.data + (f"; {one.note}" if one.note else ""),
        "metric": _METRICS[one.metric],
        "digital": tables.number(one.digital, one.metric),
        **{label(t_s): shown(t_s) for t_s in _TIMES},
        **{f"A* {label(t_s)}": star(t_s) for t_s in (3600.0, 31536000.0)},
        "source": one.source,
    }


TABLES = {
    "results": results,
    "on aihwkit": on_aihwkit,
    "earlier": earlier,
    "earlier on aihwkit": earlier_on_aihwkit,
    "compare": compare,
}


def section(text: str, name: str) -> str | None:
    """What stands between the marks of a page, or None where it has no marks."""
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        return None
    return text.partition(begin)[2].partition(end)[0].strip()


def write_pages(root: Path) -> list[Path]:
    """Put the tables between the marks of their pages.

    Raises:  DataError for a page without marks.
    """
    for name, place in PAGES.items():
        file = root / place
        text = file.read_text()
        if section(text, name) is None:
            raise DataError(f"{file} has no <!-- {name} --> <!-- /{name} --> for the table")
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        before, _, rest = text.partition(begin)
        after = rest.partition(end)[2]
        replace_file(file, f"{before}{begin}\n\n{TABLES[name]()}\n\n{end}{after}")
    return [root / place for place in dict.fromkeys(PAGES.values())]


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


@app.command()
def add(
    run: Annotated[Path, typer.Argument(metavar="RUNDIR", help="the --out of a finished run")],
    name: Annotated[str, typer.Option(help="what the record is called")],
    replace: Annotated[bool, typer.Option("--replace", help="one of that name")] = False,
) -> None:
    """Keep a finished run as a record."""
    try:
        if not replace and (FOLDER / f"{name}.json").exists():
            raise UsageError(f"--name {name}: there is such a record; name another, or --replace")
        file = write(record_of(run, name))
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(f"{file}; `python -m benchmarks.record write` puts it into the pages")


def _print(made: Callable[[], str]) -> None:
    try:
        typer.echo(made())
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


@app.command(name="table")
def print_table() -> None:
    """Print the table of all records."""
    _print(table)


@app.command(name="compare")
def print_comparison() -> None:
    """Print what others published beside this project's results."""
    _print(compare)


@app.command(name="write")
def write_tables() -> None:
    """Write the tables into their pages."""
    try:
        for file in write_pages(FOLDER.parent.parent):
            typer.echo(str(file))
    except AimcError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    app()
