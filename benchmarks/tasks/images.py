"""Images: CIFAR's official files, any folder of images, scikit-learn's digits."""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aimc_bridge.errors import AimcError, DataError
from aimc_bridge.files import check_file, read_bytes
from aimc_bridge.rng import stream
from benchmarks.tasks.data import DataSet, cache_dir, cached, cannot_download, check_digest

Images = dict[str, Tensor]
"""train_images, test_images: uint8 (n, channels, h, w); train_labels, test_labels: int64 (n,)."""


@dataclass(frozen=True)
class Records:
    """One file of CIFAR's binary form.

    Each image is its labels, one byte each, and 3,072 bytes of pixels.

    Attributes:
        name: The path under the data folder.
        images: How many images it holds.
        digest: The published MD5 or SHA-1.
    """

    name: str
    images: int
    digest: str


BINARY: dict[int, dict[str, tuple[Records, ...]]] = {
    10: {
        "train": tuple(
            Records(f"cifar-10-batches-bin/data_batch_{number}.bin", 10_000, digest)
            for number, digest in enumerate(
                (
                    "5dd7e06a14cb22eb9f671a540d1b7c25",
                    "5ea93a67294ea407fff1d09f752e9692",
                    "942cd6a4bcdd0dd3c604fbe906cb4421",
                    "ae636b3ba5c66a11e91e8cb52e771fcb",
                    "53f37980c15c3d472c316c40844f3f0d",
                ),
                start=1,
            )
        ),
        "test": (
            Records(
                "cifar-10-batches-bin/test_batch.bin", 10_000, "803d5f7f4d78ea53de84dbe85f74fb6d"
            ),
        ),
    },
    100: {
        "train": (
            Records(
                "cifar-100-binary/train.bin", 50_000, "e207cd2e05b73b1393c74c7f5e7bea451d63e08e"
            ),
        ),
        "test": (
            Records(
                "cifar-100-binary/test.bin", 10_000, "8fb6623e830365ff53cf14adec797474f5478006"
            ),
        ),
    },
}
"""CIFAR-10's and CIFAR-100's official binary files, by number of classes and split."""


def _names(classes: int) -> tuple[str, ...]:
    return tuple(records.name for files in BINARY[classes].values() for records in files)


_BATCHES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta")
CIFAR10 = DataSet(
    "CIFAR-10", (tuple(f"cifar-10-batches-py/{name}" for name in _BATCHES), _names(10))
)
CIFAR100 = DataSet(
    "CIFAR-100",
    (tuple(f"cifar-100-python/{name}" for name in ("train", "test", "meta")), _names(100)),
)
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp")
FORMATS = ("JPEG", "PNG", "BMP")
"""The formats that are decoded, whatever a file is called; others can start programs."""
MOST_FILE = 2**28
"""The largest file of an image, in bytes: 256 MiB."""
MOST_PIXELS = 50_000_000
"""The largest image: a small file can unpack to a huge one."""
MOST_IMAGES = 2**34
"""The largest total of all images of a folder, unpacked, in bytes: 16 GiB."""


def pixels(path: Path, size: int | None = None) -> Tensor:
    """Read one image.

    Args:
        path: The file.
        size: The side of a square that the image is resized to, pixels; None keeps its size.

    Returns:
        The image, uint8, shape (3, h, w).

    Raises:
        DataError: If it is not a whole image, or too large.
    """
    try:
        check_file(path, MOST_FILE)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # judged below
            opening = Image.open(path, formats=FORMATS)
        with opening as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise DataError(
                    f"{path} has {opened.width} x {opened.height} pixels; allowed: up to "
                    f"{MOST_PIXELS:,}; make it smaller, or take it out"
                )
            image = opened.convert("RGB")
            if size is not None and image.size != (size, size):
                image = image.resize((size, size))
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001 (of a damaged file, a decoder raises anything)
        problem = (isinstance(error, OSError) and error.strerror) or error
        raise DataError(
            f"{ascii_path(path)} is not a whole image ({problem}); copy the file again"
        ) from None


def ascii_path(path: Path) -> str:
    """Return a path for a message; one that no text can hold is written with escapes.

    Args:
        path: The path.
    """
    text = str(path)
    return text if text.isprintable() else ascii(text)


def stacked(splits: dict[str, list[tuple[str, int, Tensor]]], where: Path) -> Images:
    """Put the images of each split into tensors, in the order of their names.

    Args:
        splits: Split -> (name, label, pixels) of each image.
        where: Where the images are from, for the error.

    Returns:
        The tensors; see `Images`.

    Raises:
        DataError: If a split has no images, or if they do not have one size.
    """
    tensors: Images = {}
    for split, rows in splits.items():
        if not rows:
            raise DataError(f"{where} holds no images of the {split} split")
        rows.sort(key=lambda row: row[0])
        first = rows[0][2].shape
        for name, _, image in rows:
            if image.shape != first:
                sizes = " and ".join(f"{shape[2]} x {shape[1]}" for shape in (first, image.shape))
                raise DataError(
                    f"{where}: images of different sizes ({sizes} pixels: {rows[0][0]} and {name});"
                    " give a size"
                )
        tensors[f"{split}_images"] = torch.stack([row[2] for row in rows])
        tensors[f"{split}_labels"] = torch.tensor([row[1] for row in rows])
    return tensors


def image_folder(folder: Path, size: int | None = None) -> tuple[Images, list[str]]:
    """Read the images of a folder.

    Args:
        folder: The folder, with `train/CLASS/*` and `test/CLASS/*` (or `val/CLASS/*`).
        size: The side of a square that all images are resized to, pixels; None expects all images
            to have one size.

    Returns:
        The tensors (see `Images`), and the class names.

    Raises:
        DataError: If folders are missing, if there are fewer than two classes, or if the images do
            not have one size.
    """
    train = DataSet("an image folder", (("train",),)).find(folder)[0]
    test = DataSet("an image folder", (("test",), ("val",))).find(folder)[0]
    classes = sorted(entry.name for entry in train.iterdir() if entry.is_dir())
    if len(classes) < 2:
        raise DataError(f"{train} holds {len(classes)} class folders; at least 2 are needed")
    strange = sorted({entry.name for entry in test.iterdir() if entry.is_dir()} - set(classes))
    if strange:
        raise DataError(f"{test} holds classes that {train} has not: {', '.join(strange)}")

    files = {"train": _image_files(train, classes), "test": _image_files(test, classes)}

    def decode() -> Images:
        left = MOST_IMAGES
        splits: dict[str, list[tuple[str, int, Tensor]]] = {}
        for split, paths in files.items():
            splits[split] = []
            for path in paths:
                image = pixels(path, size)
                left -= image.numel()
                if left < 0:
                    raise DataError(
                        f"{folder} holds images of more than {MOST_IMAGES // 2**30} GiB unpacked; "
                        "give a size, or take some out"
                    )
                splits[split].append((str(path), classes.index(path.parent.name), image))
        return stacked(splits, folder)

    name = re.sub("[^A-Za-z0-9_.-]+", "-", folder.name)[:60]
    return cached(f"images-{name}-{size}", files["train"] + files["test"], decode), classes


def _image_files(split: Path, classes: list[str]) -> list[Path]:
    """Return the image files of a split, sorted.

    Raises:
        DataError: If one is a folder or a pipe, a link to nothing or to itself, cannot be read, or
            has a name that no text can hold.
    """
    paths = []
    for name in classes:
        try:
            entries = list((split / name).iterdir()) if (split / name).exists() else []
        except OSError as error:
            raise DataError(f"{ascii_path(split / name)}: {error.strerror}") from None
        paths += [path for path in entries if path.suffix.lower() in IMAGE_ENDINGS]
    for path in paths:
        try:
            check_file(path, MOST_FILE)
        except OSError as error:
            raise DataError(
                f"{ascii_path(path)} is no image ({error.strerror}); take it out"
            ) from None
        except AimcError as error:
            raise DataError(str(error)) from None
    return sorted(paths)


def read_records(path: Path, records: Records, classes: int) -> tuple[Tensor, Tensor]:
    """Read one of CIFAR's binary files.

    Args:
        path: The file.
        records: What it must hold.
        classes: 10 or 100; images of 100 classes have a coarse label before the fine one.

    Returns:
        The images, uint8 (n, 3, 32, 32), and the labels, int64 (n,).

    Raises:
        DataError: If the file has another size, a label out of range or another checksum.
    """
    width = (2 if classes == 100 else 1) + 3072
    try:
        content = read_bytes(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); copy the file again") from None
    if len(content) != records.images * width:
        raise DataError(
            f"{path} holds {len(content):,} bytes; expected {records.images * width:,}, "
            f"{records.images:,} images of {width:,}; copy the file again"
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, width)
    labels = torch.from_numpy(rows[:, -3073].astype(np.int64))
    if labels.max() >= classes:
        at = int(labels.argmax())
        raise DataError(f"{path}: label {labels[at]} of image {at}; expected 0 to {classes - 1}")
    check_digest(path, content, records.digest)
    return torch.from_numpy(rows[:, -3072:].reshape(-1, 3, 32, 32).copy()), labels


def cifar(classes: int, folder: Path | None) -> Images:
    """Read CIFAR-10 or CIFAR-100.

    Args:
        classes: 10 or 100.
        folder: The data folder, with the official files as pickles or in their binary form; None
            downloads the pickles.

    Raises:
        DataError: If the files are missing or damaged, or cannot be downloaded.
    """
    if folder is not None:
        first, *_ = {10: CIFAR10, 100: CIFAR100}[classes].find(folder)
        if first.suffix == ".bin":
            return _binary(classes, folder)
    return _pickles(classes, folder)


def _binary(classes: int, folder: Path) -> Images:
    tensors: Images = {}
    for split, files in BINARY[classes].items():
        parts = [read_records(folder / part.name, part, classes) for part in files]
        tensors[f"{split}_images"] = torch.cat([images for images, _ in parts])
        tensors[f"{split}_labels"] = torch.cat([labels for _, labels in parts])
    return tensors


def _pickles(classes: int, folder: Path | None) -> Images:
    """Read CIFAR through torchvision, which checks the files' official checksums."""
    from torchvision import datasets

    kind = {10: datasets.CIFAR10, 100: datasets.CIFAR100}[classes]
    root = folder if folder is not None else cache_dir() / "torchvision"
    try:
        parts = {
            split: kind(str(root), train=split == "train", download=folder is None)
            for split in ("train", "test")
        }
    except Exception as error:  # noqa: BLE001 (torchvision raises RuntimeError, urllib has its own)
        if folder is None:
            raise cannot_download(f"CIFAR-{classes}", error) from None
        names = [
            name for name, _ in (*kind.train_list, *kind.test_list, (kind.meta["filename"], ""))
        ]
        raise DataError(
            f"CIFAR-{classes} is damaged: one of {', '.join(names)} in "
            f"{folder / kind.base_folder} has not its official checksum; copy the files again"
        ) from None
    tensors: Images = {}
    for split, part in parts.items():
        tensors[f"{split}_images"] = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        tensors[f"{split}_labels"] = torch.tensor(part.targets)
    return tensors


def digits() -> Images:
    """Return scikit-learn's 1,797 handwritten digits.

    They are 8 x 8 pixels, grey, 0 to 255; 400 of them are the test split.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = torch.from_numpy(bunch.images * 255.0 / 16.0).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).long()
    order = torch.randperm(len(labels), generator=stream(0, "digits", "test"))
    test, train = order[:400], order[400:]
    return {
        "train_images": images[train],
        "train_labels": labels[train],
        "test_images": images[test],
        "test_labels": labels[test],
    }
