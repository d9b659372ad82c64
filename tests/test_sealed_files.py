"""Files with a checksum: any damage is noticed before anybody uses a part of them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from aimc_bridge import sealed_files
from aimc_bridge.errors import CheckpointError


def flips(data: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield copies with one bit changed, at places in every region of the file.

    Half of them are in the header, which is small and holds names, shapes and texts.
    """
    draw = random.Random(seed)
    header = 8 + int.from_bytes(data[:8], "little")
    for index in range(count):
        place = draw.randrange(header) if index % 2 else draw.randrange(header, len(data))
        damaged = bytearray(data)
        damaged[place] ^= 1 << draw.randrange(8)
        yield bytes(damaged)


CHANGES = ("key deleted", "key added", "other name", "other type", "other shape", "NaN")


def changed(file: Path, change: str) -> dict[str, Tensor]:
    """Return the tensors of a file with a change in the first floating-point one."""
    tensors = load_file(file)
    first = next(name for name in sorted(tensors) if tensors[name].is_floating_point())
    if change == "key deleted":
        del tensors[first]
    elif change == "key added":
        tensors["more"] = torch.ones(1)
    elif change == "other name":
        tensors[first + "x"] = tensors.pop(first)
    elif change == "other type":
        tensors[first] = tensors[first].double()
    elif change == "other shape":
        tensors[first] = torch.ones(3, 5)
    else:
        tensors[first].view(-1)[0] = float("nan")
    return tensors


def header(file: Path) -> dict[str, str]:
    """Return the texts of a file's header, with the checksum."""
    with safe_open(str(file), framework="pt") as opened:
        return dict(opened.metadata())


def test_tensors_round_trip_tied_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    tensor = torch.arange(6.0).view(2, 3)
    sealed_files.write_tensors(path, {"a": tensor, "b": tensor, "c": tensor.T}, {"seed": "7"})
    read = sealed_files.read_tensors(path)
    assert torch.equal(read["a"], tensor) and torch.equal(read["c"], tensor.T)
    assert set(read) == {"a", "b", "c"}
    assert sealed_files.read_sealed(path).metadata == {"seed": "7"}


def test_unreadable_and_unwritable_files_are_checkpoint_errors(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        sealed_files.read_tensors(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"not tensors")
    with pytest.raises(CheckpointError, match="damaged"):
        sealed_files.read_tensors(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="cannot be written"):
        sealed_files.write_tensors(tmp_path / "no folder" / "a.safetensors", {"a": torch.ones(1)})


def test_a_digest_knows_values_dtype_and_shape() -> None:
    def digest(tensor: torch.Tensor) -> str:
        total = hashlib.sha256()
        sealed_files.add_tensor(total, tensor)
        return total.hexdigest()

    ones = torch.ones(2, 3)
    different = [ones, ones.double(), ones.view(3, 2), ones * 2]
    assert len({digest(tensor) for tensor in different}) == 4
    assert digest(ones) == digest(ones.clone().T.contiguous().T)


def written(folder: Path) -> Path:
    path = folder / "a.safetensors"
    tensors = {"a": torch.arange(12.0).view(3, 4), "b": torch.tensor([1, 2]), "c": torch.ones(())}
    sealed_files.write_tensors(path, tensors, {"seed": "7"})
    return path


def test_every_bit_of_a_small_file_is_guarded(tmp_path: Path) -> None:
    """No change of one bit gives a file that is read, not even one with a warning."""
    path = written(tmp_path)
    data = path.read_bytes()
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError):
                sealed_files.read_sealed(path)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_tensors_do_not_fit_the_checksum(change: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    save_file(changed(path, change), path, metadata=header(path))
    with pytest.raises(CheckpointError, match="do not fit its checksum"):
        sealed_files.read_tensors(path)


def test_changed_texts_of_the_header_do_not_fit_the_checksum(tmp_path: Path) -> None:
    path = written(tmp_path)
    tensors, about = load_file(path), header(path)
    without = {key: text for key, text in about.items() if key != "aimc_bridge_sha256"}
    for other in ({**about, "seed": "8"}, {**about, "more": ""}, without):
        save_file(tensors, path, metadata=other)
        with pytest.raises(CheckpointError, match="do not fit its checksum"):
            sealed_files.read_tensors(path)


def test_a_file_without_a_checksum_is_read_with_one_warning(tmp_path: Path) -> None:
    path = tmp_path / "old.safetensors"
    save_file({"a": torch.ones(2)}, path)
    with pytest.warns(UserWarning, match=r"old.safetensors: no checksum") as caught:
        assert torch.equal(sealed_files.read_tensors(path)["a"], torch.ones(2))
    assert len(caught) == 1 and "\n" not in str(caught[0].message)
    with pytest.raises(CheckpointError, match="has no checksum"):
        sealed_files.read_tensors(path, must=True)


def test_all_types_of_tensors_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    types = (torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.bool, torch.uint8)
    tensors = {str(kind): torch.tensor([[1, 0]], dtype=kind) for kind in types}
    tensors |= {"empty": torch.empty(0, 3), "strided": torch.arange(6.0).view(2, 3).T}
    sealed_files.write_tensors(path, tensors)
    read = sealed_files.read_tensors(path)
    for name, value in tensors.items():
        assert read[name].dtype == value.dtype and torch.equal(read[name], value)


def test_files_have_the_permissions_of_any_new_file(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        (tmp_path / "neighbour").touch()
        written(tmp_path)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"neighbour": 0o640, "a.safetensors": 0o640}


def test_misfits_say_what_does_not_fit() -> None:
    now = {"w": torch.ones(2, 2), "n": torch.tensor(3), "mask": torch.tensor([-torch.inf])}
    fits = {"w": torch.ones(2, 2).half(), "n": torch.tensor(4), "mask": torch.tensor([-torch.inf])}
    assert sealed_files.misfits(now, fits) == []
    assert sealed_files.misfits(now, fits, exact=True) == [
        "'w' has the type torch.float16, not torch.float32"
    ]
    wrong = {"w": torch.tensor([[1.0, torch.nan], [0, 0]]), "n": torch.ones(()), "x": now["n"]}
    assert sealed_files.misfits(now, wrong) == [
        "'mask' is missing",
        "'n' has the type torch.float32, not torch.int64",
        "'w' holds NaN or infinite values",
        "'x' is not of this model",
    ]
    assert sealed_files.misfits(now, {**fits, "w": torch.ones(4)}) == [
        "'w' has the shape (4,), not (2, 2)"
    ]


# --- facts ----------------------------------------------------------------------------------------

FACTS = {"step": 3, "wall_s": 0.1, "names": ["µS", "1"], "none": None, "inner": {"x": [1e-300]}}


def test_facts_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    sealed_files.write_facts(path, {**FACTS, "pair": (1, 2)})
    assert sealed_files.read_facts(path) == {**FACTS, "pair": [1, 2]}


def test_changed_facts_are_refused(tmp_path: Path) -> None:
    """A changed bit is noticed, unless the facts that are read are the same all the same."""
    path = tmp_path / "facts.json"
    sealed_files.write_facts(path, FACTS)
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[place] ^= 1 << bit
            path.write_bytes(damaged)
            try:
                assert sealed_files.read_facts(path) == FACTS
            except CheckpointError:
                refused += 1
    assert refused > 7 * len(data)


@pytest.mark.parametrize(
    "text", ["", "[]", "3", "null", '{"a": 1', "[" * 100_000, '{"a": ' + "9" * 5000 + "}", "\ud800"]
)
def test_files_that_hold_no_facts(text: str, tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(CheckpointError, match=r"facts.json is damaged"):
        sealed_files.read_facts(path)


def test_facts_without_a_checksum_are_read_with_a_warning(tmp_path: Path) -> None:
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(FACTS))
    with pytest.warns(UserWarning, match="no checksum"):
        assert sealed_files.read_facts(path) == FACTS
    path.write_text(json.dumps({**FACTS, "sha257": hashlib.sha256(b"x").hexdigest()}))
    with warnings.catch_warnings(), pytest.raises(CheckpointError, match="has another name"):
        warnings.simplefilter("error")
        sealed_files.read_facts(path)
