"""The device level: single devices and weights, drawn from `device_laws` and compared.

Each target |w| is compared by itself: single devices with that target, and weights of both signs on
tiles of their own. A weight is a pair of devices, which is either netted after programming, as
aihwkit does it, or read as two devices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from aimc_bridge.equivalence.device_laws import Laws, TileLaws
from aimc_bridge.equivalence.report import Findings, Row
from aimc_bridge.equivalence.statistics import distance_test, mean_test, sd_test, skew_test
from aimc_bridge.errors import UsageError
from aimc_bridge.spec import DeviceSpec

TARGETS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
TIMES = ("0", "1s", "1h", "1d", "30d", "1y", "10y")
SAMPLES = 1_000_000
MEAN_OF_G_MAX, MEAN_RELATIVE, SD_RELATIVE, DISTANCE = 5e-4, 0.01, 0.02, 0.01
# The margin of the skewness is the largest of three: a number, a share of the skewness, and a share
# of the kurtosis, for long tails.
SKEW, SKEW_RELATIVE, SKEW_OF_KURTOSIS = 0.05, 0.1, 0.02
MARGINS = {"mean": MEAN_RELATIVE, "sd": SD_RELATIVE}
"""The margins that a caller may set, as shares."""
ANEW = 0.02  # margin of "exponent drawn anew", a share of the variance of what devices lost

# A tile of weights has columns of one target, and some of 1, which decide the tile's scale. There
# are many tiles of a realistic size: the scale is taken from the largest programmed weight, which
# differs between tiles.
_WIDTH, _ONES = 4096, 64

Key = tuple[str, str, float]
"""Cell, quantity, and seconds after programming (NaN if no time applies)."""
Samples = dict[Key, Tensor]
"""One value per device or weight, by key."""


def signed_targets(x: float) -> list[float]:
    """Return the weights that devices with the target `x` hold: both signs, or 0 alone."""
    return [x, -x] if x > 0 else [x]


def more_samples(x: float, samples: int) -> int:
    """Return twice the samples for a target of 0, whose distributions have long tails."""
    return 2 * samples if x == 0 else samples


def check(targets: Sequence[float], samples: int) -> None:
    """Check the targets and the number of samples.

    Raises:
        UsageError: If a target lies outside [0, 1], or if there are fewer than 4 samples.
    """
    if samples < 4 or not all(0.0 <= x <= 1.0 for x in targets):
        raise UsageError(f"samples={samples}, targets={targets}; allowed: >= 4, within [0, 1]")


def devices(
    laws: Laws,
    x: float,
    times: Sequence[float],
    samples: int,
    g_max_us: float,
    readings: bool = False,
) -> Samples:
    """Draw single devices with one target.

    Args:
        laws: The laws.
        x: The target over g_max.
        times: Seconds after programming, ascending.
        samples: The number of devices.
        g_max_us: The conductance of a weight of 1, in microsiemens.
        readings: Whether one of the two sides knows no more than readings.

    Returns:
        Conductances as programmed, drifted and read, in units of g_max; exponents; and the changes
        between times. Without exponents and drifted conductances if `readings`.
    """
    target = torch.full((samples,), x * g_max_us)
    cell = f"g/g_max = {x:g}"
    drawn: Samples = {}
    with laws.drawing(), torch.no_grad():
        g_prog = laws.programmed(target)
        nu = laws.exponent(target)
        drawn[cell, "programmed", math.nan] = g_prog / g_max_us
        if not readings:
            drawn[cell, "exponent", math.nan] = nu
            for t in times:
                drawn[cell, "drifted", t] = laws.drifted(g_prog, nu, t) / g_max_us
        for t in times:
            drawn[cell, "read", t] = laws.read(g_prog, nu, t) / g_max_us
    if readings:
        _add_changes(drawn, "read", times)
        return drawn
    _add_changes(drawn, "drifted", times)
    _add_anew(drawn, cell, times)
    return drawn


def weights(
    laws: TileLaws, signed: Sequence[float], times: Sequence[float], samples: int, kind: str = ""
) -> Samples:
    """Draw weights on tiles whose largest weight is 1.

    Args:
        laws: The laws.
        signed: The target weights.
        times: Seconds after programming, ascending.
        samples: Weights per target.
        kind: What is added to the names of the quantities.

    Returns:
        Weights as programmed and as read, and the changes between times.
    """
    weight = torch.tensor(list(signed)).unsqueeze(1).expand(-1, _WIDTH + _ONES).clone()
    weight[:, :_ONES] = 1.0
    count = -(-samples // _WIDTH)
    pieces: dict[tuple[str, float], list[Tensor]] = {}
    with laws.drawing(), torch.no_grad():
        for held, later in laws.tiles(weight, count, times):
            readings = [] if held is None else [(f"programmed weight{kind}", math.nan, held)]
            readings += [
                (f"read weight{kind}", t, now) for t, now in zip(times, later, strict=True)
            ]
            for quantity, t, values in readings:
                rows = values[..., _ONES:].transpose(-1, -2).reshape(-1, len(signed))
                pieces.setdefault((quantity, t), []).append(rows.float())
    drawn: Samples = {}
    for (quantity, t), collected in pieces.items():
        joined = torch.cat(collected)[:samples]
        for index, x in enumerate(signed):
            drawn[f"w = {x:g}", quantity, t] = joined[:, index].contiguous()
    _add_changes(drawn, f"read weight{kind}", times)
    return drawn


def kind_of(pcm: DeviceSpec) -> str:
    """Return what the names of quantities say of weights whose devices are read one by one."""
    return " of two devices" if pcm.pairs == 1 and not pcm.referenced else " of all devices"


def _parts(x: float, pcm: DeviceSpec) -> tuple[list[tuple[float, float]], float]:
    """Return the devices of a weight as (factor, target in uS), and what is added to their sum."""
    unit_us = x * pcm.full_scale_us
    if pcm.referenced:
        middle = (pcm.g_max_us + pcm.values().get("g_min_us", 0.0)) / 2
        if pcm.reference == "column":
            return [(1.0, middle + unit_us), (-1.0, middle)], 0.0
        return [(1.0, middle + unit_us)], -middle
    parts, left = [], abs(unit_us)
    for factor in pcm.factors:
        target = min(left / factor, pcm.g_max_us)
        left -= factor * target
        ends = (target, 0.0) if x > 0 else (0.0, target)
        parts += [(factor, ends[0]), (-factor, ends[1])]
    return parts, 0.0


def pairs(
    laws: Laws, signed: Sequence[float], times: Sequence[float], samples: int, pcm: DeviceSpec
) -> Samples:
    """Draw weights whose devices are read one by one, such as the two of a pair.

    Args:
        laws: The laws.
        signed: The target weights.
        times: Seconds after programming, ascending.
        samples: Weights per target.
        pcm: The device, which says how a weight lies on devices.

    Returns:
        Weights as programmed and as read, and the changes between times.
    """
    drawn: Samples = {}
    kind, unit = kind_of(pcm), pcm.full_scale_us
    with laws.drawing(), torch.no_grad():
        for x in signed:
            cell = f"w = {x:g}"
            parts, offset = _parts(x, pcm)
            devices = []
            for factor, target in parts:
                wanted = torch.full((samples,), target)
                devices.append((factor, laws.programmed(wanted), laws.exponent(wanted)))
            total = offset + sum((factor * g for factor, g, _ in devices), torch.zeros(1))
            drawn[cell, f"programmed weight{kind}", math.nan] = total / unit
            for t in times:
                now = (factor * laws.read(g, nu, t) for factor, g, nu in devices)
                total = offset + sum(now, torch.zeros(1))
                drawn[cell, f"read weight{kind}", t] = total / unit
    _add_changes(drawn, f"read weight{kind}", times)
    return drawn


def _add_changes(drawn: Samples, quantity: str, times: Sequence[float]) -> None:
    """Add what each device lost since the time before.

    A device keeps its exponent for good. No distribution at one time alone shows that.
    """
    for cell in dict.fromkeys(key[0] for key in drawn):
        for before, t in zip(times, times[1:], strict=False):
            change = drawn[cell, quantity, t] - drawn[cell, quantity, before]
            drawn[cell, f"{quantity} change", t] = change


def _add_anew(drawn: Samples, cell: str, times: Sequence[float]) -> None:
    """Add how far the loss of each device strays from its loss at the time before.

    On a logarithmic scale and squared, over the variance of the loss, its mean is 0 if the device
    keeps its exponent and 2 if the exponent is drawn again, whatever the two times are.
    """
    start = drawn[cell, "programmed", math.nan].double()
    alive = start > 0.01
    loss = {}
    for t in times:
        now = drawn[cell, "drifted", t].double()
        alive = alive & (now > 0)
        loss[t] = now
    if int(alive.sum()) < 4:
        return
    for before, t in zip(times, times[1:], strict=False):
        first, second = (-(loss[when] / start)[alive].log() for when in (before, t))
        if float(first.mean()) < 1e-6 or float(second.std()) < 1e-4 * float(second.mean()):
            continue  # nothing has drifted yet, or all devices have one exponent
        stray = second - first * (second.mean() / first.mean())
        drawn[cell, "exponent drawn anew", t] = stray.square() / second.var()


def compare(
    findings: Findings,
    first: Samples,
    second: Samples,
    reference: str,
    shapes: bool = True,
    margins: Mapping[str, float] = MARGINS,
) -> None:
    """Compare every cell that both sides have.

    Args:
        findings: Where the rows are added: mean, standard deviation, skewness and distribution.
        first: Samples of the first side.
        second: Samples of the second side.
        reference: What the second side is.
        shapes: Whether skewness and distribution are compared too, beside mean and standard
            deviation.
        margins: Those of means and of standard deviations, as shares.
    """
    for key in first:
        if key not in second:  # one side has one exponent for all devices: it was never drawn
            continue
        cell, quantity, t_s = key
        a, b = (side[key].numpy() for side in (first, second))
        wide_a, wide_b = (values.astype(np.float64) for values in (a, b))

        def add(what: str, test: Any, of: Key = key) -> None:
            findings.rows.append(
                Row("device", of[0], " ".join(filter(None, [of[1], what])), of[2], test, reference)
            )

        if quantity == "exponent drawn anew":
            add("", mean_test(wide_a, wide_b, ANEW))
            continue
        floor = 1e-12 if quantity == "exponent" else MEAN_OF_G_MAX
        margin = max(floor, margins["mean"] * abs(float(wide_b.mean())))
        add("mean", mean_test(wide_a, wide_b, margin))
        add("sd", sd_test(wide_a, wide_b, margins["sd"]))
        if (
            not shapes
            or quantity.endswith("change")
            or (wide_a.std() < 1e-6 and wide_b.std() < 1e-6)
        ):
            continue  # the shapes of a change are those of its two times; a constant has none
        add("skew", skew_test(wide_a, wide_b, _skew_margin(wide_b)))
        add("distribution", distance_test(a, b, DISTANCE))
        _add_quantiles(findings, cell, quantity, t_s, wide_a, wide_b)


def _skew_margin(values: Any) -> float:
    """Return the margin of the skewness of a sample."""
    if values.std() < 1e-6:
        return SKEW
    return max(
        SKEW,
        SKEW_RELATIVE * abs(float(stats.skew(values))),
        SKEW_OF_KURTOSIS * float(stats.kurtosis(values, fisher=False)),
    )


_SHARES = (0.001, 0.005, 0.01, *(i / 20 for i in range(1, 20)), 0.99, 0.995, 0.999)


def _add_quantiles(
    findings: Findings, cell: str, quantity: str, t_s: float, a: Any, b: Any
) -> None:
    """Add quantiles for the figure: of single devices, and of weights as read."""
    if quantity not in ("programmed", "exponent", "read", "read weight"):
        return
    for share, x, y in zip(_SHARES, np.quantile(a, _SHARES), np.quantile(b, _SHARES), strict=True):
        findings.quantiles.append([cell, quantity, t_s, share, float(x), float(y)])
