"""Calls of oneDNN: products of float32 numbers, and of 8-bit integers."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.weak import WeakTensorKeyDictionary

from aimc_bridge.engines.native.product import MANY
from aimc_bridge.layers.steps import kept_between_steps

_FROM = 16
"""From this number of input vectors on, oneDNN multiplies.

A product of 40 x 325 by 325 x 2600 took MKL twice as long.
"""

_THERE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return `functional.linear`, by oneDNN on a CPU if autograd does not watch.

    MKL, torch's choice for float32, was half as fast (512 x 384 by 384 x 768 on one AMD core: 107
    against 215 GFLOP/s).

    Args:
        x: Inputs, `[samples, inputs]`.
        weight: Weights, `[outputs, inputs]`.
        bias: Numbers that are added, `[outputs]`, or None.
    """
    if (
        _THERE
        and len(x) >= _FROM
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
    ):
        # contiguous, because oneDNN is a thousand times slower if the memory has gaps
        x, weight = x.contiguous(), _prepared(weight.contiguous(), len(x))
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return y
    return functional.linear(x, weight, bias)


def _prepared(weight: Tensor, vectors: int) -> Tensor:
    """Return the weights in oneDNN's own order if a time loop reuses them.

    oneDNN would otherwise change their order in every product: 40 x 325 by 325 x 2600 takes 0.35 ms
    instead of 0.61 on two cores, with the same numbers. The first product of a loop leaves the
    weights as they are, since there may be no second one.
    """
    cache = kept_between_steps()
    if cache is None or vectors >= MANY:
        return weight
    # weak keys: weights that a step made only for itself are forgotten with it
    by_weight: MutableMapping[Tensor, dict[int, Tensor | None]]
    by_weight = cache.setdefault(_prepared, WeakTensorKeyDictionary())
    by_vectors = by_weight.setdefault(weight, {})
    if vectors not in by_vectors:
        by_vectors[vectors] = None
        return weight
    packed = by_vectors[vectors]
    if packed is None:
        packed = by_vectors[vectors] = torch.ops.mkldnn._reorder_linear_weight(weight, vectors)
    return packed


@cache
def multiplies_integers() -> bool:
    """Return whether this processor multiplies 8-bit integers fast and exactly.

    Without VNNI the sums of two products are cut to 16 bits. So the largest numbers are tried.
    """
    if not (torch.backends.mkldnn.is_available() and torch.cpu._is_vnni_supported()):
        return False
    x = torch.full((32, 64), 255, dtype=torch.uint8)
    weight = torch.full((16, 64), 127, dtype=torch.int8)
    units = torch.ones(16)
    try:
        y = linear_of_codes(x, 0, pack_linear(weight, x), units, None, None)
        y = linear_of_codes(x, 128, pack_linear(weight, x), units, None, y)
    except (RuntimeError, AttributeError, TypeError):
        return False
    return bool((y == 64 * 127 * (255 + 127)).all())


def pack_linear(digit: Tensor, x: Tensor) -> Tensor:
    """Return a digit of the weights of a linear layer in oneDNN's order.

    Args:
        digit: The digit, int8, `[outputs, inputs]`.
        x: Inputs of the usual shape, `[samples, inputs]`.
    """
    packed: Tensor = torch.ops.onednn.qlinear_prepack(digit.contiguous(), list(x.shape))
    return packed


def linear_of_codes(
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
        digit.contiguous(), torch.ones(1), 1.0, 0, *geometry, list(x.shape)
    )
    return packed


def conv_of_codes(
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
