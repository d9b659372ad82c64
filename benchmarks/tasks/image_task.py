"""The base of the tasks on images: data, augmentation and batches."""

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.errors import UsageError
from aimc_bridge.rng import stream
from benchmarks.tasks.base import DigitalRecipe, Split, Task
from benchmarks.tasks.data import Loader, data_dir, shuffled
from benchmarks.tasks.images import Images, cifar, digits, image_folder

DATASETS = ("digits", "cifar10", "cifar100")


def augmented(
    images: Tensor, generator: torch.Generator, shift: int, flip: bool, cutout: int
) -> Tensor:
    """Shift and mirror images at random, and grey one square of each.

    Args:
        images: uint8, shape (n, channels, h, w), 0 to 255.
        generator: The random numbers.
        shift: The largest shift in each direction, pixels; edges are reflected.
        flip: Whether half of the images are mirrored.
        cutout: The side of the square, pixels; 0 for no square.

    Returns:
        float32 in 0 to 255, the same shape; the square holds the mean of its image.
    """
    n, _, h, w = images.shape
    place = images.device
    padded = nn.functional.pad(images.float(), (shift,) * 4, mode="reflect")
    row = torch.arange(h) + torch.randint(0, 2 * shift + 1, (n, 1), generator=generator)
    column = torch.arange(w) + torch.randint(0, 2 * shift + 1, (n, 1), generator=generator)
    if flip:
        mirrored = torch.rand(n, 1, generator=generator) < 0.5
        column = torch.where(mirrored, column.flip(1), column)
    at = (torch.arange(n)[:, None, None], row[:, :, None], column[:, None, :])
    first, rows, columns = (index.to(place) for index in at)
    result = padded[first, :, rows, columns].permute(0, 3, 1, 2)  # the indexing puts channels last
    if cutout:
        top = torch.randint(0, h, (n, 1), generator=generator) - cutout // 2
        left = torch.randint(0, w, (n, 1), generator=generator) - cutout // 2
        rows = (torch.arange(h) >= top) & (torch.arange(h) < top + cutout)
        columns = (torch.arange(w) >= left) & (torch.arange(w) < left + cutout)
        hole = (rows[:, :, None] & columns[:, None, :]).unsqueeze(1).to(place)
        result = torch.where(hole, result.mean((1, 2, 3), keepdim=True), result)
    return result


class ImageTask(Task):
    """Classification of images that are tensors; a subclass brings the network and the plans.

    A subclass has `network`, and a `make` that reads its images.
    """

    metric = "accuracy"
    unit = "images"

    def __init__(
        self,
        images: Images,
        dataset: str,
        model_name: str,
        digital: DigitalRecipe,
        *,
        n_validation: int,
        shift: int = 4,
        flip: bool = True,
        cutout: int = 0,
        label_smoothing: float = 0.0,
        sizes: tuple[int, ...] = (),
    ) -> None:
        """Prepare the data.

        Args:
            images: The tensors; see `images.Images`.
            dataset: What tables call the data.
            model_name: What tables call the model.
            digital: How the digital model is trained.
            n_validation: Training images that are held out for validation.
            shift: The largest random shift of a training image, pixels.
            flip: Whether training images are mirrored at random.
            cutout: The side of the square that augmentation greys, pixels; 0 greys none.
            label_smoothing: Label smoothing of the digital training.
            sizes: The side of the images in each epoch of the digital training, pixels; later
                epochs use the last one. Empty is the size of the data.
        """
        self.dataset, self.digital = dataset, digital
        self.model_name = model_name
        self.n_classes = int(images["train_labels"].max()) + 1
        self.shift, self.flip, self.cutout = shift, flip, cutout
        self.label_smoothing = label_smoothing
        self.at_once = 200  # images of an evaluation's batch
        self.sizes = sizes  # side of the images in each epoch of the digital training, pixels
        order = torch.randperm(
            len(images["train_labels"]), generator=stream(0, dataset, "validation")
        )
        validation, train = order[:n_validation], order[n_validation:]
        self.splits = {
            "train": (images["train_images"][train], images["train_labels"][train]),
            "validation": (images["train_images"][validation], images["train_labels"][validation]),
            "test": (images["test_images"], images["test_labels"]),
        }
        sample = self.splits["train"][0][:10_000].float()
        self.mean = sample.mean((0, 2, 3))[:, None, None]
        self.std = sample.std((0, 2, 3))[:, None, None]

    def normalised(self, images: Tensor) -> Tensor:
        """Return images with zero mean and unit variance per channel.

        Args:
            images: uint8 or float32, shape (n, channels, h, w), 0 to 255.

        Returns:
            float32, the same shape, channels last in memory.
        """
        scaled: Tensor = (images.float() - self.mean) / self.std
        return scaled.contiguous(memory_format=torch.channels_last)

    @abstractmethod
    def network(self, channels: int) -> nn.Module:
        """Return a new network with random weights.

        Args:
            channels: Channels of the images.
        """

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return a new network, channels last in memory."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = self.network(self.splits["train"][0].shape[1])
        # on two cores this is 1.5 times as fast as the usual memory order
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def place(self, device: torch.device) -> None:
        """Move all images to the device."""
        self.splits = {
            split: (images.to(device), labels.to(device))
            for split, (images, labels) in self.splits.items()
        }
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        self.at_once = 1000 if device.type == "cuda" else 200

    def train_loader(self, batch_size: int, seed: int) -> Loader:
        """Return augmented batches of images at their full size."""
        return self._loader(batch_size, seed, ())

    def digital_loader(self, batch_size: int, seed: int) -> Loader:
        """Return augmented batches of images that grow from epoch to epoch."""
        return self._loader(batch_size, seed, self.sizes)

    def _loader(self, batch_size: int, seed: int, sizes: tuple[int, ...]) -> Loader:
        images, labels = self.splits["train"]

        def plan(epoch: int, generator: torch.Generator) -> list[Tensor]:
            return [part.to(labels.device) for part in shuffled(len(labels), batch_size, generator)]

        def batch(chosen: Tensor, generator: torch.Generator, epoch: int) -> tuple[Tensor, Tensor]:
            drawn = augmented(images[chosen], generator, self.shift, self.flip, self.cutout)
            side = sizes[min(epoch, len(sizes) - 1)] if sizes else drawn.shape[-1]
            if side != drawn.shape[-1]:
                drawn = nn.functional.interpolate(
                    drawn, (side, side), mode="bilinear", antialias=True
                )
            return self.normalised(drawn), labels[chosen]

        return Loader(plan, batch, len(labels) // batch_size, seed)

    def calibration_batches(self, n: int, batch_size: int = 32) -> list[Tensor]:
        """Return the first training images without augmentation."""
        images, _ = self.splits["train"]
        return [self.normalised(part) for part in images[: n * batch_size].split(batch_size)]

    def count(self, split: str) -> int:
        """Return the number of images in a split."""
        return len(self.splits[split][1])

    def batches(self, split: Split, subset: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of images in one fixed random order."""
        images, labels = self.splits[split]
        # some files are sorted by class: without a new order a subset could be of one class
        order = torch.randperm(len(labels), generator=stream(0, self.dataset, split))[:subset]
        for chosen in order.to(labels.device).split(self.at_once):
            yield self.normalised(images[chosen]), labels[chosen]

    def digital_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the cross-entropy with label smoothing."""
        scores = self.logits(model, batch)
        targets = self.targets(batch).to(scores.device)
        return nn.functional.cross_entropy(scores, targets, label_smoothing=self.label_smoothing)


GROWTH = (8, 10, 12, 14, 16)
"""Sixteenths of an image's side."""
EPOCHS_OF_A_SIZE = 6


def growing(images: Images) -> tuple[int, ...]:
    """Return the side of the images in the first epochs of a digital training on a CPU, pixels.

    An epoch at 16 pixels costs a quarter of an epoch at 32. Later epochs use the last size.

    Args:
        images: The tensors; see `images.Images`.
    """
    side = images["train_images"].shape[-1]
    return tuple(side * part // 16 for part in GROWTH for _ in range(EPOCHS_OF_A_SIZE))


def read(dataset: str | None, profile: str, given: Path | None, size: int) -> tuple[Images, str]:
    """Read the images of a data set, and say what tables must call it.

    Args:
        dataset: One of DATASETS, or a folder of images; None is the profile's.
        profile: One of `base.PROFILES`.
        given: The data folder that the user names, or None.
        size: The side of the images of an image folder, pixels.

    Returns:
        The tensors (see `images.Images`), and the name of the data set.

    Raises:
        UsageError: For an unknown data set.
        DataError: If the data are missing or damaged.
    """
    if dataset is None and profile == "embedded":
        dataset = "digits"
    if dataset == "digits":
        return digits(), "digits (8 x 8)"
    folder = data_dir(given)
    if dataset is None:
        dataset = "cifar100"
    if dataset in ("cifar10", "cifar100"):
        classes = int(dataset.removeprefix("cifar"))
        return cifar(classes, folder), f"CIFAR-{classes}"
    for path in (Path(dataset), *([folder / dataset] if folder is not None else [])):
        if path.is_dir():
            return image_folder(path, size)[0], path.name
    raise UsageError(
        f"unknown data set {dataset!r}; one of {', '.join(DATASETS)}, "
        "or a folder with train/CLASS/ and test/CLASS/"
    )
