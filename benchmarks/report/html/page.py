"""A report as a page: sections of words, tables and figures, and the file that holds them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, PackageLoader, StrictUndefined

from aimc_bridge import files
from benchmarks.report.html import inline

if TYPE_CHECKING:
    import pandas as pd

FILE = "report.html"


@dataclass(frozen=True)
class Series:
    """A series that a button under a figure shows and hides.

    Attributes:
        key: The series of the marks in the figure, and of rows in tables of the section.
        name: The name on the button.
        colour: The CSS variable of its colour, such as "--c0".
        marker: Its marker as matplotlib names it, such as "o"; "" for none.
        dash: Its dashes as matplotlib names them, such as "--"; "" for no line.
        chips: Whether it stands for the thin lines of all series.
    """

    key: str
    name: str
    colour: str
    marker: str = ""
    dash: str = "-"
    chips: bool = False

    @property
    def path(self) -> str:
        """Return the marker as a path of SVG, in a box of 24 x 12."""
        return inline.marker_path(self.marker, (12.0, 6.0), 8.0) if self.marker else ""

    @property
    def dashes(self) -> str:
        """Return the dashes as SVG has them; "" for a whole line."""
        return {"--": "5 3", "-.": "5 2 1.5 2", ":": "1.5 2"}.get(self.dash, "")


@dataclass(frozen=True)
class Chart:
    """A figure with its buttons.

    Attributes:
        svg: The figure, from `inline.drawn`, which has escaped all texts in it.
        title: What stands above it.
        caption: What stands under it.
        series: Its buttons.
        wide: Whether it has several panels: it takes the whole width, and scrolls on a phone.
    """

    svg: str
    title: str
    caption: str
    series: Sequence[Series] = ()
    wide: bool = False


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        columns: The heads.
        rows: The rows.
        caption: What stands above it.
        keys: The series of each row, which a button hides; () for none.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    keys: Sequence[str] = ()

    @classmethod
    def of(cls, table: pd.DataFrame, caption: str = "", keys: Sequence[str] = ()) -> Table:
        """Make one of a DataFrame of text.

        Args:
            table: The DataFrame.
            caption: What stands above it.
            keys: The series of each row.
        """
        rows = [[str(cell) for cell in row] for row in table.to_numpy().tolist()]
        return cls([str(name) for name in table.columns], rows, caption, keys)


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        title: Its heading.
        words: Its paragraphs.
        charts: Its figures.
        tables: Its tables.
        code: Text to copy, such as a command.
    """

    title: str
    words: Sequence[str] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    code: str = ""


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: Its title.
        question: What was asked, one sentence.
        answer: What came out; each text is a paragraph.
        sections: Its parts.
        about: A line under the title, such as the folder.
    """

    title: str
    question: str
    answer: tuple[str, ...]
    sections: Sequence[Section] = field(default_factory=list)
    about: str = ""

    def html(self) -> str:
        """Return the whole page; it refers to nothing outside of itself."""
        made: str = _environment().get_template("report.html.j2").render(page=self)
        return made


def write(page: Page, path: Path) -> Path:
    """Write a report, whole or not at all.

    Args:
        page: The report.
        path: The file.

    Returns:
        The file.
    """
    files.write_text(path, page.html())
    return path


def _environment() -> Environment:
    # names of models, presets and folders may hold HTML: everything is escaped
    environment = Environment(
        loader=PackageLoader("benchmarks.report.html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = unbroken
    return environment


def unbroken(cell: str) -> str:
    """Return a cell whose spreads and intervals are not broken between lines.

    Args:
        cell: The text, with what HTML needs escaped, such as "95.76 ± 2.02 % (93.86 to 97.66)".
    """
    kept = r"[^\s()]+ ± [^\s()]+(?: %)?|\([^()]{1,20}\)"
    return re.sub(kept, r'<span class="whole">\g<0></span>', str(cell))
