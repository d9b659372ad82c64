"""What the products of tiles work with: units, weights as they are multiplied, jobs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aimc_bridge.engines.native.product import Product
from aimc_bridge.errors import CapabilityError
from aimc_bridge.physics.mapping import levels
from aimc_bridge.spec import CrossbarSpec


def check_precision(dtype: torch.dtype) -> None:
    """Raise CapabilityError for weights of a precision that the physics does not have."""
    if dtype not in (torch.float32, torch.float64):
        raise CapabilityError(
            f"native engine: weights of {dtype}; allowed: float32, float64 "
            "(model.float() first; autocast may run inside)"
        )


def output_step(spec: CrossbarSpec) -> float:
    """The unit that outputs are counted in: a step of the ADC, 1 without one."""
    step: float = 1.0 if spec.adc_bits is None else spec.out_bound / levels(spec.adc_bits)
    return step


def perfect(spec: CrossbarSpec, ir_drop: bool) -> bool:
    """Whether the periphery changes nothing: the tiles are then one digital product."""
    converters = spec.adc_bits is not None or spec.input_range != "none"
    noise = spec.out_noise > 0.0 or spec.w_noise > 0.0
    return not (converters or noise or ir_drop)


class TileWeights:
    """The weights of a tile as its product takes them.

    value       normalised weights
    position    of each input for the IR drop, in the shape of an output's weights; None without
    """

    def __init__(
        self,
        product: Product,
        weight: Tensor,
        row: int,
        column: int | None,
        position: Tensor | None,
    ) -> None:
        """`position` of each input of the layer, `[in]`."""
        self.rows = product.grid.rows[row]
        self.value = product.weights(weight, row, column).contiguous()
        self.position: Tensor | None = None
        if position is not None:
            self.position = product.weights(position.unsqueeze(0), row, None)
        self._magnitudes: dict[torch.dtype, Tensor] = {}

    def magnitude(self, dtype: torch.dtype) -> Tensor:
        """|value|, made at its first use."""
        if dtype not in self._magnitudes:
            self._magnitudes[dtype] = self.value.to(dtype).abs()
        return self._magnitudes[dtype]


@dataclass(frozen=True)
class Block:
    """The tiles that one product serves: a row of them with one input range, or a single tile."""

    row: int
    column: int | None
    columns: slice  # of the layer's outputs
    tile: TileWeights

    def range_of(self, ranges: Tensor | None) -> Tensor | None:
        """The input range of these tiles, from `[row tiles, column tiles]`."""
        return None if ranges is None else ranges[self.row, self.column or 0]


@dataclass(frozen=True)
class Job:
    """What a crossbar's products need besides tensors with gradients.

    scale    digital scale of the trained weights, `[row tiles, out]`
    decay    of learned input ranges: (rate, least share of unclipped inputs)
    side     precision of the side products; None is that of the weights
    compiled whether compiled passes of `fused` do what is no product
    """

    product: Product
    spec: CrossbarSpec
    blocks: Sequence[Block]
    scale: Tensor
    decay: tuple[float, float]
    side: torch.dtype | None
    compiled: bool = False

    @property
    def bound(self) -> int | None:
        """Of the ADC, in its steps; None without one."""
        bits = self.spec.adc_bits
        return None if bits is None else levels(bits)


def along(values: Tensor, like: Tensor) -> Tensor:
    """`[outputs]`, broadcastable to `[samples, outputs, *space]`."""
    return values.view(-1, *[1] * (like.ndim - 2))


def room(like: Tensor, samples: int, channels: int) -> Tensor:
    """`[samples, channels, *space]`, dimensions in the order that those of `like` have in
    memory."""
    space = like.shape[2:]
    if like.stride(1) == 1:
        return like.new_empty(samples, *space, channels).movedim(-1, 1)
    return like.new_empty(samples, channels, *space)
