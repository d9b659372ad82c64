"""Full disks, unwritable folders and deaths while writing, for every command and every writer.

The suite tries one or two writes of the cheap ones. All writes of all of them:

    python -m pytest tests/test_broken_disk.py -m slow
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomllib
from PIL import Image
from safetensors import safe_open

from benchmarks.__main__ import COMMANDS
from tests.broken_disk import FULL, KILLED, Disk, Outcome, disk
from tests.writers import WRITERS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
LIBRARY, COMMAND, PROJECT = (f"tests.writers:{name}" for name in ("library", "bench", "into"))


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that writes.

    Attributes:
        call: The function of `tests.writers`.
        words: Its words. "{out}" is what it writes, "{folder}" the folder of that, and "{NAME}" is
            what the case of this name wrote.
        same: Patterns of the files that a second try must write byte for byte, under the folder.
        resume: Whether the command has --resume.
        quick: Whether the suite tries it.
    """

    call: str
    words: str
    same: tuple[str, ...] = ()
    resume: bool = False
    quick: bool = True


SMALL = "--chips 1 --subset 40 --times 1h --hwa-batches 2"
RUN = f"run mlp --engine native {SMALL} --digital-epochs 0.1 --checkpoint-every 1 --out {{out}}"
SHARD = "run mlp --engine native --phases direct --chips 2 --subset 20 --times 1h"
SHARD += " --digital-epochs 0.1 --out {folder}/all"
CASES = {
    "chip": Case(LIBRARY, "chip {out}.safetensors", ("*.safetensors",)),
    "sweep": Case(LIBRARY, "sweep {out}.csv", ("*.csv",)),
    "shards": Case(LIBRARY, "shards {out}.csv", ("*.csv",)),
    "figure": Case(LIBRARY, "figure {out}.png", ("*.png", "*.svg")),
    "training": Case(LIBRARY, "training {out}", ("out/*.safetensors",)),
    "preset.toml": Case(LIBRARY, "preset.toml {out}.toml", ("*.toml",)),
    "preset.json": Case(LIBRARY, "preset.json {out}.json", ("*.json",)),
    "comparison": Case(LIBRARY, "comparison {out}", ("out/*.csv", "out/*.md"), quick=False),
    "presets export": Case(COMMAND, "presets export hermes {out}.toml", ("*.toml",)),
    "digital": Case(
        COMMAND,
        "digital mlp --epochs 0.05 --checkpoint-every 1 --out {out}",
        ("out/model.safetensors",),
        True,
    ),
    "run": Case(COMMAND, RUN, ("out/results.csv", "out/work/mlp/*.safetensors"), True),
    "run on both engines": Case(
        COMMAND,
        RUN.replace("native", "both --aihwkit-chips 1 --aihwkit-subset 20"),
        ("out/results.csv",),
        True,
        False,
    ),
    "run --shard": Case(COMMAND, f"{SHARD} --shard 1/2", ("all/*/work/mlp/*.csv",), True, False),
    "shard 2": Case(COMMAND, f"{SHARD} --shard 2/2", (), True, False),
    "report --merge": Case(
        COMMAND,
        "report {run --shard}/all/shard-1-of-2 {shard 2}/all/shard-2-of-2 --merge {out}",
        ("out/results.csv",),
        quick=False,
    ),
    "report": Case(COMMAND, "report {out}", ("out/results.csv", "out/figures/*"), quick=False),
    "report of two": Case(COMMAND, "report {run}/out {run}/out --out {out}", quick=False),
    "crosscheck": Case(
        COMMAND,
        "crosscheck --preset rasch2023 --levels device --samples 500 --targets 0.5 --times 1h"
        " --workers 1 --out {out}",
        ("out/rasch2023/device/*.csv", "out/rasch2023/device/figures/*"),
        True,
        False,
    ),
    "ladder": Case(
        COMMAND,
        "ladder mlp --times 1h --chips 2 --repeats 2 --subset 20 --digital-epochs 0.1 --out {out}",
        ("out/*.csv",),
        True,
        False,
    ),
    "ablation": Case(
        COMMAND,
        f"ablation wrn {SMALL} --digital-epochs 1 --only noise* --out {{out}}".replace(
            "noise*", "no_noise"
        ),
        ("out/results.csv",),
        True,
        False,
    ),
    "speed": Case(
        COMMAND,
        "speed --only mlp-chip --no-aihwkit --rounds 1 --size tiny --threads 1 --out {out}",
        (),
        True,
        False,
    ),
    "record add": Case(PROJECT, "{folder} record add {run}/out", ("records/*",)),
    "record keep": Case(PROJECT, "{folder} record keep {run}/out mlp", ("checkpoints/*/*",)),
    "record write": Case(PROJECT, "{folder} record write", ("docs/*",), quick=False),
    "zoo": Case(PROJECT, "{folder} zoo torch/* --keep", ("measured.json",), quick=False),
}
WITHOUT = {
    "demo": "trains for two minutes; it is `benchmarks.run mlp`, whose code writes all its files",
    "doctor": "writes no file",
}
"""Commands that no case runs, and why."""


class Place:
    """A folder for each try of each case, and what each case writes if nothing fails.

    Args:
        run: The process that runs cases.
        root: The folder of all.
    """

    def __init__(self, run: Disk, root: Path) -> None:
        self.disk, self.root = run, root
        self._whole: dict[str, tuple[Path, Outcome]] = {}
        self._count = 0

    def folder(self) -> Path:
        """Make a new folder."""
        self._count += 1
        path = self.root / f"try{self._count}"
        path.mkdir()
        return path

    def prepared(self, name: str) -> Path:
        """Make a folder with what a command needs that works on files that are there."""
        folder = self.folder()
        if name == "report":
            shutil.copytree(self.whole("run")[0] / "out", folder / "out")
        if name == "record write":
            (folder / "records").mkdir()
            (folder / "docs").mkdir()
            source = Path(__file__).parents[1] / "benchmarks" / "records" / "ladder-lstm.json"
            shutil.copy(source, folder / "records")
            (folder / "docs" / "ladder.md").write_text("<!-- ladder -->\n<!-- /ladder -->\n")
        return folder

    def run(self, name: str, folder: Path, fault: str = "", at: int = -1, *more: str) -> Outcome:
        """Run a case in a folder, with a fault at a write."""
        names = {key: self.whole(key)[0] for key in CASES if f"{{{key}}}" in CASES[name].words}
        out = folder / "out"
        words = CASES[name].words
        for key, value in {"out": out, "folder": folder, **names}.items():
            words = words.replace(f"{{{key}}}", str(value))
        return self.disk.run(
            CASES[name].call,
            [word.replace("no_noise", "no noise") for word in [*words.split(), *more]],
            folder,
            fault,
            at,
        )

    def whole(self, name: str) -> tuple[Path, Outcome]:
        """Return the folder of a case in which nothing failed, and how it ended."""
        if name not in self._whole:
            folder = self.prepared(name)
            outcome = self.run(name, folder)
            assert outcome.code == 0, outcome.error
            self._whole[name] = folder, outcome
        return self._whole[name]

    def writes(self, name: str) -> list[int]:
        """Return the writes to try: the first and the last one of each file."""
        found: dict[tuple[str, str], list[int]] = {}
        folder, outcome = self.whole(name)
        for number, (kind, path) in enumerate(outcome.writes):
            path = re.sub(r"[^/]*(?=\.partial\.csv)|\d+", "#", path.removeprefix(str(folder)))
            found.setdefault((kind, path), []).append(number)
        return sorted({number for all_ in found.values() for number in (all_[0], all_[-1])})


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with disk() as run:
        yield Place(run, tmp_path_factory.mktemp("broken"))


def files(folder: Path, *, hidden: bool) -> list[Path]:
    """Return the files below a folder whose names begin with a point, or the others."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and (path.name.startswith(".") or path.suffix == ".tmp") == hidden
    )


def check_whole(path: Path) -> None:
    """Assert that a file is read to its end."""
    data = path.read_bytes()
    if path.suffix == ".json":
        json.loads(data)
    elif path.suffix == ".toml":
        tomllib.loads(data.decode())
    elif path.suffix == ".csv":
        rows = [*csv.reader(data.decode().splitlines())]
        assert data.endswith(b"\n") and len({len(row) for row in rows}) == 1, path
    elif path.suffix == ".safetensors":
        with safe_open(path, "pt") as opened:
            assert [opened.get_tensor(name) for name in opened.keys()]  # noqa: SIM118
    elif path.suffix == ".png":
        with Image.open(path) as image:
            image.load()
    elif path.suffix == ".svg":
        ET.fromstring(data)
    elif path.suffix == ".html":
        assert data.rstrip().endswith(b"</html>"), path
    else:
        assert data.endswith(b"\n"), path


def content(path: Path) -> object:
    """Return the bytes of a file; of tensors, whose header has no fixed order, what they are."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as file:
        return file.metadata(), {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


LOGS = ("log.csv", "metrics.csv")
"""Files to which a training adds a line at a time: a death leaves half a line, which goes later."""


def judged(place: Place, name: str, fault: str, at: int) -> None:
    """Let a case fail at a write, look at what is left, and do it again."""
    case = CASES[name]
    whole, expected = place.whole(name)
    folder = place.prepared(name)
    before = {path: path.read_bytes() for path in files(folder, hidden=False)}
    outcome = place.run(name, folder, fault, at)
    at_what = f"{name}, {fault} at write {at} {expected.writes[at]}: {outcome.error}"
    if fault == FULL:
        assert outcome.code == 2 and outcome.named(folder), f"{at_what} {outcome.code}"
        assert files(folder, hidden=True) == [], at_what
    else:
        assert outcome.code < 0, at_what
    for path in files(folder, hidden=False):
        if path.stat().st_size and not (fault == KILLED and path.name in LOGS):
            check_whole(path)
    assert before.keys() <= {*files(folder, hidden=False)}, at_what

    again = place.run(name, folder, "", -1, *["--resume"] * case.resume)
    assert again.code == 0, f"{at_what}; again: {again.error}"
    assert files(folder, hidden=True) == [], at_what
    made = [[path.relative_to(root) for path in files(root, hidden=False)]
            for root in (folder, whole)]  # fmt: skip
    assert made[0] == made[1], at_what
    for pattern in case.same:
        paths = sorted(whole.glob(pattern))
        assert paths, pattern
        for path in paths:
            other = folder / path.relative_to(whole)
            assert content(other) == content(path), f"{at_what}: {other.name} differs"
    shutil.rmtree(folder)


QUICK = [name for name, case in CASES.items() if case.quick]


def test_every_command_and_every_writer_has_a_case() -> None:
    words = [case.words.split()[:2] for case in CASES.values()]
    for name in COMMANDS:
        assert name in WITHOUT or any(name in first for first in words)
    assert not {*WITHOUT} & {word for first in words for word in first}
    library = {case.words.split()[0] for case in CASES.values() if case.call == LIBRARY}
    assert library == {*WRITERS}


@pytest.mark.parametrize("fault", [FULL, KILLED])
@pytest.mark.parametrize("name", QUICK)
def test_a_write_that_fails(place: Place, name: str, fault: str) -> None:
    """One of the middle of the work: another one in every case."""
    writes = place.writes(name)
    share = (QUICK.index(name) * 2 + (fault == KILLED)) * 0.618 % 1.0  # spread over all of them
    judged(place, name, fault, writes[int(share * len(writes))])


@pytest.mark.slow
@pytest.mark.parametrize("fault", [FULL, KILLED])
@pytest.mark.parametrize("name", CASES)
def test_every_write_that_fails(place: Place, name: str, fault: str) -> None:
    for at in place.writes(name):
        judged(place, name, fault, at)
