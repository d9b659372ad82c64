"""The WideResNet's task: network, images and their changes, splits."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from benchmarks import tasks
from benchmarks.tasks import image_task, wrn


def test_wrn_16_4_is_the_papers_network() -> None:
    """Its parameters are counted by hand, from Zagoruyko and Komodakis' table."""
    convolutions = 9 * 3 * 16
    norms = 0
    c_in = 16
    for c_out in (64, 128, 256):
        # The last term is the shortcut.
        convolutions += 9 * c_in * c_out + 3 * 9 * c_out * c_out + c_in * c_out
        norms += 2 * (c_in + 3 * c_out)
        c_in = c_out
    norms += 2 * 256
    model = wrn.WideResNet(16, 4, 10)
    total = sum(p.numel() for p in model.parameters())
    assert total == convolutions + norms + 256 * 10 + 10 == 2_748_890
    assert len([m for m in model.modules() if isinstance(m, nn.Conv2d)]) == 1 + 12 + 3
    images = torch.zeros(2, 3, 32, 32)
    assert model(images).shape == (2, 10)
    sizes = []
    model.norm.register_forward_hook(lambda _, inputs, __: sizes.append(inputs[0].shape))
    model(images)
    assert sizes == [(2, 256, 8, 8)]


def positions(n: int, size: int) -> Tensor:
    """Return images whose pixels are their own place: 1 + row * size + column."""
    return (1 + torch.arange(size * size).reshape(1, 1, size, size)).repeat(n, 1, 1, 1).byte()


def test_shifts_are_uniform_and_reflect_the_edges() -> None:
    n, size, shift = 4000, 9, 2
    image = positions(1, size)
    padded = nn.functional.pad(image.float(), (shift,) * 4, mode="reflect")[0, 0]
    drawn = image_task.augmented(
        image.expand(n, 1, size, size), torch.Generator().manual_seed(0), shift, False, 0
    )
    crops = {
        (i, j): padded[i : i + size, j : j + size]
        for i in range(2 * shift + 1)
        for j in range(2 * shift + 1)
    }
    counts = dict.fromkeys(crops, 0)
    for shifted in drawn[:, 0]:
        matching = [place for place, crop in crops.items() if torch.equal(shifted, crop)]
        assert len(matching) == 1
        counts[matching[0]] += 1
    # There are 25 places, 160 each, sd 12.4: 5.9 sd is a false alarm of 1e-7 for the worst of 25.
    assert max(abs(count - 160) for count in counts.values()) < 5.9 * 12.4


def test_half_of_the_images_are_mirrored() -> None:
    n = 4000
    image = positions(1, 5)
    drawn = image_task.augmented(
        image.expand(n, 1, 5, 5), torch.Generator().manual_seed(0), 0, True, 0
    )
    mirrored = sum(torch.equal(each, image[0].float().flip(2)) for each in drawn)
    unchanged = sum(torch.equal(each, image[0].float()) for each in drawn)
    assert mirrored + unchanged == n
    assert abs(mirrored - n / 2) < 4.9 * math.sqrt(n / 4)  # The false-alarm rate is 1e-6.


def test_cutout_is_one_square_of_the_images_mean() -> None:
    n, size, side = 500, 12, 4
    image = positions(1, size)
    drawn = image_task.augmented(
        image.expand(n, 1, size, size), torch.Generator().manual_seed(0), 0, False, side
    )
    changed = (drawn != image.float())[:, 0]
    mean = image.float().mean()
    areas = []
    for each, where in zip(drawn[:, 0], changed, strict=True):
        rows, columns = where.any(1).nonzero().flatten(), where.any(0).nonzero().flatten()
        box = where[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()  # The change is one full rectangle.
        assert bool((each[where] == mean).all())
        areas.append(len(rows) * len(columns))
        assert len(rows) <= side and len(columns) <= side
    assert max(areas) == side**2  # It is whole inside and cut at the edges.
    assert min(areas) < side**2


@pytest.mark.parametrize(("cutout", "size"), [(None, 0), (0, 0), (3, 3)])
def test_cutout_is_an_option(cutout, size) -> None:
    """Squares of one value lie inside the 8 x 8 digits, in training alone."""
    options = {} if cutout is None else {"cutout": cutout}
    task = tasks.get("wrn", **options)
    assert task.cutout == size
    images = next(task.train_loader(64, 0).passing(0))[0]
    plain = next(tasks.get("wrn").train_loader(64, 0).passing(0))[0]
    changed = (images != plain).flatten(1).sum(1)
    assert int(changed.max()) <= size**2 and bool((changed > 0).any()) == (size > 0)


def test_images_are_normalised_by_the_training_images(all_tasks) -> None:
    task = all_tasks["wrn"]
    images = task.normalised(task.splits["train"][0])
    assert images.mean().item() == pytest.approx(0.0, abs=1e-4)
    assert images.std().item() == pytest.approx(1.0, abs=1e-3)


def test_the_splits_of_wrn_share_no_image_and_a_subset_has_all_classes(all_tasks) -> None:
    task = all_tasks["wrn"]
    assert task.count("train") + task.count("validation") == 1397
    seen = {
        split: {image.numpy().tobytes() for image in task.splits[split][0]}
        for split in ("train", "validation", "test")
    }
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    (batch,) = task.batches("test", 100)
    assert len(batch[1].unique()) == 10
