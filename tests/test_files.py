"""Files are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest
import torch

from aimc_bridge import files
from aimc_bridge.errors import CheckpointError


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


def test_tensors_round_trip_tied_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensor = torch.arange(6.0).view(2, 3)
    files.write_tensors(path, {"a": tensor, "b": tensor, "c": tensor.T}, {"seed": "7"})
    read = files.read_tensors(path)
    assert torch.equal(read["a"], tensor) and torch.equal(read["c"], tensor.T)
    assert set(read) == {"a", "b", "c"}


def test_unreadable_and_unwritable_files_are_checkpoint_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        files.read_tensors(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        files.read_tensors(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="cannot be written"):
        files.write_tensors(tmp_path / "no folder" / "a.safetensors", {"a": torch.ones(1)})


def test_a_digest_knows_values_dtype_and_shape() -> None:
    def digest(tensor: torch.Tensor) -> str:
        total = hashlib.sha256()
        files.add_tensor(total, tensor)
        return total.hexdigest()

    ones = torch.ones(2, 3)
    different = [ones, ones.double(), ones.view(3, 2), ones * 2]
    assert len({digest(tensor) for tensor in different}) == 4
    assert digest(ones) == digest(ones.clone().T.contiguous().T)


def test_an_error_without_a_name_gets_that_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with pytest.raises(OSError, match="No space") as caught, files.replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == str(path)
    with pytest.raises(OSError, match="Denied") as caught, files.replacing(path):
        raise OSError(errno.EACCES, "Denied", "another")
    assert caught.value.filename == "another"
