"""One analog matrix-vector product on a tile, in the order of rasch2023 SI Table 1.

Everything is in the tile's units: inputs in [-1, 1], weights normalised. A `contract` stands for
the product itself, `(inputs, weights) -> outputs`: a matrix product, or a convolution.

`converted_input`, `ir_loss`, `current` and `noise_sd` are the executable reference of the tests:
the native engine computes the same in other terms, to save passes over memory (see
`engines.native.forward`). Chips use `identity_readout` and `converted_output`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from aimc_bridge.physics.mapping import quantised
from aimc_bridge.spec import CrossbarSpec

Contract = Callable[[Tensor, Tensor], Tensor]


def converted_input(x: Tensor, input_range: Tensor | float | None, spec: CrossbarSpec) -> Tensor:
    """What the DAC puts on the rows: x / range, clamped to [-1, 1], on the DAC's grid."""
    if input_range is None:
        return x
    return quantised((x / input_range).clamp_(-1.0, 1.0), spec.dac_bits, 1.0)


def ir_loss(summed: Tensor, weighted: Tensor, rows: int, spec: CrossbarSpec) -> Tensor:
    """What the wires' resistance takes from an output.

    a = (n / g_ratio) sum_j |w_ij||x_j|, c = a (a (0.05 a - 0.2) + 0.5), loss = scale * c *
    sum_j w_ij x_j (1 - (1 - j/n)^2).

    Args:    summed  sum_j |w_ij||x_j|.    weighted  the last sum.    rows  n, inputs of the tile.
    """
    return _ir_factor(summed * (rows / spec.ir_drop_g_ratio)).mul_(weighted).mul_(spec.ir_drop)


def _ir_factor(a: Tensor) -> Tensor:
    """Return c = a (a (0.05 a - 0.2) + 0.5), the IR drop of a column that carries a."""
    return ((a * 0.05).sub_(0.2)).mul_(a).add_(0.5).mul_(a)


def current(
    x: Tensor,
    weight: Tensor,
    magnitude: Tensor | None,
    positioned: Tensor | None,
    rows: int,
    spec: CrossbarSpec,
    contract: Contract,
    ir_drop: bool = True,
) -> Tensor:
    """Output currents without noise: the product, less the IR drop.

    Args:    x  inputs as converted.    weight  normalised.    magnitude  |weight|.    positioned
             weight times `TileGrid.row_position`.    rows  inputs of the tile.
    """
    y = contract(x, weight)
    if spec.ir_drop == 0.0 or not ir_drop or magnitude is None or positioned is None:
        return y
    return y - ir_loss(contract(x.abs(), magnitude), contract(x, positioned), rows, spec)


def noise_sd(
    x: Tensor, magnitude: Tensor | None, spec: CrossbarSpec, contract: Contract
) -> Tensor | float:
    """Standard deviation of an output: PCM_READ w_noise sqrt(sum |w| x^2) and output noise.

    Both are Gaussian and fresh at every product: one draw of the joint sigma serves.
    """
    if spec.w_noise == 0.0 or magnitude is None:
        return spec.out_noise
    variance = contract(x * x, magnitude).mul_(spec.w_noise**2)
    return variance.clamp_min_(0.0).add_(spec.out_noise**2).sqrt_()


def converted_output(y: Tensor, spec: CrossbarSpec) -> Tensor:
    """What the ADC gives: on the grid of out_bound, clamped."""
    return quantised(y, spec.adc_bits, spec.out_bound)


def identity_readout(
    weight: Tensor, position: Tensor, row_count: Tensor, spec: CrossbarSpec, eps: Tensor
) -> Tensor:
    """Outputs of a tile for the identity matrix as inputs, each product alone.

    Elementwise: with one row on, row j of the outputs is column j of the weights, with the noise,
    IR drop and ADC of a product of its own.

    Args:    weight  `(*chips, out, in)`, normalised.    position, row_count  `[in]`, from TileGrid.
             eps  N(0, 1), `(*chips, out, in)`.
    Returns: `(*chips, out, in)`.
    Source:  aihwkit GlobalDriftCompensation.
    """
    y = weight
    if spec.ir_drop > 0.0:
        factor = _ir_factor(weight.abs() * (row_count / spec.ir_drop_g_ratio))
        y = weight - factor * weight * position * spec.ir_drop
    if spec.w_noise > 0.0 or spec.out_noise > 0.0:
        sd = weight.abs().mul_(spec.w_noise**2).add_(spec.out_noise**2).sqrt_()
        y = y + sd.mul_(eps)
    return converted_output(y, spec)
