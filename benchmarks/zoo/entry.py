"""An entry of the zoo: how an architecture is built small, and what its conversion needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Entry:
    """An architecture of a library, built small from its configuration, without downloads.

    Attributes:
        library: The package that has the architecture, such as "timm".
        name: The architecture, such as "ResNet".
        build: Makes the digital model with random weights.
        inputs: Makes one batch, as `coverage` takes it. It has two samples, so that batch
            normalisations can be trained; three if one normalises single values, because two
            become 1 and -1 whatever they are, and no gradient passes.
        exclude: What `convert` is told to leave digital.
        why: Why that is left digital, or why the architecture is refused, in words for users.
        refused: A pattern in the message with which `convert` refuses the architecture; "" if it
            converts.
        bound: Largest difference of the outputs under `ideal`, relative to the largest output.
        aihwkit: Whether the tests convert it for the aihwkit engine too.
        everyday: Whether the ordinary test suite runs it; the marker `zoo` runs all.
    """

    library: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    exclude: tuple[str, ...] = ()
    why: str = ""
    refused: str = ""
    bound: float = 3e-6
    aihwkit: bool = False
    everyday: bool = False

    @property
    def key(self) -> str:
        """Name of the entry with its library: "timm/ResNet"."""
        return f"{self.library}/{self.name}"

    @property
    def installed(self) -> bool:
        """True if the library is installed."""
        return importlib.util.find_spec(self.library) is not None


@dataclass(frozen=True)
class Measured:
    """The measurements of an entry.

    Attributes:
        share: Share of the multiplications with weights that tiles do, in one pass. These are the
            `macs` that `coverage` measures: those of the analog layers, and those of every digital
            product of the inputs with something that does not depend on them. A product of two
            activations, as in attention, is none of them.
        tiles: Number of tiles.
    """

    share: float
    tiles: int


def random(*shape: int) -> Tensor:
    """Return samples of N(0, 1), always the same ones.

    Args:
        *shape: The shape.
    """
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def images(size: int, channels: int = 3, count: int = 2) -> Tensor:
    """Return random images, [count, channels, size, size].

    Args:
        size: Height and width in pixels.
        channels: Number of channels.
        count: Number of images.
    """
    return random(count, channels, size, size)


def tokens(length: int = 9, vocabulary: int = 64) -> Tensor:
    """Return two random texts, [2, length], without the ids 0 to 3, which are often special.

    Args:
        length: Tokens per text.
        vocabulary: Number of ids.
    """
    generator = torch.Generator().manual_seed(0)
    return torch.randint(4, vocabulary, (2, length), generator=generator)
