"""Files are written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from aimc_bridge import files


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
