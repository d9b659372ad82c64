"""Images: CIFAR's official files, any folder of images, scikit-learn's digits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from aimc_bridge.errors import DataError
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


def pixels(path: Path, size: int | None = None) -> Tensor:
    """Read one image.

    Args:
        path: The file.
        size: The side of a square that the image is resized to, pixels; None keeps its size.

    Returns:
        The image, uint8, shape (3, h, w).

    Raises:
        DataError: If it is not a whole image.
    """
    try:
        with Image.open(path) as opened:
            image = opened.convert("RGB")
            if size is not None and image.size != (size, size):
                image = image.resize((size, size))
            return torch.from_numpy(np.array(image)).permute(2, 0, 1)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path} is not a whole image ({error}); copy the file again") from None


def stacked(splits: dict[str, list[tuple[str, int, Tensor]]], where: Path) -> Images:
    """Put the images of each split into tensors, in the order of their names.

    Args:
        splits: Split -> (name, label, pixels) of each image.
        where: Where the images are from, for the error.

    Returns:
        The tensors; see `Images`.

    Raises:
        DataError: If a split has no images.
    """
    tensors: Images = {}
    for split, rows in splits.items():
        if not rows:
            raise DataError(f"{where} holds no images of the {split} split")
        rows.sort(key=lambda row: row[0])
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

    def files(split: Path) -> list[Path]:
        return sorted(
            path
            for name in classes
            for path in (split / name).glob("*")
            if path.suffix.lower() in IMAGE_ENDINGS
        )

    def decode() -> Images:
        return stacked(
            {
                split: [
                    (str(path), classes.index(path.parent.name), pixels(path, size))
                    for path in files(where)
                ]
                for split, where in (("train", train), ("test", test))
            },
            folder,
        )

    try:
        tensors = cached(f"images-{folder.name}-{size}", files(train) + files(test), decode)
    except RuntimeError as error:
        raise DataError(f"{folder}: images of different sizes ({error}); give a size") from None
    return tensors, classes


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
    content = path.read_bytes()
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
