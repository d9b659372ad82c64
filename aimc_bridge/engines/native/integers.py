"""Products of inputs on the grid of the DAC, in integers.

After a DAC of at most 8 bits an input is a whole number of its steps, from -127 to 127. Processors
with VNNI or AMX instructions multiply such numbers with 8-bit weights several times faster than
float32 (a convolution of 64 channels by a kernel of 3 x 3 with AMX: 1.4 ms instead of 9.5), and the
sums of integers are exact. The weights are digits of 8 bits (`digits`).

The square of an input, for the read noise, is 256 h + l with 0 <= h <= 63 and 0 <= l <= 255.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native import compiled_passes, onednn
from aimc_bridge.engines.native.digits import MOST, Digit, IntegerWeights, ThinWeights, Units
from aimc_bridge.engines.native.product import Product
from aimc_bridge.physics.mapping import levels
from aimc_bridge.spec import CrossbarSpec

_ZERO = 128
"""The code of 0 among inputs that may be negative."""

MANY = 1024
"""From this number of input vectors on, it pays to split weights that are used once."""


class Codes(NamedTuple):
    """Inputs of a tile in steps of the DAC, uint8; None in place of a tensor that is not needed.

    Attributes:
        x: The inputs plus `zero`.
        zero: The code of 0.
        size: |inputs|; None without IR drop.
        high: The squared inputs, divided by 256 and rounded down.
        low: The rest of the squared inputs.
    """

    x: Tensor
    zero: int
    size: Tensor | None
    high: Tensor | None
    low: Tensor | None


class Sums(NamedTuple):
    """The products of a tile; None in place of one that is not needed.

    Attributes:
        y: The outputs.
        loss: The outputs of the weights times positions.
        size: The sums of |weights| times scaled |inputs|, plus `Units.size_bias`.
        square: The sums of |weights| times their squares, plus `Units.square_bias`.
    """

    y: Tensor
    loss: Tensor | None
    size: Tensor | None
    square: Tensor | None


def suits(spec: CrossbarSpec, product: Product, x: Tensor, weight_dtype: torch.dtype) -> bool:
    """Return whether the products of a crossbar can be computed in integers.

    Args:
        spec: The crossbar's settings.
        product: The product of the layer.
        x: The inputs of the layer.
        weight_dtype: The dtype of the weights.
    """
    return (
        spec.dac_bits is not None
        and spec.input_range != "none"
        and levels(spec.dac_bits) <= MOST
        and not spec.line_effects
        and product.has_integers
        and x.device.type == "cpu"
        and x.dtype == weight_dtype == torch.float32
        and onednn.multiplies_integers()
    )


def signed(x: Tensor) -> bool | None:
    """Return whether inputs are negative somewhere; None if one is NaN, which is no integer.

    Args:
        x: Inputs.
    """
    least, most = x.aminmax()
    if bool(most.isnan()):  # NaN is both the least and the most
        return None
    return bool(least < 0.0)


def codes(
    x: Tensor,
    input_range: Tensor,
    steps: int,
    *,
    negative: bool,
    wanted: tuple[bool, bool],
    compiled: bool,
) -> Codes:
    """Return inputs as the DAC returns them, in its steps.

    Args:
        x: Inputs in own units, `[samples, inputs, *space]`; none is NaN.
        input_range: The range of the tile.
        steps: Steps of the DAC.
        negative: Whether inputs may be negative.
        wanted: Whether (the sizes, the squares) are needed.
        compiled: Whether one compiled pass does all of this.

    Returns:
        The codes, in the memory order of `x`.
    """
    if compiled:
        x8, size, high, low = compiled_passes.codes(x, input_range, steps, negative, wanted)
        if wanted[0] and not negative:
            size = x8
        return Codes(x8, _ZERO if negative else 0, size, high, low)
    whole = (x * (steps / input_range)).clamp_(-steps, steps).round_()
    square = (whole * whole).to(torch.int16) if wanted[1] else None
    high = None if square is None else (square >> 8).to(torch.uint8)
    low = None if square is None else square.to(torch.uint8)  # integers wrap around at 256
    if not negative:
        x8 = whole.to(torch.uint8)
        return Codes(x8, 0, x8 if wanted[0] else None, high, low)
    x8 = (whole + _ZERO).to(torch.uint8)
    return Codes(x8, _ZERO, whole.abs_().to(torch.uint8) if wanted[0] else None, high, low)


def multiplied(
    product: Product, codes: Codes, weights: IntegerWeights | ThinWeights, units: Units
) -> Sums:
    """Return the products of codes with weights.

    Args:
        product: The product of the layer.
        codes: The codes of the inputs of a tile.
        weights: The weights.
        units: The values of codes of 1.
    """
    if isinstance(weights, ThinWeights):
        return _thin_products(product, codes, weights, units)
    y = _chain(product, codes.x, codes.zero, weights.value)
    assert y is not None
    square = _chain(product, codes.low, 0, weights.low)
    loss = _chain(product, codes.x, codes.zero, weights.positioned)
    size = _chain(product, codes.size, 0, weights.size)
    return Sums(y, loss, size, _chain(product, codes.high, 0, weights.high, square))


def channels_first(sums: Sums) -> Sums:
    """Return products in the memory order of a convolution whose inputs have channels first.

    oneDNN's convolutions of integers have their channels last, those of floats as their inputs. The
    order counts, because noise is drawn in the order of memory.

    Args:
        sums: The products.
    """
    first = torch.contiguous_format
    y, *others = (None if part is None else part.clone(memory_format=first) for part in sums)
    assert y is not None
    return Sums(y, *others)


def _chain(
    product: Product, x: Tensor | None, zero: int, digits: list[Digit], onto: Tensor | None = None
) -> Tensor | None:
    """Return the sum of the products with digits, added to `onto`; None without digits."""
    for digit in digits:
        assert x is not None
        onto = product.contract_codes(x, zero, *digit, onto)
    return onto


def _thin_products(product: Product, codes: Codes, weights: ThinWeights, units: Units) -> Sums:
    """Return the products of a few vectors."""
    outputs = weights.outputs
    whole = product.contract_codes(codes.x, codes.zero, *weights.inputs, None)
    parts = whole.view(len(whole), -1, outputs).unbind(1)
    y, loss = (parts[0] + parts[1]).add_(parts[2]), None
    if len(parts) > 3:
        loss = parts[3] if len(parts) == 4 else parts[3] + parts[4]
    if weights.magnitude is None:
        return Sums(y, loss, None, None)
    several = [part for part in (codes.size, codes.high, codes.low) if part is not None]
    x = several[0] if len(several) == 1 else torch.cat(several)
    whole = product.contract_codes(x, 0, *weights.magnitude, None)
    digits = whole.view(len(several), len(y), -1, outputs)
    sums = digits[:, :, 0] + digits[:, :, 1] if digits.shape[2] == 2 else digits[:, :, 0]
    size = square = None
    if len(several) != 2:
        size = (sums[0] * units.size).add_(units.size_bias)
    if len(several) > 1:
        square = torch.add(sums[-1], sums[-2], alpha=256.0)
        square.mul_(units.size**2).add_(units.square_bias)
    return Sums(y, loss, size, square)
