"""One analog matrix-vector product on a tile.

The steps are in the order of rasch2023 SI Table 1.

Everything is in the units of the tile: inputs in [-1, 1], normalised weights, and outputs in units
of one fully-on input on one fully-on weight. A `contract` stands for the product itself,
`(inputs, weights) -> outputs`: a matrix product or a convolution.

`converted_input`, `ir_loss`, `current` and `noise_sd` are the reference that the tests run. The
native engine computes the same in other terms, to save passes over memory (see
`engines.native.forward`). Chips use `identity_readout` and `converted_output`.

The optional effects of the periphery (`CrossbarSpec.line_effects`) act in this order: DAC and
`asymmetric` inputs; per pass of inputs the product, IR drop, `with_voltage_offset` and read noise;
then `compressed`, `asymmetric` outputs, output noise and ADC. The native engine runs `on_line` and
`at_adc` as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from aimc_bridge.physics.mapping import TileGrid, quantised
from aimc_bridge.physics.variation import Variation, nonlinearity, slope
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
    return ir_factor(summed * (rows / spec.ir_drop_g_ratio)).mul_(weighted).mul_(spec.ir_drop)


def ir_factor(a: Tensor) -> Tensor:
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


def asymmetric(values: Tensor, share: float | Tensor) -> Tensor:
    """Return values of which the negative ones are smaller: (1 - share) times themselves.

    Args:
        values: Inputs behind the DAC (`inp_asymmetry`), or currents in front of the ADC
            (`out_asymmetry`).
        share: The share.

    Source: aihwkit `inp_asymmetry`, `out_asymmetry`.
    """
    return torch.where(values < 0, values * (1.0 - share), values)


def with_voltage_offset(
    y: Tensor,
    total: Tensor | None,
    v_offset: Tensor | float,
    r_series: Tensor | float,
    w_min: Tensor | float,
) -> Tensor:
    """Return currents of output lines with series resistance and voltage offset.

    An output is the difference of two currents: that of its devices, y + r, at a read voltage of
    1 - v, and that of the reference, r = -w_min sum_j x_j, at a read voltage of 1 + v. Each current
    c becomes c / (1 + r_series |c|).

    Args:
        y: The currents, in units of the outputs.
        total: sum_j x_j, broadcastable to `y`; None if there is no reference (w_min = 0).
        v_offset: v, broadcastable to `y`.
        r_series: The series resistance, per unit of the outputs.
        w_min: Weight of the reference, `v_offset_w_min`.

    Returns:
        Currents in the same units, in the shape of `y`.

    Source: aihwkit `v_offset_std`, `v_offset_w_min`, `r_series`.
    """
    if total is None:
        return (1.0 - v_offset) * y / (1.0 + r_series * y.abs())
    reference = -w_min * total
    own = y + reference
    return (1.0 - v_offset) * own / (1.0 + r_series * own.abs()) - (1.0 + v_offset) * reference / (
        1.0 + r_series * reference.abs()
    )


def compressed(y: Tensor, n: Tensor | float, slope: Tensor | float) -> Tensor:
    """Return currents behind the S-shaped nonlinearity, slope y / (1 + n |y|).

    Args:
        y: The currents, in units of the outputs.
        n: Strength of the nonlinearity, `variation.nonlinearity`.
        slope: The factor of its calibration, `variation.slope`.

    Source: aihwkit `out_nonlinearity`, `slope_calibration`.
    """
    return slope * y / (1.0 + n * y.abs())


class LineEffects(NamedTuple):
    """The optional effects of the periphery on outputs; None in place of one that is off.

    What varies from output to output is broadcastable to the outputs.

    Attributes:
        v_offset: Voltage offset.
        r_series: Series resistance; None if there are neither offsets nor a resistance.
        w_min: Weight of the reference.
        n: Strength of the nonlinearity; None if there is neither that nor a calibration.
        slope: Factor of its calibration.
        out_asymmetry: Share by which negative outputs are smaller.
        out_noise: Standard deviation of the output noise.
    """

    v_offset: Tensor | float
    r_series: Tensor | float | None
    w_min: Tensor | float
    n: Tensor | float | None
    slope: Tensor | float
    out_asymmetry: Tensor | float | None
    out_noise: Tensor | float | None

    def each(self, change: Callable[[Tensor], Tensor]) -> LineEffects:
        """Return the same effects with a function applied to all that varies.

        Args:
            change: The function.
        """
        varying = {k: v for k, v in self._asdict().items() if isinstance(v, Tensor)}
        return self._replace(**{name: change(value) for name, value in varying.items()})


def on_line(
    y: Tensor,
    loss: Tensor | None,
    total: Tensor | None,
    read_noise: Tensor | None,
    effects: LineEffects,
) -> Tensor:
    """Return the current that one pass of inputs sends down the output lines.

    Args:
        y: The product, in units of the outputs.
        loss: The IR drop, `ir_loss`; None without it.
        total: sum_j x_j, as `with_voltage_offset` takes it.
        read_noise: The short-term read noise, which does not depend on the line; None without it.
        effects: The effects.
    """
    if loss is not None:
        y = y - loss
    if effects.r_series is not None:
        y = with_voltage_offset(y, total, effects.v_offset, effects.r_series, effects.w_min)
    return y if read_noise is None else y + read_noise


def at_adc(y: Tensor, eps: Tensor | None, effects: LineEffects) -> Tensor:
    """Return what reaches the ADC: nonlinearity, asymmetry, and at last the output noise.

    Args:
        y: The current, from `on_line`, or the sum of two passes.
        eps: Standard normal noise in the shape of `y`; None without output noise.
        effects: The effects.
    """
    if effects.n is not None:
        y = compressed(y, effects.n, effects.slope)
    if effects.out_asymmetry is not None:
        y = asymmetric(y, effects.out_asymmetry)
    if eps is not None and effects.out_noise is not None:
        y = y + effects.out_noise * eps
    return y


def line_effects(values: Variation, grid: TileGrid, spec: CrossbarSpec) -> LineEffects:
    """Return the effects of a chip's periphery, by output of each tile.

    Args:
        values: What the chip drew; `Variation()` without a chip.
        grid: The tiles.
        spec: The crossbar, `preset.crossbar`.

    Returns:
        The effects. What varies has the shape (row tiles, out).
    """
    offsets = spec.v_offset_std > 0 or spec.r_series > 0
    shaped = spec.out_nonlinearity > 0 or spec.r_series > 0
    noise: Tensor | float = spec.out_noise
    if values.out_noise_values is not None:
        noise = values.out_noise_values
    return LineEffects(
        v_offset=0.0 if values.v_offset is None else values.v_offset,
        r_series=spec.r_series if offsets else None,
        w_min=spec.v_offset_w_min,
        n=nonlinearity(values, spec) if shaped else None,
        slope=slope(values, grid, spec),
        out_asymmetry=spec.out_asymmetry if spec.out_asymmetry > 0 else None,
        out_noise=noise if spec.out_noise > 0 else None,
    )


def converted_output(y: Tensor, spec: CrossbarSpec) -> Tensor:
    """Return what the ADC makes of a current: clamped to +-out_bound, on its grid.

    Args:
        y: Currents in units of the outputs, any shape.
        spec: The crossbar, `preset.crossbar`. Without `adc_bits` the currents come back as they
            are.

    Returns:
        Outputs of the tile, in the shape of `y`.

    Source: rasch2023 SI Table 1.
    """
    return quantised(y, spec.adc_bits, spec.out_bound)


def identity_readout_on_lines(
    weight: Tensor,
    grid: TileGrid,
    spec: CrossbarSpec,
    values: Variation,
    eps: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    """Return `identity_readout` of a crossbar with the optional effects of the periphery.

    Args:
        weight: Normalised weights, shape (out, in).
        grid: The tiles.
        spec: The crossbar, `preset.crossbar`.
        values: What the chip drew.
        eps: Standard normal noise, each of shape (out, in): of the short-term read noise, of the
            output noise, and of the output noise of the negative inputs, if these have an ADC
            conversion of their own. They are all 0 here.

    Returns:
        Outputs, shape (out, in).

    Source: aihwkit GlobalDriftCompensation.
    """
    by_weight = line_effects(values, grid, spec).each(grid.expand_columns)
    loss, noise = None, None
    if spec.ir_drop > 0.0:
        summed = weight.abs() * (grid.row_count(weight) / spec.ir_drop_g_ratio)
        loss = ir_factor(summed) * weight * grid.row_position(weight) * spec.ir_drop
    if spec.w_noise > 0.0:
        noise = spec.w_noise * weight.abs().sqrt() * eps[0]
    total = weight.new_ones(()) if spec.v_offset_w_min != 0.0 else None
    y = on_line(weight, loss, total, noise, by_weight)
    outputs = converted_output(at_adc(y, eps[1], by_weight), spec)
    if spec.input_passes == "two_digital_sum":
        silent = torch.zeros_like(weight)
        outputs = outputs + converted_output(at_adc(silent, eps[2], by_weight), spec)
    return outputs


def identity_readout(
    weight: Tensor, position: Tensor, row_count: Tensor, spec: CrossbarSpec, eps: Tensor
) -> Tensor:
    """Return the outputs of the tiles for the identity matrix as inputs.

    There is one product per row. With one row on, row j of the outputs is column j of the weights.
    The whole readout is therefore elementwise, and each element has the noise, the IR drop and the
    ADC of its own product. A crossbar with optional effects of the periphery has
    `identity_readout_on_lines`.

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
        factor = ir_factor(weight.abs() * (row_count / spec.ir_drop_g_ratio))
        y = weight - factor * weight * position * spec.ir_drop
    if spec.w_noise > 0.0 or spec.out_noise > 0.0:
        sd = weight.abs().mul_(spec.w_noise**2).add_(spec.out_noise**2).sqrt_()
        y = y + sd.mul_(eps)
    return converted_output(y, spec)
