"""Products of inputs on the grid of the DAC, in integers.

After a DAC of at most 8 bits an input is a whole number of its steps, from -127 to 127. Processors
with VNNI or AMX instructions multiply such numbers with 8-bit weights several times faster than
float32 (a convolution of 64 channels by a kernel of 3 x 3 with AMX: 1.4 ms instead of 9.5), and the
sums of integers are exact. A weight of 24 bits is three digits of 8 bits, w = s (d0 + d1 / 254 +
d2 / 254^2), where s is 1/127 of the largest |w| of the output. The sum of the products with the
digits is the product with the weights:

- three digits leave an error of at most 1.2e-7 of the output's largest weight, as float32 does,
- two digits at most 1.6e-5, one digit at most 4e-3. The errors of different weights have different
  signs, so those of a sum over n inputs are smaller by some root of n.

The square of an input, for the read noise, is 256 h + l with 0 <= h <= 63 and 0 <= l <= 255.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from aimc_bridge.engines.native import compiled_passes
from aimc_bridge.physics.mapping import levels
from aimc_bridge.spec import CrossbarSpec

if TYPE_CHECKING:
    from aimc_bridge.engines.native.product import Product

_BASE = 254
"""Ratio of two digits: a digit is in [-127, 127], and leaves at most half of its unit."""

_ZERO = 128
"""The code of 0 among inputs that may be negative."""

_MOST_STEPS = 127
"""Steps of the finest DAC whose inputs are 8-bit numbers."""

_MANY_INPUTS = 64
"""From this number of inputs of an output on, side products may take one digit."""

_FEW = 256
"""Below this number of vectors, the digits of a linear layer's weights are one product."""

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
        value: Of the weights.
        positioned: Of weights times positions, for the IR drop; empty without it.
        size: Of |weights|, for the product with |inputs| of the IR drop; empty without it.
        high: Of |weights|, for the product with `Codes.high` of the read noise; empty without it.
        low: Of |weights|, for the product with `Codes.low` of the read noise; empty without it.
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
        inputs: Of the weights and, with IR drop, of the weights times positions.
        magnitude: Of |weights|, with units of their own; None without IR drop and read noise.
        outputs: Number of outputs of the tile.
    """

    inputs: Digit
    magnitude: Digit | None
    outputs: int


class Units(NamedTuple):
    """What codes of 1 stand for in the products of a tile, and what is added to their sums.

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


@cache
def available() -> bool:
    """Return whether this processor multiplies 8-bit integers fast and exactly.

    Without VNNI the sums of two products are cut to 16 bits. So the largest numbers are tried.
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
        return False
    x = torch.full((32, 64), 255, dtype=torch.uint8)
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    units = torch.ones(16)
    try:
        y = linear(x, 0, pack_linear(weight, x), units, None, None)
        y = linear(x, _ZERO, pack_linear(weight, x), units, None, y)
    except (RuntimeError, AttributeError, TypeError):
        return False
    return bool((y == 64 * 127 * (255 + 127)).all())


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
        and levels(spec.dac_bits) <= _MOST_STEPS
        and not spec.line_effects
        and product.has_integers
        and x.device.type == "cpu"
        and x.dtype == weight_dtype == torch.float32
        and available()
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
    units = largest.clamp_min_(torch.finfo(weight.dtype).tiny * _MOST_STEPS) / _MOST_STEPS
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
        units: What codes of 1 stand for.
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


def multiplied(
    product: Product, codes: Codes, weights: IntegerWeights | ThinWeights, units: Units
) -> Sums:
    """Return the products of codes with weights.

    Args:
        product: The product of the layer.
        codes: The codes of the inputs of a tile.
        weights: The weights.
        units: What codes of 1 stand for.
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


# --- oneDNN ---------------------------------------------------------------------------------------


def pack_linear(digit: Tensor, x: Tensor) -> Tensor:
    """Return a digit of the weights of a linear layer in oneDNN's order.

    Args:
        digit: The digit, int8, `[outputs, inputs]`.
        x: Inputs of the usual shape, `[samples, inputs]`.
    """
    packed: Tensor = torch.ops.onednn.qlinear_prepack(digit.contiguous(), list(x.shape))
    return packed


def linear(
    x: Tensor,
    zero: int,
    packed: Tensor,
    units: Tensor,
    bias: Tensor | None,
    onto: Tensor | None,
) -> Tensor:
    """Return a matrix product of codes with a digit.

    Args:
        x: Codes, uint8, `[samples, inputs]`.
        zero: The code of 0.
        packed: The digit, from `pack_linear`.
        units: The product of the units of codes and digits, `[outputs]`.
        bias: Numbers that are added, `[outputs]`, or None.
        onto: Outputs to add to, in place, `[samples, outputs]`; None makes new ones.
    """
    x, zeros = x.contiguous(), _zeros(len(units))
    if onto is None:
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            x, 1.0, zero, packed, units, zeros, bias, 1.0, 0, torch.float32, "none", [], ""
        )
        return y
    y = torch.ops.onednn.qlinear_pointwise.binary(
        x, 1.0, zero, packed, units, zeros, onto, bias, 1.0, 0, torch.float32, 1.0, 0, "sum", 1.0,
        "none", [], "",
    )  # fmt: skip
    return y


class Geometry(NamedTuple):
    """The geometry of a two-dimensional convolution, as oneDNN takes it."""

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def pack_conv(digit: Tensor, x: Tensor, geometry: Geometry) -> Tensor:
    """Return a digit of the weights of a convolution in oneDNN's order.

    Args:
        digit: The digit, int8, `[outputs, channels per group, height, width]`.
        x: Inputs of the usual shape, `[samples, channels, height, width]`.
        geometry: The geometry of the convolution.
    """
    packed: Tensor = torch.ops.onednn.qconv_prepack(
        digit.contiguous(), torch.ones(len(digit)), 1.0, 0, *geometry, list(x.shape)
    )
    return packed


def conv(
    x: Tensor,
    zero: int,
    packed: Tensor,
    units: Tensor,
    bias: Tensor | None,
    onto: Tensor | None,
    geometry: Geometry,
) -> Tensor:
    """Return a convolution of codes with a digit, with its channels last in memory.

    Args:
        x: Codes, uint8, `[samples, channels, height, width]`.
        zero: The code of 0.
        packed: The digit, from `pack_conv`.
        units: As in `linear`.
        bias: As in `linear`.
        onto: As in `linear`.
        geometry: The geometry of the convolution.
    """
    zeros = _zeros(len(units))
    if onto is None:
        y: Tensor = torch.ops.onednn.qconv2d_pointwise(
            x, 1.0, zero, packed, units, zeros, bias, *geometry, 1.0, 0, torch.float32, "none", [],
            "",
        )  # fmt: skip
        return y
    y = torch.ops.onednn.qconv2d_pointwise.binary(
        x, 1.0, zero, packed, units, zeros, onto, bias, *geometry, 1.0, 0, torch.float32, 1.0, 0,
        "sum", 1.0, "none", [], "",
    )  # fmt: skip
    return y


@cache
def _zeros(count: int) -> Tensor:
    """Return the codes of 0 of the weights of each output."""
    with torch.inference_mode(False):
        return torch.zeros(count, dtype=torch.int32)
