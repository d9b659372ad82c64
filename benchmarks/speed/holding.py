"""What a converted model adds to its weights at each stage of its life, over the weights' bytes.

The converted model has a copy of the trained weights, which takes the digital model's place. All
else that it keeps alive for its tiles is added: scales and ranges, the chip (conductances, drift
exponents, the weights held now, the compensation), and whatever is kept for the next product.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import torch
from torch import nn

from aimc_bridge import calibrate, convert, drift, program, restore
from aimc_bridge.converted import matrices_of
from aimc_bridge.spec import Preset
from benchmarks.speed.memory import held_by, held_bytes, matrix_bytes
from benchmarks.speed.works import Work, outputs

BEFORE, AFTER = 1.5, 4.0
"""Times the weights that may be added before and after programming."""

CONVERTED, CLEAN = "converted", "clean forward pass"
PROGRAMMED, READ, RUN, RESTORED = "programmed", "drifted", "forward pass of the chip", "restored"
BOUNDS = {
    CONVERTED: BEFORE,
    CLEAN: BEFORE,
    PROGRAMMED: AFTER,
    READ: AFTER,
    RUN: AFTER,
    RESTORED: BEFORE,
}


def digital_bytes(model: nn.Module) -> int:
    """Bytes of a converted model's parameters and buffers outside the layers that hold a matrix."""
    analog = set(matrices_of(model))
    return sum(
        tensor.numel() * tensor.element_size()
        for name, module in model.named_modules()
        if not any(name == layer or name.startswith(layer + ".") for layer in analog)
        for tensor in (
            *module.parameters(recurse=False),
            *module.buffers(recurse=False),
        )
    )


def stages(work: Work, preset: Preset) -> Iterator[tuple[str, nn.Module]]:
    """The converted model at each stage, the same object each time."""
    model = convert(work.model, preset, exclude=work.exclude).eval()
    yield CONVERTED, model
    if preset.crossbar.input_range != "none":
        calibrate(model, [work.batch(work.size)])

    def forward() -> None:
        with torch.no_grad():
            outputs(model, work.batch(work.size))

    later: list[tuple[str, Callable[[], object]]] = [
        (CLEAN, forward),
        (PROGRAMMED, lambda: program(model, 0)),
        (READ, lambda: drift(model, "1h")),
        (RUN, forward),
        (RESTORED, lambda: restore(model)),
    ]
    for stage, step in later:
        step()
        yield stage, model


def added(model: nn.Module) -> float:
    """Bytes that a converted model holds beside its digital parts and trained weights, over those
    of the weights on tiles."""
    weights = matrix_bytes(model)
    return (held_bytes(model) - digital_bytes(model)) / weights - 1.0


def added_by_stage(work: Work, preset: Preset) -> dict[str, float]:
    """Stage -> what is `added` there."""
    return {stage: added(model) for stage, model in stages(work, preset)}


def by_attribute(model: nn.Module) -> dict[str, float]:
    """Attribute -> bytes of its storages, over those of the weights on tiles; the largest first."""
    whole = matrix_bytes(model)
    found: dict[str, float] = {}
    for path, size in held_by(model).items():
        crossbar, _, rest = path.rpartition("crossbar.")
        key = re.sub(r"\[.*?\]", "", rest) if crossbar else path.rpartition(".")[2]
        found[key] = found.get(key, 0.0) + size / whole
    return dict(sorted(found.items(), key=lambda pair: -pair[1]))
