"""Everything that writes files, as functions that take words and return an exit code.

`tests.broken_disk` runs them in processes of their own. A function of the library that raises ends
like a command: one line, exit code 2. Commands that write into the project itself write below a
folder of the test instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

import presets
from aimc_bridge import (
    HWATraining,
    calibrate,
    convert,
    merge_shards,
    program,
    save_chip,
    sweep,
    train,
)
from aimc_bridge.commands import command, execute
from benchmarks import __main__ as commands
from tests.models import mlp, random


def bench(words: Sequence[str]) -> int:
    """Run a command of the benchmarks."""
    return commands.main([*words, "--quiet"])


def into(words: Sequence[str]) -> int:
    """Run a command that writes into the project; the first word is a folder to write to."""
    from benchmarks.report import pages, record, trained
    from benchmarks.zoo import catalogue

    root = Path(words[0])
    record.FOLDER, trained.FOLDER = root / "records", root / "checkpoints"
    catalogue.FILE, pages.ROOT = root / "measured.json", root
    pages.SECTIONS = tuple(each for each in pages.SECTIONS if (root / each.page).exists())
    return bench(words[1:])


def library(words: Sequence[str]) -> int:
    """Call a writer of the library: its name and the path to write to."""
    writer, path = WRITERS[words[0]], Path(words[1])

    def work() -> None:
        """Write."""
        writer(path)

    return execute(command("library", work, program="library"), [], program="library")


def _model() -> nn.Module:
    model = convert(mlp(), presets.rasch2023).eval()
    calibrate(model, [random(20, 12)])
    return model


def _mean(model: nn.Module) -> float:
    with torch.no_grad():
        return float(model(random(20, 12)).mean())


def _chip(path: Path) -> None:
    model = _model()
    program(model, 1)
    save_chip(model, path)


def _sweep(path: Path) -> None:
    sweep(_model(), _mean, ("1s", "1h"), 4, resume=path, progress=False)


def _shards(path: Path) -> None:
    """Measure two shards and merge them."""
    parts = [path.with_name(f"part-{number}.csv") for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        options = {"resume": part, "shard": f"{number}/2", "progress": False}
        sweep(_model(), _mean, "1s", 4, **options)  # type: ignore[arg-type]
    merge_shards(parts, into=path)


def _figure(path: Path) -> None:
    from aimc_bridge import drawing

    figure, _ = drawing.new(1, 1, (3.0, 2.0))
    drawing.save(figure, path)


def _training(folder: Path) -> None:
    """Train six mini-batches with checkpoints, validation and the best weights."""
    model = _model()
    batches = [(random(5, 12), torch.zeros(5, dtype=torch.long)) for _ in range(6)]
    recipe = HWATraining.for_(presets.rasch2023, "wrn16").override(epochs=1, distill_weight=0.0)
    train(
        model, batches, lambda net, batch: nn.functional.cross_entropy(net(batch[0]), batch[1]),
        recipe=recipe, folder=folder, checkpoint_every=2, resume=True, progress=False,
        validate=lambda net: {"loss": abs(_mean(net))}, validate_every=2, keep="best",
    )  # fmt: skip


def _comparison(folder: Path) -> None:
    """Compare devices of the two engines, and write the report."""
    from aimc_bridge.equivalence import device_level

    device_level(presets.rasch2023, ["1h"], [0.5], samples=500).save(folder)


WRITERS: dict[str, Callable[[Path], None]] = {
    "chip": _chip,
    "sweep": _sweep,
    "shards": _shards,
    "figure": _figure,
    "training": _training,
    "preset.toml": lambda path: presets.save(presets.rasch2023, path),
    "preset.json": lambda path: presets.save(presets.rasch2023, path),
    "comparison": _comparison,
}


if __name__ == "__main__":
    sys.exit(library(sys.argv[1:]))
