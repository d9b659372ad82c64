"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from aimc_bridge import files
from aimc_bridge.errors import UsageError


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old\n")
    with pytest.raises(RuntimeError), files.replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old\n"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_utf8_and_keeps_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "µS\r\n")
    assert path.read_bytes() == "µS\r\n".encode()


def test_the_temporary_name_keeps_the_suffix(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "figure.png") as temporary:
        assert temporary.suffix == ".png" and temporary.parent == tmp_path
        temporary.write_bytes(b"x")
    assert (tmp_path / "figure.png").read_bytes() == b"x"


def test_an_error_without_a_name_gets_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(OSError, match="No space") as caught, files.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="Denied") as caught, files.replacing(path):
        raise OSError(errno.EACCES, "Denied", "another")
    assert caught.value.filename == "another"


def test_what_killed_processes_left_is_removed_by_the_next_write(tmp_path: Path) -> None:
    """The temporary file of a process that lives stays, and so do all other files."""
    script = (
        "import os, sys\nfrom aimc_bridge import files\n"
        "with files.replacing(sys.argv[1]) as path:\n"
        "    path.write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "a.txt"
    path.write_text("old")
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    (left,) = [file for file in tmp_path.iterdir() if file != path]
    living = left.with_name(re.sub(r"-[0-9]+", f"-{os.getpid()}", left.name).replace(".a.", ".b."))
    strange = tmp_path / ".a.partial.notes.txt"
    for file in (living, strange):
        file.write_text("")
    files.write_text(tmp_path / "c.txt", "new")
    assert sorted(tmp_path.iterdir()) == sorted([path, living, strange, tmp_path / "c.txt"])
    assert path.read_text() == "old"


def test_the_folder_of_a_library_goes_too(tmp_path: Path) -> None:
    """Libraries that write to a random name get a folder, which a dead process may have left."""
    script = (
        "import os, sys\nfrom aimc_bridge import files\n"
        "with files.replacing(sys.argv[1]) as path, files.own_folder(path) as folder:\n"
        "    (folder / '.tmpX').write_text('half')\n    os.kill(os.getpid(), 9)\n"
    )
    path = tmp_path / "a.safetensors"
    assert subprocess.run([sys.executable, "-c", script, str(path)]).returncode == -9
    left = sorted(file.name for file in tmp_path.iterdir())
    assert len(left) == 2 and left[0].endswith(".partial.folder"), left
    assert all(files.is_partial(tmp_path / name) for name in left)
    with files.replacing(path) as temporary, files.own_folder(temporary) as folder:
        assert folder.parent == tmp_path and [*folder.iterdir()] == []
        temporary.write_text("new")
    assert [*tmp_path.iterdir()] == [path]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path: Path) -> None:
    """The process may write files of at most 1,000 bytes, text and tensors alike."""
    script = (
        "import resource, signal, sys, torch\nfrom pathlib import Path\n"
        "from aimc_bridge import files, sealed_files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "folder = Path(sys.argv[1])\n"
        "try:\n    files.write_text(folder / 'a.txt', 'x' * 5000)\n"
        "except OSError as error:\n    print(error.filename)\n"
        "try:\n"
        "    sealed_files.write_tensors(folder / 'a.safetensors', {'a': torch.ones(5000)})\n"
        "except sealed_files.CheckpointError as error:\n    print(error)\n"
    )
    for name in ("a.txt", "a.safetensors"):
        (tmp_path / name).write_text("old")
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True
    )
    first, second = run.stdout.splitlines()
    assert first == str(tmp_path / "a.txt")
    assert second.startswith(f"{tmp_path / 'a.safetensors'}: cannot be written (")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "a.txt": "old",
        "a.safetensors": "old",
    }


def test_a_copy_that_does_not_fit_names_the_new_file(tmp_path: Path) -> None:
    source, path = tmp_path / "source.bin", tmp_path / "copy.bin"
    source.write_bytes(b"x" * 5000)
    script = (
        "import resource, shutil, signal, sys\nfrom aimc_bridge import files\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "try:\n"
        "    with files.replacing(sys.argv[2]) as temporary:\n"
        "        shutil.copyfile(sys.argv[1], temporary)\n"
        "except OSError as error:\n    print(error.filename, error.filename2)\n"
    )
    words = [sys.executable, "-c", script, str(source), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(path), "None"]
    assert [*tmp_path.iterdir()] == [source]


def test_a_line_that_does_not_fit_is_taken_back(tmp_path: Path) -> None:
    """The system takes a part of it first. With more room the next line follows the last one."""
    path = tmp_path / "log.csv"
    script = (
        "import csv, resource, signal, sys\nfrom pathlib import Path\n"
        "from aimc_bridge.files import Lines\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "with Lines(Path(sys.argv[1])) as file:\n"
        "    rows = csv.writer(file)\n"
        "    rows.writerow(['step', 'loss'])\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (16, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        rows.writerow([1, '0.500000'])\n"
        "    except OSError as error:\n"
        "        print(error.filename, Path(sys.argv[1]).stat().st_size)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (30, resource.RLIM_INFINITY))\n"
        "    rows.writerow([2, 'größer'])\n"
    )
    words = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(path), "11"]
    assert path.read_bytes() == "step,loss\r\n2,größer\r\n".encode()


@pytest.mark.parametrize("name", ["a\udcff.txt", "a\0.txt", "\ud800"])
def test_paths_that_no_text_can_hold_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written in UTF-8") as caught:
        files.write_text(tmp_path / name, "x")
    assert str(caught.value).isascii()


def test_text_is_utf8_in_any_locale(tmp_path: Path) -> None:
    """A name that the locale lacks is refused at once; contents never depend on it."""
    script = (
        "import sys\nfrom pathlib import Path\nfrom aimc_bridge import files, sealed_files\n"
        "folder = Path(sys.argv[1])\n"
        "files.write_text(folder / 'a.txt', '\\xb5S')\n"
        "sealed_files.write_facts(folder / 'a.json', {'\\xb5': '\\u6642'})\n"
        "assert sealed_files.read_facts(folder / 'a.json') == {'\\xb5': '\\u6642'}\n"
        "try:\n    files.check_path(folder / '\\xb5')\n"
        "except files.UsageError as error:\n    print(error)\n"
    )
    place = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        env={**os.environ, **place},
    )
    assert run.returncode == 0, run.stderr
    assert b"cannot be written in UTF-8 and in the encoding of this locale" in run.stdout
    assert (tmp_path / "a.txt").read_bytes() == "µS".encode()


def test_what_has_no_end_or_is_too_large_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large").write_bytes(bytes(11))
    (tmp_path / "nothing").symlink_to(tmp_path / "none")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    reasons = {
        tmp_path / "pipe": "a pipe, not a file",
        tmp_path: "a folder, not a file",
        Path("/dev/zero"): "a device, not a file",
        tmp_path / "large": "11 bytes; allowed: up to 10",
        tmp_path / "nothing": os.strerror(errno.ENOENT),
        tmp_path / "loop": os.strerror(errno.ELOOP),
    }
    for path, reason in reasons.items():
        with pytest.raises(OSError, match=re.escape(reason)) as caught:
            files.read_bytes(path, 10)
        assert os.fspath(caught.value.filename) == os.fspath(path)
    assert files.read_bytes(tmp_path / "large", 11) == bytes(11)


READERS: dict[str, str] = {
    "preset.toml": "import presets; presets.load(path)",
    "preset.json": "import presets; presets.load(path)",
    "table.csv": "from aimc_bridge.devices import TableDevice\n"
    "TableDevice.from_csv(path, g_max_us=25.0, source='s')",
    "rows.csv": "from aimc_bridge import sweep_files\nsweep_files.read_rows(Path(path), 0)",
    "facts.json": "from aimc_bridge import sealed_files\nsealed_files.read_facts(Path(path))",
    "a.safetensors": "from aimc_bridge import sealed_files\nsealed_files.read_tensors(path)",
    "record.json": "from benchmarks.report import record\nrecord.read(Path(path))",
    "run.json": "from benchmarks.report import record\nrecord.read_run(Path(path).parent)",
    "results.csv": "from benchmarks.report import folders\nfolders.kind_of(Path(path).parent)",
    "info.json": "from benchmarks.tasks.models import read_info\nread_info(Path(path).parent)",
}


def test_no_reader_waits_for_a_pipe_or_reads_a_device(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom pathlib import Path\nfrom aimc_bridge.errors import AimcError\n"
        f"readers = {READERS!r}\n"
        "for folder, kind in (('1', 'a pipe'), ('2', 'a device')):\n"
        "    for name, code in readers.items():\n"
        "        path = str(Path(sys.argv[1]) / folder / name)\n"
        "        try:\n            exec(code)\n"
        "        except AimcError as error:\n            assert kind in str(error), error\n"
        "        else:\n            raise SystemExit(f'{name}: read')\n"
    )
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    for name in READERS:
        os.mkfifo(tmp_path / "1" / name)
        (tmp_path / "2" / name).symlink_to("/dev/zero")
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=240
    )
    assert run.returncode == 0, run.stderr
