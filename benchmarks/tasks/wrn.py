"""wrn: image classification with a WideResNet, all layers analog.

Source: Zagoruyko and Komodakis 2016.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge.errors import UsageError
from benchmarks.tasks import published_rows
from benchmarks.tasks.base import DigitalRecipe, Task
from benchmarks.tasks.image_task import ImageTask, growing, read
from benchmarks.tasks.images import CIFAR10, CIFAR100, Images
from benchmarks.tasks.plan import CLIPPED, ON_A_GPU, SMALL, LadderSizes, Plan
from benchmarks.tasks.published import Published
from benchmarks.tasks.registry import register

SHORT = {
    "batch_size": 128,
    "epochs": 100,
    "learning_rate": 1e-2,
    "lr_schedule": "linear",
    "warmup_batches": 0,
    "lr_drop_epochs": (),
    "clip_type": "column_gaussian",
    "clip_value": 2.5,
}
"""What the trainings that are shorter than the paper's have in common."""
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
            **SHORT,
            "ramp_batches": 100,
            "remap_every": 100,
            "input_range_init_batches": 20,
        },
        hwa_batches=1000,
        validate_every=500,
        validation_subset=500,
        subset=2000,
        chips=5,
        slow_subset=64,
    ),
    "gpu": Plan(
        why=ON_A_GPU,
        overrides={
            **SHORT,
            "ramp_batches": 300,
            "remap_every": 200,
            "input_range_init_batches": 50,
        },
        hwa_batches=2000,
        validate_every=1000,
        slow_subset=64,
    ),
    "paper": Plan(slow_subset=64),
}
DIGITAL = {
    "embedded": DigitalRecipe(epochs=8, batch_size=32, learning_rate=0.1, optimizer="sgd"),
    "real": DigitalRecipe(
        epochs=60, batch_size=128, learning_rate=0.1, optimizer="sgd", weight_decay=5e-4
    ),
    "gpu": DigitalRecipe(
        epochs=120,
        batch_size=256,
        learning_rate=0.2,
        optimizer="sgd",
        warmup=0.04,
        weight_decay=5e-4,
    ),
    "paper": DigitalRecipe(
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        optimizer="sgd",
        warmup=0.02,
        weight_decay=5e-4,
    ),
}
DATA: dict[str, dict[str, Any]] = {
    "embedded": {"shift": 1, "flip": False},
    "real": {"label_smoothing": 0.1},
    "gpu": {"label_smoothing": 0.1, "cutout": 8},
    "paper": {"cutout": 16},
}
"""How each profile augments the images; arguments of `ImageTask`."""


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


@register
class WideResNetTask(ImageTask):
    """A WideResNet on tensors of images."""

    name = "wrn"
    recipe = "wrn16"
    option_types = {"dataset": str, "depth": int, "width": int, "size": int, "cutout": int}
    plans = PLANS
    # redrawn: the batch size of the paper's recipe
    ladder = LadderSizes(subset=300, probe_samples=16, probe_inputs=16, redrawn=25)
    data_sets = (CIFAR10, CIFAR100)
    published: tuple[Published, ...] = published_rows.WRN

    def __init__(self, images: Images, depth: int, width: int, **options: Any) -> None:
        """Prepare the data.

        Args:
            images: The tensors; see `images.Images`.
            depth: Layers of the WideResNet.
            width: The factor of its channels.
            **options: The other arguments of `ImageTask`.
        """
        check_size(depth, width)
        self.depth, self.width = depth, width
        super().__init__(images, model_name=f"WRN-{depth}-{width}", **options)

    def network(self, channels: int) -> nn.Module:
        """Return a new WideResNet."""
        return WideResNet(self.depth, self.width, self.n_classes, channels)

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
            profile: One of the keys of PLANS.
            folder: The data folder, or None.
            dataset: One of `image_task.DATASETS`, or an image folder; None is the profile's.
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
        options = dict(DATA[profile])
        if cutout is not None:
            options["cutout"] = cutout
        if profile == "real":
            options["sizes"] = growing(images)
        n_validation = len(images["train_labels"]) // (7 if profile == "embedded" else 25)
        return cls(
            images,
            depth,
            width,
            dataset=name,
            digital=DIGITAL[profile],
            n_validation=n_validation,
            **options,
        )
