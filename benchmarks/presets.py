"""Show, compare and export presets: `python -m benchmarks.presets [COMMAND]`.

list                            name every preset and say what it is; the default
show rasch2023                  print every number with its unit and source
diff rasch2023 hermes           print what differs between two presets
export rasch2023 my_chip.toml   write a preset to a file, to be changed and read with --preset FILE
"""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

import presets
from aimc_bridge import commands
from aimc_bridge.errors import UsageError
from benchmarks import cli

HELP = "Show the presets with their numbers and sources, compare two, write one to a file."
PROGRAM = "python -m benchmarks.presets"
app = commands.application("presets", usage=f"Usage: {PROGRAM} [COMMAND] [OPTIONS]", help=HELP)

NAMES = ("preset", "part", "field", "unit")
"""Columns that stay on one line, so that a name can be copied."""

Named = Annotated[str, Parameter(help="A preset's name, or a .toml or .json file.")]


PIPED = 10_000
"""Columns where there is no terminal: a row is one line, for `grep` and files."""


def _text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as wide as the terminal; long cells go on in the next line.

    Lines break between words, so that a name can be copied. Where there is no room for a table
    with whole words, every cell gets lines of its own.
    """
    width = shutil.get_terminal_size((PIPED, 24)).columns
    cells = [list(map(_cell, row)) for row in rows]
    widths = _widths(headings, cells, width)
    if widths is None:
        return _stacked(headings, cells, width)
    table = Table(box=None, pad_edge=False, header_style="bold", expand=False)
    for heading, columns in zip(headings, widths, strict=True):
        table.add_column(heading, width=columns)
    for row in cells:
        table.add_row(*row)
    stream = io.StringIO()
    console = Console(file=stream, width=width, markup=False, highlight=False, emoji=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def _widths(
    headings: Sequence[str], cells: Sequence[Sequence[str]], width: int
) -> list[int] | None:
    """Return the width of each column of a table; None if its words do not fit side by side."""
    columns = [[heading, *(row[place] for row in cells)] for place, heading in enumerate(headings)]
    widths = [max(map(len, column)) for column in columns]
    least = [
        max(len(word) for cell in column for word in [*cell.split(), ""]) for column in columns
    ]
    for place, heading in enumerate(headings):
        if heading in NAMES:
            least[place] = widths[place]
    room = width - 2 * (len(headings) - 1)
    while sum(widths) > room:
        wide = [place for place in range(len(widths)) if widths[place] > least[place]]
        if not wide:
            return None
        widths[max(wide, key=lambda place: widths[place])] -= 1
    return widths


def _stacked(headings: Sequence[str], rows: Iterable[Sequence[object]], width: int) -> str:
    """Return rows as blocks for a narrow terminal: the names first, then a line for each cell."""
    lines = []
    for row in rows:
        cells = dict(zip(headings, map(_cell, row), strict=True))
        lines.append(" ".join(filter(None, (cells.pop(n, "") for n in NAMES))))
        for heading, cell in cells.items():
            lines += textwrap.wrap(
                f"{heading}: {cell}",
                width,
                initial_indent="  ",
                subsequent_indent="    ",
                break_on_hyphens=False,
            )
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    """Return a text in lines as wide as the terminal; those after the first one are indented."""
    width = shutil.get_terminal_size((PIPED, 24)).columns
    return textwrap.fill(text, max(20, width), subsequent_indent="  ", break_on_hyphens=False)


def _cell(value: object) -> str:
    """Return a value in words: tuples without brackets, None as "none"."""
    if isinstance(value, tuple | list):
        return ", ".join(map(_cell, value))
    return "none" if value is None else str(value)


@app.command(name="list")
def listing(*, output: cli.Output = cli.Output()) -> None:
    """Name every preset and say in one line what it is."""
    known = {name: presets.get(name) for name in presets.names()}
    rows = [(name, preset.description) for name, preset in known.items()]
    data = {"presets": [dict(zip(("name", "description"), row, strict=True)) for row in rows]}
    output.result(_text(("preset", "what it is"), rows), data)


app.default(listing)


@app.command
def show(preset: Named, /, *, output: cli.Output = cli.Output()) -> None:
    """Print every number of a preset with its unit and source, and the works that are named."""
    chosen = cli.preset_of(preset)
    table = chosen.explain()
    text = [str(chosen), _wrapped(chosen.description)]
    for part, rows in table.groupby("part", sort=False):
        cells = rows[["field", "value", "unit", "source"]]
        text += ["", f"[{part}]", _text(list(cells.columns), cells.itertuples(index=False))]
    works = [_wrapped(f"{key}: {work}") for key, work in table.attrs["works"].items() if work]
    data: dict[str, Any] = {
        "name": chosen.name,
        "description": chosen.description,
        "numbers": table.to_dict("records"),
        "works": table.attrs["works"],
    }
    output.result("\n".join([*text, "", *works]), data)


@app.command
def diff(first: Named, second: Named, /, *, output: cli.Output = cli.Output()) -> None:
    """Print the numbers that differ between two presets; a recipe or a field of one alone too."""
    one, other = cli.preset_of(first), cli.preset_of(second)
    table = one.diff(other)
    headings = ["part", "field", "unit", str(one), str(other)]
    data = {"first": first, "second": second, "differences": table.to_dict("records")}
    if table.empty:
        output.result(f"{first} and {second} have the same numbers", data)
        return
    cells = table[["part", "field", "unit", "first", "second"]].itertuples(index=False)
    output.result(_text(headings, cells), data)


@app.command
def export(
    preset: Named,
    path: Annotated[Path, Parameter(help="The new file; its name ends in .toml or .json.")],
    /,
    *,
    replace: Annotated[bool, cli.flag("Take the place of a file of this name.")] = False,
    output: cli.Output = cli.Output(),
) -> None:
    """Write a preset to a file with all its numbers and sources.

    Change numbers in the file, give it a name of its own, and use it: --preset FILE on the command
    line, presets.load(FILE) in Python.
    """
    chosen = cli.preset_of(preset)
    if path.exists() and not replace:
        raise UsageError(f"{path} exists; name another file, or pass --replace")
    if not output.dry_run:
        presets.save(chosen, path)
    output.result(str(path), {"file": path, "preset": chosen.name})
    output.say("change its numbers and its name, then: --preset FILE, or presets.load(FILE)")


main = partial(commands.execute, app, program=PROGRAM)


if __name__ == "__main__":
    sys.exit(main())
