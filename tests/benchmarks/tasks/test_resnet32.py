"""ResNet-32 of CIFAR-10: its size by hand, its shortcuts, and its task."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from aimc_bridge import convert, coverage
from aimc_bridge.errors import UsageError
from benchmarks import tasks
from benchmarks.tasks.resnet32 import BasicBlock, ResNet32, ResNet32Task
from presets import rasch2023


def test_resnet32_is_he_and_others_network() -> None:
    """Its parameters are counted by hand; table 6 of He et al. gives 0.46 M."""
    convolutions, norms, c_in = 9 * 3 * 16, 2 * 16, 16
    for c_out in (16, 32, 64):
        convolutions += 9 * (c_in * c_out + 9 * c_out * c_out)
        norms += 2 * 10 * c_out
        c_in = c_out
    model = ResNet32(10)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert total == convolutions + norms + 64 * 10 + 10 == 464_154
    weighted = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 32
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_a_shortcut_takes_every_other_pixel_and_fills_channels_with_zeros() -> None:
    block = BasicBlock(2, 6, 2).eval()
    nn.init.zeros_(block.conv2.weight)  # What is left is the shortcut.
    x = torch.rand(1, 2, 4, 4)
    result = block(x)
    assert result.shape == (1, 6, 2, 2)
    assert torch.equal(result[:, 2:4], x[:, :, ::2, ::2])
    assert not result[:, :2].any() and not result[:, 4:].any()


def test_every_convolution_and_the_classifier_are_analog() -> None:
    table = coverage(convert(ResNet32(10).eval(), rasch2023))
    assert (table["where"] == "analog").sum() == 32


def test_resnet32_needs_files(tmp_path) -> None:
    with pytest.raises(UsageError, match="'resnet32' has no profile 'embedded'; it has real, gpu"):
        tasks.get("resnet32")
    with pytest.raises(UsageError, match=r"cutout=-1; allowed: 0 \(none\) or more"):
        tasks.get("resnet32", "real", tmp_path, cutout=-1)


def test_images_of_the_digital_training_on_a_cpu_grow() -> None:
    pixels = torch.randint(256, (260, 3, 32, 32), dtype=torch.uint8)
    labels = torch.arange(260) % 10
    images = {
        "train_images": pixels,
        "train_labels": labels,
        "test_images": pixels[:10],
        "test_labels": labels[:10],
    }
    task = ResNet32Task(images, "real", 0)
    sides = []
    for epoch in (0, 5, 6, 12, 18, 24, 99):
        batch, _ = next(task.digital_loader(50, 0).passing(epoch))
        sides.append(batch.shape[-1])
    assert sides == [16, 16, 20, 24, 28, 32, 32]
    assert next(task.train_loader(50, 0).passing(0))[0].shape[-1] == 32
    whole = ResNet32Task(images, "gpu", 16)
    assert next(whole.digital_loader(50, 0).passing(0))[0].shape[-1] == 32
