"""Weights as digits of 8 bits, for products in integers (`integers`).

A weight of 24 bits is three digits, w = s (d0 + d1 / 254 + d2 / 254^2), where s is 1/127 of the
largest |w| of the output. The sum of the products with the digits is the product with the weights:

- three digits leave an error of at most 1.2e-7 of the output's largest weight, as float32 does,
- two digits at most 1.6e-5, one digit at most 4e-3. The errors of different weights have different
  signs, so those of a sum over n inputs are smaller by some root of n.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native.product import Product

_BASE = 254
"""Ratio of two digits: a digit is in [-127, 127], and leaves at most half of its unit."""

MOST = 127
"""The largest digit, and the most steps of a DAC whose inputs are 8-bit numbers."""

_MANY_INPUTS = 64
"""From this number of inputs of an output on, side products may take one digit."""

_FEW = 256
"""Below this number of vectors, the digits of a linear layer's weights are one product."""


class Digit(NamedTuple):
    """One digit of the weights of a tile, or all digits side by side.

    Attributes:
        packed: The digit in the order of `Product.pack`.
        units: The outputs of a product of 1 and 1, `[outputs]`.
        bias: Numbers that are added to the outputs, `[outputs]`, or None.
    """

    packed: Tensor
    units: Tensor
    bias: Tensor | None = None


class IntegerWeights(NamedTuple):
    """The digits of the weights of a tile, for many vectors or for images.

    Attributes:
        value: Digits of the weights.
        positioned: Digits of weights times positions, for the IR drop; empty without it.
        size: Digits of |weights|, for the product with |inputs| of the IR drop; empty without it.
        high: Digits of |weights|, for the product with `Codes.high` of the read noise; or empty.
        low: Digits of |weights|, for the product with `Codes.low` of the read noise; or empty.
    """

    value: list[Digit]
    positioned: list[Digit]
    size: list[Digit]
    high: list[Digit]
    low: list[Digit]


class ThinWeights(NamedTuple):
    """The digits of the weights of a tile, for a few vectors.

    Products of a few vectors take as long as to read the weights. So all digits lie side by side as
    the outputs of one product, and inputs of the same weights are one batch.

    Attributes:
        inputs: Digits of the weights and, with IR drop, of the weights times positions.
        magnitude: Digits of |weights|, with their own units; None without IR drop and read noise.
        outputs: Number of outputs of the tile.
    """

    inputs: Digit
    magnitude: Digit | None
    outputs: int


class Units(NamedTuple):
    """The values of codes of 1 in the products of a tile, and the numbers added to their sums.

    Attributes:
        x: A step of the inputs.
        size: A step of the scaled |inputs|.
        size_bias: A number that is added to the sums over |inputs|.
        square_bias: A number that is added to the sums over squared inputs.
    """

    x: float
    size: float
    size_bias: float
    square_bias: float


def split(weight: Tensor, count: int) -> tuple[list[Tensor], Tensor]:
    """Split weights into digits.

    Args:
        weight: Weights, `[outputs, ...]`.
        count: Number of digits.

    Returns:
        The digits, int8, in the shape of the weights, and the unit of the first one for each
        output, `[outputs]`.
    """
    largest = torch.linalg.vector_norm(weight.flatten(1), float("inf"), dim=1)
    units = largest.clamp_min_(torch.finfo(weight.dtype).tiny * MOST) / MOST
    rest = weight / units.view(-1, *[1] * (weight.ndim - 1))
    digits = []
    for index in range(count):
        digit = rest.round()
        digits.append(digit.to(torch.int8))
        if index + 1 < count:
            rest = rest.sub_(digit).mul_(_BASE)
    return digits, units


def prepared(
    product: Product,
    value: Tensor,
    position: Tensor | None,
    x: Tensor,
    units: Units,
    *,
    noisy: bool,
    coarse: bool,
) -> IntegerWeights | ThinWeights:
    """Split the weights of a tile, and put their digits into oneDNN's order.

    Args:
        product: The product of the layer.
        value: The weights, as `Product.weights` returns them.
        position: The positions of the inputs in the shape of one output's weights; None without IR
            drop.
        x: Inputs of the tile, for whose shape oneDNN chooses its order.
        units: The values of codes of 1.
        noisy: Whether there is read noise.
        coarse: Whether the side products (IR drop, read noise) take one digit instead of two, if an
            output has so many inputs that the errors of its weights cancel.
    """
    side = 1 if coarse and value[0].numel() >= _MANY_INPUTS else 2
    digits, unit = split(value, 3)
    positioned: list[Tensor] = []
    of_positioned = unit
    if position is not None:
        positioned, of_positioned = split(value * position, side)
    signs = torch.where(value < 0.0, -1, 1).to(torch.int8)
    magnitude = [digit * signs for digit in digits[:side]]
    if thin(x):
        inputs = Digit(
            product.pack(torch.cat(digits + positioned), x),
            torch.cat(
                _powers(unit * units.x, 3) + _powers(of_positioned * units.x, len(positioned))
            ),
        )
        if position is None and not noisy:
            return ThinWeights(inputs, None, len(value))
        packed = product.pack(torch.cat(magnitude), x)
        magnitudes = Digit(packed, torch.cat(_powers(unit, side)))
        return ThinWeights(inputs, magnitudes, len(value))

    def packed_digits(some: list[Tensor], unit: Tensor) -> list[Digit]:
        powers = _powers(unit, len(some))
        return [Digit(product.pack(d, x), each) for d, each in zip(some, powers, strict=True)]

    size: list[Digit] = []
    high: list[Digit] = []
    low: list[Digit] = []
    if position is not None or noisy:
        of_magnitude = packed_digits(magnitude, unit)
        if position is not None:
            size = _scaled(of_magnitude, units.size, units.size_bias)
        if noisy:
            high = _scaled(of_magnitude, 256.0 * units.size**2, 0.0)
            low = _scaled(of_magnitude, units.size**2, units.square_bias)
    return IntegerWeights(
        packed_digits(digits, unit * units.x),
        packed_digits(positioned, of_positioned * units.x),
        size,
        high,
        low,
    )


def thin(x: Tensor) -> bool:
    """Return whether inputs are a few vectors, whose products take `ThinWeights`.

    Args:
        x: Inputs of a tile.
    """
    return x.ndim == 2 and len(x) < _FEW


def _powers(unit: Tensor, count: int) -> list[Tensor]:
    """Return the units of digits, from that of the first one."""
    return [unit / _BASE**index for index in range(count)]


def _scaled(digits: list[Digit], unit: float, bias: float) -> list[Digit]:
    """Return digits with outputs that are multiplied by `unit`, plus a number."""
    scaled = [Digit(digit.packed, digit.units * unit) for digit in digits]
    if bias:
        scaled[0] = scaled[0]._replace(bias=torch.full_like(scaled[0].units, bias))
    return scaled
