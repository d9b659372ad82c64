"""wrn: image classification with a WideResNet, all layers analog.

Source: Zagoruyko and Komodakis 2016.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.errors import UsageError
from aimc_bridge.rng import stream
from benchmarks.tasks.base import DigitalRecipe, Split, Task
from benchmarks.tasks.data import Loader, data_dir, shuffled
from benchmarks.tasks.images import (
    CIFAR10,
    CIFAR100,
    Images,
    cifar,
    digits,
    image_folder,
)
from benchmarks.tasks.plan import CLIPPED, SMALL, LadderSizes, Plan
from benchmarks.tasks.published import DAY, PAPER, RASCH2023, REPLICATION, YEAR, Published
from benchmarks.tasks.registry import register

PLANS = {
    "embedded": Plan(
        why=SMALL,
        overrides={
            "batch_size": 50,
            "ramp_batches": 20,
            "epochs": 100,
            "learning_rate": 0.1,
            "warmup_batches": 0,
            "lr_drop_epochs": (9,),
            "remap_every": 50,
            "input_range_init_batches": 10,
        },
        hwa_batches=250,
        validate_every=50,
        chips=10,
        slow_chips=3,
    ),
    "real": Plan(
        why=CLIPPED,
        overrides={
            "batch_size": 64,
            "ramp_batches": 100,
            "epochs": 100,
            "learning_rate": 5e-3,
            "warmup_batches": 0,
            "lr_drop_epochs": (),
            "clip_type": "column_gaussian",
            "clip_value": 2.5,
            "remap_every": 100,
            "input_range_init_batches": 20,
        },
        hwa_batches=400,
        validate_every=200,
        validation_subset=500,
        subset=1000,
        chips=5,
        slow_subset=64,
    ),
    "paper": Plan(slow_subset=64),
}
PUBLISHED = (
    Published(
        by=PAPER,
        model="WideResNet-16",
        data="CIFAR-100",
        metric="accuracy",
        digital=0.8000,
        at={DAY: 0.7994},
        chance=0.99,
        source=f"{RASCH2023}; 1 day: a variant, SI Table 5",
        about=(DAY,),
    ),
    Published(
        by=REPLICATION,
        model="WideResNet-16-4",
        data="CIFAR-100",
        metric="accuracy",
        digital=0.7850,
        at={1.0: 0.7695, YEAR: 0.7694},
        chance=0.99,
        source="its README",
    ),
)
DATASETS = ("digits", "cifar10", "cifar100")


class ResidualBlock(nn.Module):
    """A pre-activation block of two 3 x 3 convolutions.

    It turns images (n, c_in, h, w) into (n, c_out, h/stride, w/stride).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        """Build the block.

        Args:
            c_in: Channels of the input.
            c_out: Channels of the output.
            stride: Stride of the first convolution, and of the shortcut.
        """
        super().__init__()
        self.norm1 = nn.BatchNorm2d(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.shortcut = (
            nn.Conv2d(c_in, c_out, 1, stride, bias=False) if c_in != c_out or stride != 1 else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        active = torch.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        hidden: Tensor = self.conv2(torch.relu(self.norm2(self.conv1(active))))
        return hidden + shortcut


class WideResNet(nn.Module):
    """WRN-depth-width, for images of any size from 4 x 4 on.

    It has three groups of (depth - 4) / 6 blocks each, with 16, 32 and 64 times `width` channels.
    """

    def __init__(self, depth: int, width: int, n_classes: int, channels: int = 3) -> None:
        """Build the model with random weights.

        Args:
            depth: The number of layers: 10, 16, 22 and so on.
            width: The factor of the channels.
            n_classes: The number of classes.
            channels: Channels of the images.

        Raises:
            UsageError: If there is no WRN of that depth and width.
        """
        super().__init__()
        check_size(depth, width)
        blocks = (depth - 4) // 6
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        c_in = 16
        for group, stride in enumerate((1, 2, 2)):
            c_out = 16 * 2**group * width
            for index in range(blocks):
                layers.append(ResidualBlock(c_in, c_out, stride if index == 0 else 1))
                c_in = c_out
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.BatchNorm2d(c_in)
        self.fc = nn.Linear(c_in, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, n_classes) of images (n, channels, h, w)."""
        features = torch.relu(self.norm(self.blocks(self.stem(images)))).mean((2, 3))
        scores: Tensor = self.fc(features)
        return scores


def check_size(depth: int, width: int) -> None:
    """Check that there is a WRN of a depth and width.

    Args:
        depth: The number of layers.
        width: The factor of the channels.

    Raises:
        UsageError: If there is none.
    """
    if depth < 10 or (depth - 4) % 6 or width < 1:
        raise UsageError(
            f"no WRN-{depth}-{width}: depth must be 10, 16, 22, ... and width at least 1"
        )


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


@register
class ImageTask(Task):
    """A WideResNet on tensors of images."""

    name = "wrn"
    metric = "accuracy"
    recipe = "wrn16"
    unit = "images"
    option_types = {"dataset": str, "depth": int, "width": int, "size": int, "cutout": int}
    plans = PLANS
    # redrawn: the batch size of the paper's recipe
    ladder = LadderSizes(subset=300, probe_samples=16, probe_inputs=16, redrawn=25)
    data_sets = (CIFAR10, CIFAR100)
    published: tuple[Published, ...] = PUBLISHED

    def __init__(
        self,
        images: Images,
        dataset: str,
        depth: int,
        width: int,
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
            depth: Layers of the WideResNet.
            width: The factor of its channels.
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
        self.model_name = f"WRN-{depth}-{width}"
        self.depth, self.width = depth, width
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

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return a new WideResNet, channels last in memory."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = self.splits["train"][0].shape[1]
            model = WideResNet(self.depth, self.width, self.n_classes, channels)
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

    @classmethod
    def make(
        cls,
        profile: str,
        folder: Path | None,
        dataset: str | None = None,
        depth: int | None = None,
        width: int | None = None,
        size: int = 32,
        cutout: int | None = None,
    ) -> Task:
        """Make the task of a profile.

        Args:
            profile: "embedded", "real" or "paper".
            folder: The data folder, or None.
            dataset: One of DATASETS, or an image folder; None is the profile's.
            depth: Layers of the WideResNet; None is the profile's.
            width: The factor of its channels; None is the profile's.
            size: The side of the images of an image folder, pixels.
            cutout: The side of the square that augmentation greys, pixels; 0 greys none.

        Raises:
            UsageError: For a value that is not allowed.
            DataError: If the data are missing or damaged.
        """
        small = profile == "embedded"
        depth = (10 if small else 16) if depth is None else depth
        width = (1 if small else 4) if width is None else width
        check_size(depth, width)
        if size < 4:
            raise UsageError(f"option size={size}; allowed: 4 pixels or more")
        if cutout is not None and cutout < 0:
            raise UsageError(f"option cutout={cutout}; allowed: 0 (none) or more")
        images, name = read(dataset, profile, folder, size)
        n_train = len(images["train_labels"])
        if profile == "embedded":
            quick = DigitalRecipe(epochs=8, batch_size=32, learning_rate=0.1, optimizer="sgd")
            return cls(
                images,
                name,
                depth,
                width,
                quick,
                n_validation=n_train // 7,
                shift=1,
                flip=False,
                cutout=cutout or 0,
            )
        if profile == "paper":
            full = DigitalRecipe(
                epochs=200,
                batch_size=128,
                learning_rate=0.1,
                optimizer="sgd",
                warmup=0.02,
                weight_decay=5e-4,
            )
            return cls(
                images,
                name,
                depth,
                width,
                full,
                n_validation=n_train // 25,
                cutout=16 if cutout is None else cutout,
            )
        # growing images: an epoch at 16 pixels costs a quarter of an epoch at 32
        short = DigitalRecipe(
            epochs=16,
            batch_size=64,
            learning_rate=0.1,
            optimizer="sgd",
            warmup=0.1,
            weight_decay=5e-4,
        )
        side = images["train_images"].shape[-1]
        sizes = tuple(side * part // 16 for part in (8, 10, 12, 14, 16) for _ in range(3))
        return cls(
            images,
            name,
            depth,
            width,
            short,
            n_validation=n_train // 25,
            cutout=cutout or 0,
            label_smoothing=0.1,
            sizes=sizes,
        )


def read(dataset: str | None, profile: str, given: Path | None, size: int) -> tuple[Images, str]:
    """Read the images of a data set, and say what tables must call it.

    Args:
        dataset: One of DATASETS, or a folder of images; None is the profile's.
        profile: "embedded", "real" or "paper".
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
