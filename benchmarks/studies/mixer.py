"""A model that no recipe was made for, on the digits of the wrn task: an MLP-Mixer.

It is a task by its path: `python -m benchmarks.ablation benchmarks.studies.mixer:MixerTask`.

Source: Tolstikhin et al. 2021, MLP-Mixer, arXiv:2105.01601.
"""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tasks.base import DigitalRecipe
from benchmarks.tasks.plan import SMALL, Plan
from benchmarks.tasks.published import Published
from benchmarks.tasks.registry import register
from benchmarks.tasks.wrn import WideResNetTask


class Block(nn.Module):
    """Two perceptrons with shortcuts: one mixes the patches, the other the channels."""

    def __init__(self, patches: int, width: int) -> None:
        """Build the block.

        Args:
            patches: Number of patches of an image.
            width: Channels of a patch.
        """
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.patches, self.channels = perceptron(patches), perceptron(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the features (n, patches, width) of a batch."""
        x = x + self.patches(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        result: Tensor = x + self.channels(self.norm2(x))
        return result


def perceptron(width: int) -> nn.Sequential:
    """Return a perceptron with one hidden layer of twice its width."""
    return nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))


class Mixer(nn.Module):
    """An MLP-Mixer with patches of 2 x 2 pixels."""

    def __init__(self, channels: int, side: int, n_classes: int, width: int, depth: int) -> None:
        """Build the model with random weights.

        Args:
            channels: Channels of the images.
            side: Side of the images, pixels.
            n_classes: The number of classes.
            width: Channels of a patch.
            depth: The number of blocks.
        """
        super().__init__()
        self.stem = nn.Conv2d(channels, width, 2, 2)
        self.blocks = nn.Sequential(*(Block((side // 2) ** 2, width) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores (n, n_classes) of images (n, channels, side, side)."""
        patches = self.stem(images).flatten(2).transpose(1, 2)
        scores: Tensor = self.fc(self.norm(self.blocks(patches)).mean(1))
        return scores


@register
class MixerTask(WideResNetTask):
    """The Mixer on digits: no plan of this project and no recipe of the paper was made for it."""

    name = "mixer"
    plans = {
        "embedded": Plan(
            why=f"{SMALL}; counts of mini-batches for its length, all else as the recipe has it",
            overrides={
                "batch_size": 50,
                "epochs": 100,
                "ramp_batches": 20,
                "warmup_batches": 0,
                "lr_drop_epochs": (),
                "lr_drop_on_stall": False,
                "remap_every": 50,
                "input_range_init_batches": 10,
            },
            hwa_batches=250,
            chips=10,
        )
    }
    published: tuple[Published, ...] = ()

    def __init__(self, *args: Any, **options: Any) -> None:
        """Prepare the data; see `WideResNetTask`."""
        super().__init__(*args, **options)
        self.model_name = "MLP-Mixer 4x32"
        self.digital = DigitalRecipe(
            epochs=20, batch_size=32, learning_rate=2e-3, schedule="linear", weight_decay=0.05
        )

    def build(self, seed: int, *, dropout: float | None = None) -> nn.Module:
        """Return a new Mixer."""
        _, channels, side, _ = self.splits["train"][0].shape
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Mixer(channels, side, self.n_classes, width=32, depth=4)
