"""A user's own physics against aihwkit's: devices, and layers behind an ideal periphery."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from aimc_bridge.conversion import convert
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.equivalence import device
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.device import TileLaws, Tiles, reference_laws
from aimc_bridge.equivalence.layer import compare
from aimc_bridge.equivalence.report import Part
from aimc_bridge.equivalence.side import IMAGES, OUTPUTS, Measured, Setting, statistics
from aimc_bridge.errors import ShapeError, UsageError
from aimc_bridge.rng import stream
from aimc_bridge.spec import Preset


class Physics(Protocol):
    """What a user writes. Weights are `[out, in]`, scaled to [-1, 1]; `t_inference` is in seconds
    after programming; `generator` is torch's, on the CPU: all randomness must come from it."""

    def program(self, weights: Tensor, generator: torch.Generator) -> Any: ...
    def read(self, state: Any, t_inference: float, generator: torch.Generator) -> Tensor: ...


def checked(physics: object) -> Physics:
    """The object, if it has the two functions.

    Raises:  UsageError.
    """
    missing = [name for name in ("program", "read") if not callable(getattr(physics, name, None))]
    if missing:
        raise UsageError(
            f"physics is a {type(physics).__name__} without {' and '.join(missing)}; allowed: an "
            "object with program(weights, generator) -> state and "
            "read(state, t_inference, generator) -> weights"
        )
    return cast(Physics, physics)


def name_of(physics: object) -> str:
    """How a report calls it."""
    kind = physics if isinstance(physics, type) else type(physics)
    name = kind.__name__
    return getattr(physics, "__name__", name) if name == "module" else name


class Custom:
    """A user's physics as one side of the comparison."""

    def __init__(self, physics: Physics, seed: int, *names: object) -> None:
        self.physics = physics
        self.draws = stream(seed, "crosscheck", "physics", *names)

    def drawing(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def tiles(self, weight: Tensor, count: int, times: Sequence[float]) -> Tiles:
        for _ in range(count):
            state = self.physics.program(weight.clone(), self.draws)
            yield None, [self._read(state, t_s, weight) for t_s in times]

    def _read(self, state: Any, t_s: float, weight: Tensor) -> Tensor:
        found = self.physics.read(state, t_s, self.draws)
        if not isinstance(found, Tensor):
            raise UsageError(
                f"physics.read returned a {type(found).__name__}; allowed: a tensor of weights"
            )
        if found.shape != weight.shape:
            raise ShapeError(
                f"physics.read returned {tuple(found.shape)} for weights {tuple(weight.shape)}; "
                "allowed: the same shape, [out, in]"
            )
        if not found.is_floating_point() or not bool(found.isfinite().all()):
            raise UsageError(
                f"physics.read returned {found.dtype} values, or NaN or infinite ones, at "
                f"t_inference={t_s:g}; allowed: finite floating point weights"
            )
        return found.detach().to(weight)


def custom_device_part(
    physics: Physics, preset: Preset, x: float, times: Sequence[float], samples: int, seed: int
) -> Part:
    """Weights of one target, both signs, as the user's physics reads them and as aihwkit does."""
    samples = 2 * samples if x == 0 else samples
    part = Part()
    signed = [x, -x] if x > 0 else [x]
    theirs, reference = reference_laws(preset, seed, x, "weights")
    ours = device.weights(Custom(physics, seed, x), signed, times, samples)
    device.compare(part, ours, device.weights(theirs, signed, times, samples), reference)
    return part


def custom_layer_part(
    physics: Physics,
    layer: Layer,
    preset: Preset,
    setting: Setting,
    advance: Callable[[], None] = lambda: None,
) -> Part:
    """A layer whose tiles hold what each physics reads; inputs, products and outputs exact."""
    part = Part()
    theirs, _ = reference_laws(preset, setting.seed, layer.name)
    ours = Custom(physics, setting.seed, layer.name)
    found = [_measured(laws, layer, preset, setting, advance) for laws in (ours, theirs)]
    compare(part, layer, preset, setting.times, found[0], found[1], noise=False)
    return part


@torch.no_grad()
def _measured(
    laws: TileLaws, layer: Layer, preset: Preset, setting: Setting, advance: Callable[[], None]
) -> Measured:
    matrix = _matrix(layer, preset)
    weight, scale = matrix.normalised_weight(), matrix.grid.expand_columns(matrix.column_scale())
    x = layer.part(IMAGES if layer.kind == "convolution" else setting.vectors, setting.seed)
    exact = layer.module(x)
    draws = stream(setting.seed, "outputs", layer.name)
    some = torch.randperm(exact.numel(), generator=draws)[:OUTPUTS]
    trained = layer.module.get_parameter("weight")
    kept = trained.detach().clone()
    found = Measured()
    places = [
        (columns, rows)
        for rows in matrix.grid.row_slices()
        for columns in matrix.grid.column_slices()
    ]
    try:
        with laws.drawing():
            for _ in range(setting.chips):
                held = [torch.zeros_like(weight) for _ in setting.times]
                for columns, rows in places:
                    tile = weight[columns, rows].contiguous()
                    largest = tile.abs().max().clamp_min(1e-30)
                    ((_, later),) = laws.tiles(tile / largest, 1, setting.times)
                    for whole, now in zip(held, later, strict=True):
                        whole[columns, rows] = now.to(whole) * largest
                values: dict[str, list[Any]] = {name: [] for name in ("gain", "error", "mean")}
                for now in held:
                    trained.copy_((now * scale).view_as(trained))
                    said = statistics(layer.module(x).unsqueeze(0), exact, some)
                    for name, kind in values.items():
                        kind.append(said[name])
                for name, kind in values.items():
                    found.add(name, kind)
                advance()
    finally:
        trained.copy_(kept)
    return found


def _matrix(layer: Layer, preset: Preset) -> Matrix:
    """The layer's matrix on the preset's tiles."""
    model = convert(torch.nn.Sequential(layer.module), preset)
    (found,) = matrices_of(model).values()
    return found


__all__ = ["Physics", "checked", "custom_device_part", "custom_layer_part", "name_of"]
