"""One analog matrix-vector product on a tile.

The steps are in the order of rasch2023 SI Table 1.

Everything is in the units of the tile: inputs in [-1, 1], normalised weights, and outputs in units
of one fully-on input on one fully-on weight. A `contract` stands for the product itself,
`(inputs, weights) -> outputs`: a matrix product or a convolution.

`converted_input`, `ir_loss`, `current` and `noise_sd` are the reference that the tests run. The
native engine computes the same in other terms, to save passes over memory (see
`engines.native.forward`). Chips use `identity_readout` and `converted_output`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from aimc_bridge.physics.mapping import quantised
from aimc_bridge.spec import CrossbarSpec

Contract = Callable[[Tensor, Tensor], Tensor]


def converted_input(x: Tensor, input_range: Tensor | float | None, spec: CrossbarSpec) -> Tensor:
    """Return the inputs of the tile as the DAC converts them.

    They are x / range, clamped to [-1, 1] and rounded to the grid of the DAC.

    Args:
        x: Inputs of the layer, any shape.
        input_range: The range, a positive number or broadcastable to `x`; None returns `x` as it
            is.
        spec: The crossbar, `preset.crossbar`. Without `dac_bits` nothing is rounded.

    Returns:
        Inputs of the tile, in the shape of `x`.

    Source: rasch2023 SI Table 1.
    """
    if input_range is None:
        return x
    return quantised((x / input_range).clamp_(-1.0, 1.0), spec.dac_bits, 1.0)


def ir_loss(summed: Tensor, weighted: Tensor, rows: int, spec: CrossbarSpec) -> Tensor:
    """Return what the resistance of the wires takes from an output.

    With n inputs of the tile: a = (n / g_ratio) sum_j |w_ij||x_j|, c = a (a (0.05 a - 0.2) + 0.5),
    loss = ir_drop * c * sum_j w_ij x_j (1 - (1 - j/n)^2).

    Args:
        summed: sum_j |w_ij||x_j|, in the shape of the outputs.
        weighted: sum_j w_ij x_j (1 - (1 - j/n)^2), in the same shape.
        rows: n, the number of inputs of the tile.
        spec: The crossbar, `preset.crossbar`.

    Returns:
        The loss in units of the outputs, in the same shape.

    Not modelled: an effect of one column on another.

    Source: rasch2023 SI; aihwkit `ir_drop`.
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
    """Return the output currents without noise: the product minus the IR drop.

    Args:
        x: Inputs of the tile, from `converted_input`.
        weight: Normalised weights.
        magnitude: |weight|; None leaves the IR drop out.
        positioned: `weight` times `TileGrid.row_position`; None leaves the IR drop out.
        rows: Number of inputs of the tile.
        spec: The crossbar, `preset.crossbar`.
        contract: The product, `(inputs, weights) -> outputs`.
        ir_drop: False leaves the IR drop out.

    Returns:
        Currents in units of the outputs, in the shape that `contract` returns.

    Source: rasch2023 SI Table 1.
    """
    y = contract(x, weight)
    if spec.ir_drop == 0.0 or not ir_drop or magnitude is None or positioned is None:
        return y
    return y - ir_loss(contract(x.abs(), magnitude), contract(x, positioned), rows, spec)


def noise_sd(
    x: Tensor, magnitude: Tensor | None, spec: CrossbarSpec, contract: Contract
) -> Tensor | float:
    """Return the standard deviation of an output.

    It is sqrt(w_noise^2 sum |w| x^2 + out_noise^2). The first part is the short-term read noise
    (PCM_READ), the second the output noise. Both are Gaussian and new in every product, so that one
    draw with the joint standard deviation is enough.

    Args:
        x: Inputs of the tile, from `converted_input`.
        magnitude: |weight|, normalised; None leaves the read noise out.
        spec: The crossbar, `preset.crossbar`.
        contract: The product, `(inputs, weights) -> outputs`.

    Returns:
        Standard deviations in units of the outputs, in the shape that `contract` returns; one
        number if there is no read noise.

    Source: rasch2023 SI Table 1.
    """
    if spec.w_noise == 0.0 or magnitude is None:
        return spec.out_noise
    variance = contract(x * x, magnitude).mul_(spec.w_noise**2)
    return variance.clamp_min_(0.0).add_(spec.out_noise**2).sqrt_()


def converted_output(y: Tensor, spec: CrossbarSpec) -> Tensor:
    """Return what the ADC makes of a current: clamped to +-out_bound, on its grid.

    Args:
        y: Currents in units of the outputs, any shape.
        spec: The crossbar, `preset.crossbar`. Without `adc_bits` the currents come back as they
            are.

    Returns:
        Outputs of the tile, in the shape of `y`.

    Not modelled: the S-shaped ADC of the paper's sensitivity study.

    Source: rasch2023 SI Table 1.
    """
    return quantised(y, spec.adc_bits, spec.out_bound)


def identity_readout(
    weight: Tensor, position: Tensor, row_count: Tensor, spec: CrossbarSpec, eps: Tensor
) -> Tensor:
    """Return the outputs of the tiles for the identity matrix as inputs.

    There is one product per row. With one row on, row j of the outputs is column j of the weights.
    The whole readout is therefore elementwise, and each element has the noise, the IR drop and the
    ADC of its own product.

    Args:
        weight: Normalised weights, shape (*chips, out, in).
        position: `TileGrid.row_position`, shape (in,).
        row_count: `TileGrid.row_count`, shape (in,).
        spec: The crossbar, `preset.crossbar`.
        eps: Standard normal noise, shape (*chips, out, in).

    Returns:
        Outputs, shape (*chips, out, in).

    Not modelled: the DAC, which leaves an input of 1 as it is.

    Source: aihwkit GlobalDriftCompensation.
    """
    y = weight
    if spec.ir_drop > 0.0:
        factor = _ir_factor(weight.abs() * (row_count / spec.ir_drop_g_ratio))
        y = weight - factor * weight * position * spec.ir_drop
    if spec.w_noise > 0.0 or spec.out_noise > 0.0:
        sd = weight.abs().mul_(spec.w_noise**2).add_(spec.out_noise**2).sqrt_()
        y = y + sd.mul_(eps)
    return converted_output(y, spec)
