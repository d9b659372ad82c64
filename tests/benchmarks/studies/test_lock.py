"""Two processes cannot work in one folder; a dead one holds no lock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from aimc_bridge.errors import CheckpointError, UsageError
from benchmarks.studies import finished_parts, folder

HOLD = (
    "import sys\nfrom pathlib import Path\nfrom benchmarks.studies import folder\n"
    "folder.enter(Path(sys.argv[1]), {'a': 1}, True)\nprint('in', flush=True)\nsys.stdin.read()\n"
)


def test_the_lock_of_a_process_ends_with_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [sys.executable, "-c", HOLD, str(out)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "in\n"
        with pytest.raises(UsageError, match=f"--out {out}: another process works in it"):
            folder.enter(out, {"a": 1}, True)
        with pytest.raises(UsageError, match="another process"), folder.alone(out):
            pytest.fail("not alone")
        half = out / "work" / f".rows.{folder_host()}-{other.pid}.partial.csv"
        half.parent.mkdir()
        half.write_text("half")
        other.kill()
    folder.enter(out, {"a": 1}, True)
    assert not half.exists()
    with folder.alone(out):  # this process has it already
        pass
    folder.unlock(out)
    with folder.alone(out):
        assert (out / folder.LOCK).exists()
    assert sorted(path.name for path in out.iterdir()) == ["run.json", "work"]


def folder_host() -> str:
    from aimc_bridge import files

    return files._host()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"arguments": 3}', "[" * 100_000, "\\x00", "{"])
def test_a_damaged_record_is_called_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UsageError, match=r"run\.json is damaged .*; put the former file back, or"):
        folder.enter(tmp_path, {"a": 1}, True)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    "notes", ["3", "{}", '{"started": 1, "wall_s": {}, "interrupted": []}', '{"started": []}']
)
@pytest.mark.filterwarnings("ignore:.*no checksum")
def test_damaged_notes_are_named(tmp_path: Path, notes: str) -> None:
    path = tmp_path / "parts.json"
    path.write_text(notes)
    with pytest.raises(CheckpointError, match="parts.json is damaged"):
        finished_parts.Parts(path, keep=True).recall()


def test_changed_notes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "parts.json"
    finished_parts.Parts(path, keep=True).timed("a", lambda: None)
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(CheckpointError, match="do not fit its checksum"):
        finished_parts.Parts(path, keep=True).recall()
