"""The pages that show records: their generated sections and figures.

This is the only code that writes into README.md and docs/. A section stands between the marks
`<!-- NAME -->` and `<!-- /NAME -->` of its page; what is outside of the marks is left alone. A
figure says in its metadata which records it was drawn from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from aimc_bridge import files
from aimc_bridge.errors import DataError
from benchmarks.report import (
    ablation,
    claim,
    coverage_page,
    crosscheck,
    ladder,
    recipes,
    replication,
    run,
    speed_columns,
    speed_figure,
    speed_page,
)
from benchmarks.report import figures as drawing
from benchmarks.report import record as records
from benchmarks.report.record import Record, digest
from benchmarks.zoo import page as zoo

ROOT = Path(__file__).parents[2]
NOTHING = "No record yet."
DOCS = Path("docs")


class Section(NamedTuple):
    """A generated part of a page.

    Attributes:
        page: The page, from the project's root.
        name: The name in its marks.
        text: Makes the text.
    """

    page: Path
    name: str
    text: Callable[[], str]


class Picture(NamedTuple):
    """A generated figure.

    Attributes:
        path: The file, from the project's root.
        digest: The digest of the records that it is drawn from.
        draw: Draws it to a path, with a description for the file's metadata.
    """

    path: Path
    digest: str
    draw: Callable[[Path, str], None]


SECTIONS = (
    Section(Path("README.md"), "brief", run.brief),
    Section(DOCS / "results.md", "compare", run.compare),
    Section(DOCS / "results.md", "results", run.results),
    Section(DOCS / "replication.md", "replication", replication.section),
    Section(DOCS / "replication.md", "claim", claim.section),
    Section(DOCS / "results.md", "on aihwkit", crosscheck.on_aihwkit),
    Section(DOCS / "results-earlier.md", "earlier", run.earlier),
    Section(DOCS / "results-earlier.md", "earlier on aihwkit", crosscheck.earlier_on_aihwkit),
    Section(DOCS / "a-star.md", "coverage", coverage_page.section),
    Section(DOCS / "cross-check.md", "versions", crosscheck.by_version),
    Section(DOCS / "ladder.md", "ladder", ladder.section),
    Section(DOCS / "ablation.md", "ablation", ablation.section),
    Section(DOCS / "recipes.md", "recipes", recipes.section),
    *(
        Section(DOCS / "speed.md", name, partial(speed_page.section, name))
        for name in speed_page.SECTIONS
    ),
    Section(DOCS / "zoo.md", "zoo", zoo.section),
)


def pictures() -> list[Picture]:
    """Return the figures of the committed records."""
    path = DOCS / replication.IMAGE
    all_pictures = [Picture(path, replication.mark(), replication.draw)]
    if (climbed := claim.committed()) is not None:
        path = DOCS / claim.IMAGE
        all_pictures.append(Picture(path, claim.mark(climbed), partial(claim.draw, climbed)))
    if rungs := ladder.committed():
        path = DOCS / ladder.IMAGE
        all_pictures.append(Picture(path, digest(*rungs), partial(ladder.draw, rungs)))
    for record in ablation.committed():
        path = DOCS / ablation.image_of(record)
        all_pictures.append(Picture(path, digest(record), partial(ablation.draw, record)))
    for record in speed_columns.shown().growth[:1]:
        path = DOCS / speed_figure.image_of(record)
        all_pictures.append(Picture(path, digest(record), partial(speed_figure.draw, record)))
    return all_pictures


def between(text: str, name: str) -> tuple[str, str, str] | None:
    """Cut a page at the marks of a section.

    Args:
        text: The page.
        name: The name in the marks.

    Returns:
        Three texts: up to the first mark and with it, between the marks, and from the last mark on.
        None unless the page has both marks exactly once.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        return None
    before, _, rest = text.partition(begin)
    inside, _, after = rest.partition(end)
    return before + begin, inside.strip(), end + after


def write(root: Path | None = None) -> list[Path]:
    """Write every generated section and figure.

    Args:
        root: The folder of README.md and docs/; None is the project's.

    Returns:
        The files, each once.

    Raises:
        DataError: If a page lacks the marks of a section, or if there are no pages. Nothing is
            written then.
    """
    root = _project() if root is None else root
    texts: dict[Path, str] = {}
    for section in SECTIONS:
        path = root / section.page
        text = texts.get(path) or path.read_text(encoding="utf-8")
        cut = between(text, section.name)
        if cut is None:
            name = section.name
            raise DataError(
                f"{path} needs the marks <!-- {name} --> and <!-- /{name} -->, once each"
            )
        before, _, after = cut
        texts[path] = f"{before}\n\n{section.text() or NOTHING}\n\n{after}"
    drawn = pictures()
    for path, text in texts.items():
        files.write_text(path, text)
    for picture in drawn:
        (root / picture.path).parent.mkdir(parents=True, exist_ok=True)
        picture.draw(root / picture.path, picture.digest)
    return [*texts, *(root / picture.path for picture in drawn)]


def problems(root: Path | None = None) -> Iterator[str]:
    """Find damaged or misnamed records, and outdated sections and figures.

    Args:
        root: The folder of README.md and docs/; None is the project's.

    Yields:
        One line per problem.

    Raises:
        DataError: If there are no pages.
    """
    root = _project() if root is None else root
    damaged = damage()
    yield from damaged
    if damaged:
        return  # no page can be made from damaged records
    for section in SECTIONS:
        path = root / section.page
        cut = between(path.read_text(encoding="utf-8"), section.name) if path.exists() else None
        if cut is None:
            yield f"{section.page}: no marks <!-- {section.name} --> <!-- /{section.name} -->"
        elif cut[1] != (section.text() or NOTHING):
            yield f"{section.page}: {section.name} does not show the records"
    for picture in pictures():
        if drawing.description_of(root / picture.path) != picture.digest:
            yield f"{picture.path} is not drawn from the records"


def damage() -> list[str]:
    """Return what is wrong with the records' files, one line per problem."""
    return [problem for path in sorted(records.FOLDER.glob("*.json")) for problem in _of(path)]


def _project() -> Path:
    """Return the folder of README.md and docs/, which only a clone of the project has."""
    if not any((ROOT / section.page).exists() for section in SECTIONS):
        raise DataError(
            f"README.md and docs/ are not in {ROOT}: the installed package has the records and not "
            "the pages; run this command in a clone of the project"
        )
    return ROOT


def _of(path: Path) -> Iterator[str]:
    """Yield what is wrong with a record's file."""
    try:
        record: Record = records.read(path)
    except DataError as error:
        yield str(error)
        return
    if record.name != path.stem:
        yield f"{path} holds the record {record.name}"
