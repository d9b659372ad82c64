"""The layer level: outputs and compensation factors of single layers on real inputs.

The sampling unit is the chip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from aimc_bridge.equivalence import closed
from aimc_bridge.equivalence.capture import Layer
from aimc_bridge.equivalence.measuring import ChipStatistics, Sampling
from aimc_bridge.equivalence.report import Findings, Row
from aimc_bridge.equivalence.statistics import (
    Test,
    Values,
    exact_test,
    mean_test,
    spread_test,
    vector_test,
)
from aimc_bridge.rng import derive
from aimc_bridge.spec import Preset

TIMES = ("1s", "1d", "1y")

# Margins. They are stated here, and printed beside every result.
ALPHA_MEAN, ALPHA_BIAS = 0.003, 0.003  # shares of alpha
ALPHA_SD = 0.5  # a share of its spread between chips, which is itself below 1 % of alpha
ERROR = 0.02  # a share of the relative L2 error
FLOAT = 1e-6  # the least margin of that error: a product without error has float32's rounding left
GAIN = 0.01  # a share of the slope of the outputs on the exact ones
OUTPUT_MEAN = 0.1  # standard deviations of an output over chips, root mean square over outputs
OUTPUT_SD = 0.05  # a share of the spread over chips, of all outputs together
READ_SD = 0.02  # a share of the spread over reads of one chip, of all outputs together
# What one chip contributes to the variance of an output has a standard deviation: the margin is a
# tenth of it, which is 10 % to 14 % of the variance.
BY_OUTPUT = 0.1
SHARED = 0.05  # correlation of the noise of two products of one call

MEASURED = ("global", "global_exact_reference", "per_column")
"""Kinds of compensation whose factors a readout measures."""
KNOWN = ("oracle", "none")
"""Kinds of compensation whose factors have no chance in them."""


def compare_outputs(
    findings: Findings,
    layer: Layer,
    times: Sequence[float],
    first: ChipStatistics,
    second: ChipStatistics,
    *,
    noise: bool,
    reference: str = "aihwkit",
) -> None:
    """Compare the outputs of two sides at every time.

    Args:
        findings: Where the rows are added.
        layer: The layer.
        times: Seconds after programming, those of the statistics.
        first: Chips of the first side.
        second: Chips of the second side.
        noise: Whether two products of one chip differ, on both sides; if so, the noise is compared.
        reference: What the second side is.
    """
    for index, t_s in enumerate(times):

        def add(quantity: str, test: Test, when: float = t_s) -> None:
            findings.rows.append(Row("layer", layer.name, quantity, when, test, reference))

        def both(name: str, at: int = index) -> tuple[Values, Values]:
            return first.column(name, at), second.column(name, at)

        a, b = both("gain")
        add("gain mean", mean_test(a, b, _of(b, GAIN)))
        a, b = both("error")
        add("MVM error", mean_test(a, b, _of(b, ERROR, least=FLOAT)))
        a, b = both("mean")
        add("output mean", vector_test(a, b, OUTPUT_MEAN))
        a, b = _deviations(a), _deviations(b)
        add("output sd", spread_test(a.mean(1), b.mean(1), OUTPUT_SD))
        add("output variance by output", vector_test(*_relative(a, b), BY_OUTPUT))
        if noise:
            a, b = both("read")
            add("read sd", mean_test(a, b, _of(b, READ_SD)))
            a, b = both("read_variance")
            add("read variance by output", vector_test(*_relative(a, b), BY_OUTPUT))
            a, b = both("shared")
            add("read noise shared by products", mean_test(a, b, SHARED))


def _of(values: Values, share: float, least: float = 1e-9) -> float:
    """Return a margin that is a share of the mean, and at least `least`."""
    return max(share * abs(float(values.mean())), least)


def _deviations(values: Values) -> Values:
    """Return what each chip contributes to the variance of each output.

    Their mean is the variance. An output whose variance is rounding alone gets 0.
    """
    n, mean = len(values), values.mean(0)
    squares: Values = (values - mean) ** 2 * (n / (n - 1))
    squares[:, squares.mean(0) < 1e-12 * mean**2] = 0.0
    return squares


def _relative(first: Values, second: Values) -> tuple[Values, Values]:
    """Return variances over the mean of both sides, output by output.

    Outputs without variance are left out.
    """
    scale = (first.mean(0) + second.mean(0)) / 2
    heard = scale > 1e-6 * scale.max() if scale.max() > 0 else scale > 0
    if not heard.any():
        return first, second
    return first[:, heard] / scale[heard], second[:, heard] / scale[heard]


def compare_alpha(
    findings: Findings,
    layer: Layer,
    times: Sequence[float],
    first: ChipStatistics,
    second: ChipStatistics,
    kind: str,
) -> None:
    """Compare compensation factors that a readout measured.

    Args:
        findings: Where the rows are added: the mean of each tile, the spread between chips, and the
            bias against the true ratio.
        layer: The layer.
        times: Seconds after programming.
        first: Chips of the first side.
        second: Chips of the second side.
        kind: The kind of compensation, one of `MEASURED`.
    """
    if kind not in MEASURED:
        return
    for index, t_s in enumerate(times):
        a, b = first.column("alpha", index), second.column("alpha", index)
        name = f"alpha {kind}"
        if a.shape[1] != b.shape[1]:  # tiles of two presets: take their mean
            a, b = a.mean(1, keepdims=True), b.mean(1, keepdims=True)
        for tile in range(a.shape[1]):
            cell = layer.name if a.shape[1] == 1 else f"{layer.name}, tile {tile}"
            test = mean_test(a[:, tile], b[:, tile], _of(b[:, tile], ALPHA_MEAN))
            findings.rows.append(Row("layer", cell, f"{name} mean", t_s, test))
        squares = [_deviations(x).mean(1) for x in (a, b)]
        test = spread_test(squares[0], squares[1], ALPHA_SD)
        findings.rows.append(Row("layer", layer.name, f"{name} sd", t_s, test))
        a, b = (side.column("bias", index).mean(1) for side in (first, second))
        test = mean_test(a, b, ALPHA_BIAS)
        findings.rows.append(Row("layer", layer.name, f"{name} bias", t_s, test))


def compare_known_alpha(
    findings: Findings, layer: Layer, preset: Preset, sampling: Sampling, kind: str
) -> None:
    """Compare compensation factors that have no chance in them with their formula.

    Args:
        findings: Where the rows are added, one per time, of the tile that is furthest off.
        layer: The layer.
        preset: The preset.
        sampling: Times and seed.
        kind: The kind of compensation, one of `KNOWN`: "oracle", or "none", whose factor is 1.
    """
    changed = preset.change(why="cross-check", drift_compensation=kind)
    native = sampling.layer_on(layer, changed)
    native.chip(derive(sampling.seed, "crosscheck", kind))
    matrix = native.matrix()
    weight = matrix.normalised_weight().double().cpu().numpy()
    tiles = [
        weight[columns, rows]
        for rows in matrix.grid.row_slices()
        for columns in matrix.grid.column_slices()
    ]
    for t_s in sampling.times:
        native.at(t_s)
        alpha = native.alpha().double().numpy()
        expected = np.ones(len(tiles))
        if kind == "oracle":
            expected = closed.oracle(tiles, preset.pcm, t_s)
        worst = int(np.argmax(np.abs(alpha - expected)))
        first, second = float(alpha[worst]), float(expected[worst])
        test = exact_test(first, second, ALPHA_MEAN * second)
        findings.rows.append(
            Row("layer", layer.name, f"alpha {kind} mean", t_s, test, reference="closed form")
        )
