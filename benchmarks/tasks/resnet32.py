"""resnet32: image classification with the ResNet-32 of CIFAR-10, all layers analog.

Source: He et al. 2016, Deep Residual Learning for Image Recognition, section 4.2; shortcuts are
its option A, which has no weights.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from aimc_bridge.errors import UsageError
from benchmarks.tasks import published_rows
from benchmarks.tasks.base import DigitalRecipe, Task
from benchmarks.tasks.data import data_dir
from benchmarks.tasks.image_task import ImageTask, growing
from benchmarks.tasks.images import CIFAR10, Images, cifar
from benchmarks.tasks.plan import CLIPPED, ON_A_GPU, LadderSizes, Plan
from benchmarks.tasks.registry import register

SHORT = {
    "batch_size": 128,
    "epochs": 600,
    "learning_rate": 1e-2,
    "lr_schedule": "linear",
    "warmup_batches": 0,
    "distill_weight": 0.9,
    "distill_temperature": 4.0,
    "clip_type": "column_gaussian",
    "clip_value": 2.5,
}
"""What the trainings that are shorter than the paper's have in common."""
PLANS = {
    "real": Plan(
        why=CLIPPED,
        overrides={
            **SHORT,
            "ramp_batches": 200,
            "remap_every": 100,
            "input_range_init_batches": 20,
        },
        hwa_batches=2000,
        validate_every=1000,
        validation_subset=500,
        chips=5,
        slow_subset=64,
    ),
    "gpu": Plan(
        why=ON_A_GPU,
        overrides={
            **SHORT,
            "ramp_batches": 500,
            "remap_every": 200,
            "input_range_init_batches": 50,
        },
        hwa_batches=4000,
        validate_every=2000,
        slow_subset=64,
    ),
    "paper": Plan(slow_subset=64),
}
DIGITAL = {
    # an epoch of full images takes half a minute to a minute and a half on two cores
    "real": DigitalRecipe(
        epochs=100, batch_size=128, learning_rate=0.1, optimizer="sgd", weight_decay=5e-4
    ),
    "gpu": DigitalRecipe(
        epochs=200,
        batch_size=128,
        learning_rate=0.1,
        optimizer="sgd",
        warmup=0.02,
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


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without weights.

    It turns images (n, c_in, h, w) into (n, c_out, h/stride, w/stride).
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        """Build the block.

        Args:
            c_in: Channels of the input.
            c_out: Channels of the output, c_in or more.
            stride: Stride of the first convolution, and of the shortcut.
        """
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.stride, self.new_channels = stride, c_out - c_in

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of a batch."""
        hidden = self.norm2(self.conv2(torch.relu(self.norm1(self.conv1(x)))))
        if self.stride != 1 or self.new_channels:
            first = self.new_channels // 2
            last = self.new_channels - first
            x = nn.functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, first, last)
            )
        return torch.relu(hidden + x)


class ResNet32(nn.Module):
    """A convolution, three groups of five blocks with 16, 32 and 64 channels, and a classifier."""

    def __init__(self, n_classes: int, channels: int = 3) -> None:
        """Build the model with random weights.

        Args:
            n_classes: The number of classes.
            channels: Channels of the images.
        """
        super().__init__()
        self.stem = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        layers: list[nn.Module] = []
        c_in = 16
        for c_out, stride in ((16, 1), (32, 2), (64, 2)):
            for index in range(5):
                layers.append(BasicBlock(c_in, c_out, stride if index == 0 else 1))
                c_in = c_out
        self.blocks = nn.Sequential(*layers)
        self.fc = nn.Linear(64, n_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, n_classes) after the last stage, of images (n, channels, h, w)."""
        features = self.blocks(torch.relu(self.norm(self.stem(images)))).mean((2, 3))
        scores: Tensor = self.fc(features)
        return scores


@register
class ResNet32Task(ImageTask):
    """ResNet-32 on CIFAR-10; it needs the files, so there is no embedded profile."""

    name = "resnet32"
    recipe = "resnet32"
    option_types = {"cutout": int}
    plans = PLANS
    # redrawn: the batch size of the paper's recipe
    ladder = LadderSizes(subset=300, probe_samples=16, probe_inputs=16, redrawn=50)
    data_sets = (CIFAR10,)
    published = published_rows.RESNET32

    def __init__(self, images: Images, profile: str, cutout: int) -> None:
        """Prepare the data.

        Args:
            images: The tensors; see `images.Images`.
            profile: A key of `PLANS`.
            cutout: The side of the square that augmentation greys, pixels; 0 greys none.
        """
        super().__init__(
            images,
            "CIFAR-10",
            "ResNet-32",
            DIGITAL[profile],
            n_validation=len(images["train_labels"]) // 25,
            cutout=cutout,
            sizes=growing(images) if profile == "real" else (),
        )

    @classmethod
    def make(cls, profile: str, folder: Path | None, cutout: int | None = None) -> Task:
        """Make the task of a profile.

        Args:
            profile: A key of `PLANS`.
            folder: The data folder, or None.
            cutout: The side of the square that augmentation greys, pixels; 0 greys none. None is 0
                for the profile "real", whose trainings are short, and 16 for the others.

        Raises:
            UsageError: For a value that is not allowed.
            DataError: If the data are missing or damaged.
        """
        if cutout is None:
            cutout = 0 if profile == "real" else 16
        if cutout < 0:
            raise UsageError(f"option cutout={cutout}; allowed: 0 (none) or more")
        return cls(cifar(10, data_dir(folder)), profile, cutout)

    def network(self, channels: int) -> nn.Module:
        """Return a new ResNet-32."""
        return ResNet32(self.n_classes, channels)
