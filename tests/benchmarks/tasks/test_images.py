"""Images: every format from tiny files in its real form; damage is named."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aimc_bridge.errors import DataError
from benchmarks.tasks import data, images
from tests.benchmarks.tasks.test_data import written


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv(data.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(data.DATA_VARIABLE, raising=False)


def picture(value: int, size: int = 4) -> np.ndarray:
    """Return a picture whose pixels are a function of `value`."""
    return (np.arange(size * size * 3).reshape(size, size, 3) * 5 + value).astype(np.uint8)


def encoded(array: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def cifar_files(root: Path, kind: type, monkeypatch, n: int = 5) -> Path:
    """Write tiny pickles in the official form; their checksums replace the official ones."""
    base = root / kind.base_folder

    def put(name: str, content: dict) -> tuple[str, str]:
        blob = written(base / name, pickle.dumps(content)).read_bytes()
        return name, hashlib.md5(blob).hexdigest()

    key = "labels" if "10-batches" in kind.base_folder else "fine_labels"
    lists = {}
    for part in ("train_list", "test_list"):
        lists[part] = [
            put(
                name,
                {
                    "data": np.full((n, 3072), index, dtype=np.uint8),
                    key: list(range(n)),
                    "filenames": [""] * n,
                },
            )
            for index, (name, _) in enumerate(getattr(kind, part))
        ]
        monkeypatch.setattr(kind, part, lists[part])
    name, md5 = put(kind.meta["filename"], {kind.meta["key"]: list("abcdefghij")})
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5})
    return base


@pytest.mark.parametrize(("classes", "n_train"), [(10, 25), (100, 5)])
def test_cifar_pickles(tmp_path, monkeypatch, classes, n_train) -> None:
    from torchvision import datasets

    cifar_files(tmp_path, {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes], monkeypatch)
    data = images.cifar(classes, tmp_path)
    assert data["train_images"].shape == (n_train, 3, 32, 32)
    assert data["train_images"].dtype == torch.uint8
    assert data["test_labels"].tolist() == [0, 1, 2, 3, 4]
    # Batch i is filled with i: the order stays, and nothing is lost.
    assert data["train_images"].flatten(1).float().mean(1).tolist() == [
        i // 5 for i in range(n_train)
    ]


def test_cifar_planes_keep_their_order(tmp_path, monkeypatch) -> None:
    """A row of the pickle is red, green, blue, each row by row."""
    from torchvision import datasets

    base = cifar_files(tmp_path, datasets.CIFAR10, monkeypatch)
    row = np.arange(3072, dtype=np.int64).astype(np.uint8)[None]
    blob = pickle.dumps({"data": row, "labels": [7]})
    written(base / "test_batch", blob)
    monkeypatch.setattr(
        datasets.CIFAR10, "test_list", [["test_batch", hashlib.md5(blob).hexdigest()]]
    )
    image = images.cifar(10, tmp_path)["test_images"][0]
    assert torch.equal(image, torch.from_numpy(row.reshape(3, 32, 32)))


def test_cifar_that_is_damaged_or_missing_says_which_files(tmp_path, monkeypatch) -> None:
    from torchvision import datasets

    base = cifar_files(tmp_path, datasets.CIFAR10, monkeypatch)
    file = base / "data_batch_3"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match="data_batch_1, data_batch_2.*official checksum") as caught:
        images.cifar(10, tmp_path)
    assert str(base) in str(caught.value)
    file.unlink()
    with pytest.raises(
        DataError, match="CIFAR-10 not found: .*data_batch_3.* or .*_1.bin"
    ) as caught:
        images.cifar(10, tmp_path)
    assert f"{tmp_path} lacks cifar-10-batches-py/data_batch_3 of 7 files" in str(caught.value)


def binary_files(folder: Path, classes: int, monkeypatch, n: int = 3) -> list[Path]:
    """Write files of `n` images in the official binary form.

    Their checksums replace the official ones. Image i of file f has label i (of 100 classes:
    coarse 9, fine i), and pixel p is i + f + p.
    """
    files, paths = {}, []
    for split, parts in images.BINARY[classes].items():
        of_split = []
        for number, part in enumerate(parts):
            labels = np.array([[9, i] if classes == 100 else [i] for i in range(n)])
            pixels = np.arange(n)[:, None] + number + np.arange(3072)
            content = np.concatenate([labels, pixels], axis=1).astype(np.uint8).tobytes()
            paths.append(written(folder / part.name, content))
            digest = (hashlib.md5 if classes == 10 else hashlib.sha1)(content).hexdigest()
            of_split.append(dataclasses.replace(part, images=n, digest=digest))
        files[split] = tuple(of_split)
    monkeypatch.setitem(images.BINARY, classes, files)
    return paths


@pytest.mark.parametrize(("classes", "n_files"), [(10, 5), (100, 1)])
def test_cifar_in_its_binary_form(tmp_path, monkeypatch, classes, n_files) -> None:
    binary_files(tmp_path, classes, monkeypatch)
    data = images.cifar(classes, tmp_path)
    assert data["train_labels"].tolist() == [0, 1, 2] * n_files  # These are the fine labels.
    assert data["test_labels"].dtype == torch.int64
    pictures = data["train_images"]
    assert pictures.shape == (3 * n_files, 3, 32, 32) and pictures.dtype == torch.uint8
    # Planes are red, green, blue, each row by row; files come in order.
    for index, picture in enumerate(pictures):
        start = index % 3 + index // 3
        assert picture.flatten().tolist() == [(start + p) % 256 for p in range(3072)]


@pytest.mark.parametrize("classes", [10, 100])
def test_a_wrong_binary_cifar_file_is_named(tmp_path, monkeypatch, classes) -> None:
    *_, test = binary_files(tmp_path, classes, monkeypatch)
    content, width = test.read_bytes(), 3073 if classes == 10 else 3074
    wrong = {
        content[
            :-1
        ]: f"holds {3 * width - 1:,} bytes; expected {3 * width:,}, 3 images of {width:,};",
        content + content[:width]: f"holds {4 * width:,} bytes; expected",
        content[: -width + width - 3073] + b"\xc8" + content[-3072:]: (
            f"label 200 of image 2; expected 0 to {classes - 1}"
        ),
        content[:-1] + b"\0": "is damaged or another file: its (MD5|SHA1) is .*copy the file again",
    }
    for bad, complaint in wrong.items():
        test.write_bytes(bad)
        with pytest.raises(DataError, match=complaint) as caught:
            images.cifar(classes, tmp_path)
        assert str(test) in str(caught.value)
    test.unlink()
    with pytest.raises(DataError, match=f"CIFAR-{classes} not found: .*{test.name}"):
        images.cifar(classes, tmp_path)


def test_real_cifar_in_its_binary_form(real_data, tmp_path) -> None:
    """The official files are made from the lossless images.

    Every checksum holds.
    """
    script = real_data / "unpack_cifar.py"
    if not script.exists():
        pytest.skip(f"no {script}")
    command = [sys.executable, str(script), "cifar-100", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    data = images.cifar(100, tmp_path)
    for split, n in (("train", 50_000), ("test", 10_000)):
        assert data[f"{split}_images"].shape == (n, 3, 32, 32)
        assert data[f"{split}_labels"].bincount().tolist() == [n // 100] * 100
    assert data["train_labels"][:4].tolist() == [19, 29, 0, 11]


def test_cifar_without_network_says_what_to_do(monkeypatch) -> None:
    from torchvision import datasets

    def fail(self) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(datasets.CIFAR10, "download", fail)
    with pytest.raises(DataError, match=r"CIFAR-10 could not be downloaded \(no route"):
        images.cifar(10, None)


def image_folder(root: Path, test: str = "test", size: int = 4) -> Path:
    for split in ("train", test):
        for number, name in enumerate(("ant", "bee")):
            path = root / split / name
            written(path / "1.png", encoded(picture(number, size)))
            written(path / "notes.txt", "not an image")
    return root


@pytest.mark.parametrize("test", ["test", "val"])
def test_any_image_folder(tmp_path, test) -> None:
    data, classes = images.image_folder(image_folder(tmp_path / "insects", test))
    assert classes == ["ant", "bee"]
    assert data["test_labels"].tolist() == [0, 1]
    expected = torch.from_numpy(picture(1)).permute(2, 0, 1)
    assert torch.equal(data["train_images"][1], expected)


def test_an_image_folder_of_many_sizes_wants_a_size(tmp_path) -> None:
    folder = image_folder(tmp_path / "insects")
    written(folder / "train" / "ant" / "2.png", encoded(picture(0, 6)))
    with pytest.raises(DataError, match="images of different sizes"):
        images.image_folder(folder)
    data, _ = images.image_folder(folder, 8)
    assert data["train_images"].shape == (3, 3, 8, 8)


def test_image_folders_that_make_no_sense(tmp_path) -> None:
    with pytest.raises(DataError, match="an image folder not found: looked in"):
        images.image_folder(tmp_path)
    folder = image_folder(tmp_path / "insects")
    written(folder / "test" / "cow" / "1.png", encoded(picture(0)))
    with pytest.raises(DataError, match=r"holds classes that .*train has not: cow"):
        images.image_folder(folder)
    (tmp_path / "one" / "train" / "a").mkdir(parents=True)
    (tmp_path / "one" / "test").mkdir()
    with pytest.raises(DataError, match="holds 1 class folders"):
        images.image_folder(tmp_path / "one")
    (tmp_path / "one" / "train" / "b").mkdir()
    with pytest.raises(DataError, match="holds no images of the train split"):
        images.image_folder(tmp_path / "one")


def test_digits_are_split_without_overlap() -> None:
    data = images.digits()
    assert data["train_images"].shape == (1397, 1, 8, 8)
    assert data["test_images"].shape == (400, 1, 8, 8)
    assert int(data["train_images"].max()) == 255
    assert len(data["test_labels"].unique()) == 10
    everything = torch.cat([data["train_images"], data["test_images"]]).flatten(1)
    from sklearn.datasets import load_digits

    original = torch.from_numpy(load_digits().images).flatten(1)
    assert sorted(everything.sum(1).tolist()) == sorted(
        (original * 255 / 16).round().sum(1).int().tolist()
    )
