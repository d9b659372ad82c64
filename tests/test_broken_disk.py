"""Full disks, unwritable folders and deaths while writing, for every command and every writer.

The suite tries one or two writes of the cheap ones. All writes of all of them:

    python -m pytest tests/test_broken_disk.py -m slow
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.__main__ import COMMANDS
from tests.broken_disk import FULL, KILLED, Disk, Outcome, disk
from tests.whole_files import check_whole, content
from tests.writers import WRITERS

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
LIBRARY, COMMAND, PROJECT = (f"tests.writers:{name}" for name in ("library", "bench", "into"))


BOTH = (FULL, KILLED)


@dataclasses.dataclass(frozen=True)
class Case:
    """Something that writes.

    Attributes:
        call: The function of `tests.writers`.
        words: Its words. "{out}" is what it writes, "{folder}" the folder of that, and "{NAME}" is
            what the case of this name wrote.
        same: Patterns of the files that a second try must write byte for byte, under the folder.
        resume: Whether the command has --resume.
        quick: The faults that the suite tries, at one write each.
        like: The case that writes the most of it in the same way: only other writes are tried.
        code: The exit code if all is written.
    """

    call: str
    words: str
    same: tuple[str, ...] = ()
    resume: bool = False
    quick: tuple[str, ...] = ()
    like: str = ""
    code: int = 0


SMALL = "--chips 1 --subset 40 --times 1h --hwa-batches 2"
RUN = f"run mlp --engine native {SMALL} --digital-epochs 0.1 --checkpoint-every 1 --out {{out}}"
SHARD = "run mlp --engine native --phases direct --chips 2 --subset 20 --times 1h"
SHARD += " --digital-epochs 0.1 --out {folder}/all"
CASES = {
    "chip": Case(LIBRARY, "chip {out}.safetensors", ("*.safetensors",), quick=BOTH),
    "sweep": Case(LIBRARY, "sweep {out}.csv", ("*.csv",), quick=BOTH),
    "shards": Case(LIBRARY, "shards {out}.csv", ("*.csv",), quick=(KILLED,)),
    "figure": Case(LIBRARY, "figure {out}.png", ("*.png", "*.svg"), quick=BOTH),
    "training": Case(LIBRARY, "training {out}", ("out/*.safetensors",), quick=BOTH),
    "preset.toml": Case(LIBRARY, "preset.toml {out}.toml", ("*.toml",), quick=(FULL,)),
    "preset.json": Case(LIBRARY, "preset.json {out}.json", ("*.json",), quick=(KILLED,)),
    "comparison": Case(LIBRARY, "comparison {out}", ("out/*.csv", "out/*.md")),
    "presets export": Case(COMMAND, "presets export hermes {out}.toml", ("*.toml",), quick=(FULL,)),
    "digital": Case(
        COMMAND,
        "digital mlp --epochs 0.05 --checkpoint-every 1 --out {out}",
        ("out/model.safetensors",),
        True,
        (KILLED,),
    ),
    "run": Case(COMMAND, RUN, ("out/results.csv", "out/work/mlp/*.safetensors"), True, (FULL,)),
    "run on both engines": Case(
        COMMAND,
        RUN.replace("native", "both --aihwkit-chips 1 --aihwkit-subset 20"),
        ("out/work/mlp/*-native-*.csv",),  # no seed reaches the noise of aihwkit's products
        True,
        like="run",
    ),
    "run --shard": Case(COMMAND, f"{SHARD} --shard 1/2", ("all/*/work/mlp/*.csv",), True),
    "shard 2": Case(COMMAND, f"{SHARD} --shard 2/2", (), True, like="run --shard"),
    "report --merge": Case(
        COMMAND,
        "report {run --shard}/all/shard-1-of-2 {shard 2}/all/shard-2-of-2 --merge {out}",
        ("out/results.csv",),
    ),
    "report": Case(COMMAND, "report {out}", ("out/results.csv", "out/figures/*")),
    "report of two": Case(COMMAND, "report {run}/out {run}/out --out {out}"),
    "crosscheck": Case(
        COMMAND,
        "crosscheck --preset rasch2023 --levels device --samples 500 --targets 0.5 --times 1h"
        " --workers 1 --out {out}",
        ("out/rasch2023/device/*.csv", "out/rasch2023/device/figures/*"),
        True,
    ),
    "ladder": Case(
        COMMAND,
        "ladder mlp --times 1h --chips 2 --repeats 2 --subset 20 --digital-epochs 0.1 --out {out}",
        ("out/*.csv",),
        True,
    ),
    "ablation": Case(
        COMMAND,
        f"ablation wrn {SMALL} --digital-epochs 1 --only 'no noise' --out {{out}}",
        ("out/results.csv",),
        True,
    ),
    "speed": Case(
        COMMAND,
        "speed --only mlp-chip --no-aihwkit --rounds 1 --size tiny --threads 1 --out {out}",
        (),
        True,
    ),
    "record add": Case(PROJECT, "{folder} record add {run}/out", ("records/*",), quick=(FULL,)),
    "record keep": Case(
        PROJECT, "{folder} record keep {run}/out mlp", ("checkpoints/*/*",), quick=(KILLED,)
    ),
    "record write": Case(PROJECT, "{folder} record write", ("docs/*",)),
    "intervals": Case(
        PROJECT,
        "{folder} intervals --sets 1 --record intervals",
        ("records/*",),
        code=1,  # one data set is too few for the share of those that hold
    ),
    "zoo": Case(PROJECT, "{folder} zoo torch/* --keep", ("measured.json",)),
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
            [*shlex.split(words), *more],
            folder,
            fault,
            at,
        )

    def whole(self, name: str) -> tuple[Path, Outcome]:
        """Return the folder of a case in which nothing failed, and how it ended."""
        if name not in self._whole:
            folder = self.prepared(name)
            outcome = self.run(name, folder)
            assert outcome.code == CASES[name].code, outcome.error
            self._whole[name] = folder, outcome
        return self._whole[name]

    def kinds(self, name: str) -> dict[tuple[str, str], list[int]]:
        """Return the writes of each kind. Of two in a row to one file, the first is enough.

        A fault lasts: from the first of them on, the disk is full.
        """
        found: dict[tuple[str, str], list[int]] = {}
        folder, outcome = self.whole(name)
        for number, (kind, path) in enumerate(outcome.writes):
            if number and outcome.writes[number - 1] == (kind, path):
                continue
            path = re.sub(r"[^/]*(?=\.partial\.csv)|\d+", "#", path.removeprefix(str(folder)))
            found.setdefault((kind, path), []).append(number)
        return found

    def writes(self, name: str) -> list[int]:
        """Return the writes to try.

        A file is opened, perhaps in a folder of its own, and renamed. For the library the first
        and the last of each of these are tried, for a command one of them per file: another
        one for the next file.
        """
        case = CASES[name]
        known = self.kinds(case.like) if case.like else {}
        files: dict[str, list[list[int]]] = {}
        for (kind, path), numbers in self.kinds(name).items():
            if (kind, path) not in known:
                files.setdefault(final(path), []).append(numbers)
        if case.call == LIBRARY:
            ends = [(all_[0], all_[-1]) for stages in files.values() for all_ in stages]
            return sorted({number for pair in ends for number in pair})
        turns = enumerate(files.values())
        return sorted(stages[turn % len(stages)][-(turn % 2)] for turn, stages in turns)


def final(path: str) -> str:
    """Return the name that a file has in the end, of a name that it has while it is written."""
    partial = re.fullmatch(r"(.*/)\.([^/]+)\.[^/.]+-#\.partial(\.\w+)(/.*)?", path)
    if partial is None:
        return path
    folder, stem, suffix, _ = partial.groups()
    return f"{folder}{stem}{'.safetensors' if suffix == '.folder' else suffix}"


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


LOGS = ("log.csv", "metrics.csv")
"""Files to which a training adds a line at a time: a death leaves half a line, which goes later."""


def judged(place: Place, name: str, fault: str, at: int) -> None:
    """Let a case fail at a write, look at what is left, and do it again."""
    _, expected = place.whole(name)
    folder = place.prepared(name)
    before = files(folder, hidden=False)
    outcome = place.run(name, folder, fault, at)
    about = f"{name}, {fault} at write {at} {expected.writes[at]}: {outcome.error}"
    check_left(folder, fault, outcome, about)
    assert {*before} <= {*files(folder, hidden=False)}, about
    check_again(place, name, folder, about)
    shutil.rmtree(folder)


def check_left(folder: Path, fault: str, outcome: Outcome, about: str) -> None:
    """Assert that a process told its error in a line, and left whole files alone."""
    if fault == FULL:
        assert outcome.code == 2 and outcome.named(folder), f"{about} {outcome.code}"
        assert files(folder, hidden=True) == [], about
    else:
        assert outcome.code < 0, about
    for path in files(folder, hidden=False):
        if path.stat().st_size and not (fault == KILLED and path.name in LOGS):
            check_whole(path)


def check_again(place: Place, name: str, folder: Path, about: str) -> None:
    """Assert that the same command then does all its work, and clears away what was left."""
    case, (whole, _) = CASES[name], place.whole(name)
    again = place.run(name, folder, "", -1, *["--resume"] * case.resume)
    assert again.code == case.code, f"{about}; again: {again.error}"
    assert files(folder, hidden=True) == [], about
    made, all_ = (
        [path.relative_to(root) for path in files(root, hidden=False)] for root in (folder, whole)
    )
    assert made == all_, about
    for pattern in case.same:
        paths = sorted(whole.glob(pattern))
        assert paths, pattern
        for path in paths:
            other = folder / path.relative_to(whole)
            assert content(other) == content(path), f"{about}: {other.name} differs"


QUICK = [(name, fault) for name, case in CASES.items() for fault in case.quick]


def test_every_command_and_every_writer_has_a_case() -> None:
    words = [case.words.split()[:2] for case in CASES.values()]
    for name in COMMANDS:
        assert name in WITHOUT or any(name in first for first in words)
    assert not {*WITHOUT} & {word for first in words for word in first}
    library = {case.words.split()[0] for case in CASES.values() if case.call == LIBRARY}
    assert library == {*WRITERS}


@pytest.mark.parametrize(("name", "fault"), QUICK)
def test_a_write_that_fails(place: Place, name: str, fault: str) -> None:
    """One in the middle of the work: another one in every case."""
    writes = place.writes(name)
    share = QUICK.index((name, fault)) * 0.618 % 1.0  # spread over all of them
    judged(place, name, fault, writes[int(share * len(writes))])


@pytest.mark.slow
@pytest.mark.parametrize("fault", BOTH)
@pytest.mark.parametrize("name", CASES)
def test_every_write_that_fails(place: Place, name: str, fault: str) -> None:
    failures = []
    for at in place.writes(name):
        try:
            judged(place, name, fault, at)
        except Exception as error:  # noqa: BLE001 - a file that cannot be read is a failure, too
            failures.append(f"{name}, {fault} at write {at}: {error!r}")
    assert not failures, "\n".join(failures)


WRITING = [name for name, case in CASES.items() if "{out}" in case.words and name != "report"]


@pytest.mark.parametrize("name", [name for name in WRITING if name != "report --merge"])
def test_a_folder_that_cannot_be_made_is_named(place: Place, name: str) -> None:
    """It would lie in a file. Commands say so before any work."""
    folder = place.folder() / "file"
    folder.touch()
    outcome = place.run(name, folder)
    assert outcome.code == 2 and outcome.named(folder), outcome
    assert len(outcome.writes) <= 1, outcome  # the one that failed
    assert [*folder.parent.iterdir()] == [folder]


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """Mount a small file system in memory, if this process may."""
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False)
    if done.returncode:
        pytest.skip("this process cannot mount file systems")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("size_kib", [8, 40, 100, 250])
@pytest.mark.parametrize("name", WRITING)
def test_a_disk_that_is_full(place: Place, name: str, size_kib: int) -> None:
    """A real one, with room for a part of what is written; later there is more room."""
    place.whole(name)
    folder = place.folder()
    with mounted(folder, f"size={size_kib}k"):
        outcome = place.run(name, folder)
        if outcome.code == 0:
            return  # all of it had room
        check_left(folder, FULL, outcome, f"{name}: {outcome.error}")
        subprocess.run(["mount", "-o", "remount,size=256m", folder], check=True)
        check_again(place, name, folder, f"{name}: {outcome.error}")


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITING)
def test_a_read_only_disk(place: Place, name: str) -> None:
    folder = place.folder()
    with mounted(folder, "ro"):
        outcome = place.run(name, folder)
        assert outcome.code == 2 and outcome.named(folder), outcome
        assert [*folder.iterdir()] == []
