"""Device level: our laws against aihwkit's noise model of the same preset."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from aimc_bridge.equivalence.report import Cell, Report
from aimc_bridge.equivalence.statistics import Test, distance_test, mean_test, sd_test
from aimc_bridge.errors import UsageError
from aimc_bridge.physics import cells as cell_law
from aimc_bridge.physics.drift import drift_exponent, drifted
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.physics.programming import programmed
from aimc_bridge.physics.read import read
from aimc_bridge.rng import normal, stream
from aimc_bridge.spec import Preset, StatisticalSpec
from aimc_bridge.times import seconds

TARGETS = (0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0)
TIMES = ("0", "1s", "1h", "1d", "30d", "1y", "10y")
MEAN_OF_G_MAX, MEAN_RELATIVE, SD_RELATIVE, DISTANCE = 5e-4, 0.01, 0.02, 0.01

Samples = dict[Cell, Tensor]


def device_level(
    preset: Preset,
    times: Sequence[str | float] = TIMES,
    targets: Sequence[float] = TARGETS,
    samples: int = 200_000,
    seed: int = 0,
    progress: Callable[[str], None] = lambda text: None,
) -> Report:
    """Programmed, exponent, drifted and read conductance of single devices, and the weight as read
    (both signs, a pair as the preset nets it), native against aihwkit.

    Args:    targets  conductances over g_max.    samples  devices a cell.    progress  called with
             a line of text.
    Returns: Report; means in units of g_max (exponents as they are).
    Raises:  UsageError; VersionError without a working aihwkit.
    """
    if samples < 4 or not all(0.0 <= x <= 1.0 for x in targets):
        raise UsageError(f"samples={samples}, targets={targets}; allowed: >= 4, within [0, 1]")
    at = [seconds(t) for t in times]
    progress(f"{preset.name}: native, {samples} samples a cell")
    ours = native(preset, at, targets, samples, seed)
    progress(f"{preset.name}: aihwkit")
    theirs = aihwkit(preset, at, targets, samples, seed)
    progress(f"{preset.name}: comparing")
    for side in (ours, theirs):
        _add_changes(side, sorted(at))
    found: list[tuple[Cell, Test]] = []
    for key, values in ours.items():
        a, b = (x.double().numpy() for x in (values, theirs[key]))
        cell, quantity, t_s = key
        floor = 1e-12 if quantity == "exponent" else MEAN_OF_G_MAX
        margin = max(floor, MEAN_RELATIVE * abs(float(b.mean())))
        found.append(((cell, f"{quantity} mean", t_s), mean_test(a, b, margin)))
        found.append(((cell, f"{quantity} sd", t_s), sd_test(a, b, SD_RELATIVE)))
        if not (a.std() < 1e-6 and b.std() < 1e-6):  # a constant has no distribution to compare
            test = distance_test(a, b, DISTANCE)
            found.append(((cell, f"{quantity} distribution", t_s), test))
    return Report.of("device", found)


def _add_changes(found: Samples, times: Sequence[float]) -> None:
    """What each device lost since the time before: an exponent belongs to a device, for good, and
    no distribution at one time alone shows that."""
    for cell, quantity, t in list(found):
        if quantity in ("drifted", "read weight") and t > times[0]:
            before = times[times.index(t) - 1]
            change = found[cell, quantity, t] - found[cell, quantity, before]
            found[cell, f"{quantity} change", t] = change


def _signed(targets: Sequence[float]) -> list[float]:
    return [*targets, *(-x for x in targets if x > 0)]


def _matrix(signed: Sequence[float], samples: int) -> Tensor:
    """A row a target, and a first column of ones: the tile's largest weight is 1 for all."""
    weight = torch.tensor(signed).unsqueeze(1).expand(-1, samples + 1).clone()
    weight[:, 0] = 1.0
    return weight


def native(
    preset: Preset, times: Sequence[float], targets: Sequence[float], samples: int, seed: int
) -> Samples:
    """Samples of our laws, by cell."""
    pcm = preset.pcm
    draws = stream(seed, "crosscheck", "native")
    found: Samples = {}
    for x in targets:
        target = torch.full((samples,), x * pcm.g_max_us)
        g_prog = programmed(target, pcm, normal((samples,), draws))
        nu = drift_exponent(target, pcm, normal((samples,), draws))
        cell = f"g/g_max = {x:g}"
        found[cell, "programmed", math.nan] = g_prog / pcm.g_max_us
        found[cell, "exponent", math.nan] = nu
        for t in times:
            now = drifted(g_prog, nu, t, pcm)
            found[cell, "drifted", t] = now / pcm.g_max_us
            final = read(now, g_prog, t, pcm, normal((samples,), draws))
            found[cell, "read", t] = final / pcm.g_max_us
    signed = _signed(targets)
    weight = _matrix(signed, samples)
    grid = TileGrid((weight.shape[1],), (weight.shape[0],))
    shapes = cell_law.noise_shapes(grid, pcm)
    eps = [normal(shape, draws) for shape in shapes]
    cells = cell_law.program_cells(weight, grid, pcm, eps[0], eps[1])
    _keep(found, signed, "programmed weight", math.nan, cell_law.held_weight(cells, grid))
    for t in times:
        noise = normal(tuple(cells.conductance_us.shape), draws)
        _keep(found, signed, "read weight", t, cell_law.read_cells(cells, grid, pcm, t, noise))
    return found


def _keep(found: Samples, signed: Sequence[float], quantity: str, t: float, weight: Tensor) -> None:
    for x, row in zip(signed, weight, strict=True):
        found[f"w = {x:g}", quantity, t] = row[1:].clone()


def aihwkit(
    preset: Preset, times: Sequence[float], targets: Sequence[float], samples: int, seed: int
) -> Samples:
    """Samples of the noise model that aihwkit runs for this preset, by cell."""
    from aimc_bridge.reference.noise import drawing

    g_max = preset.pcm.g_max_us
    model = preset.rpu_config().noise_model
    quiet = model
    if isinstance(preset.pcm, StatisticalSpec):
        change = preset.change(why="drift alone", read_noise_scale=0.0)
        quiet = change.rpu_config().noise_model
    found: Samples = {}
    with drawing(seed, "crosscheck", "aihwkit"), torch.no_grad():
        for x in targets:
            target = torch.full((samples,), x * g_max)
            g_prog = model.apply_programming_noise_to_conductance(target)
            nu = model.generate_drift_coefficients(target)
            cell = f"g/g_max = {x:g}"
            found[cell, "programmed", math.nan] = g_prog / g_max
            found[cell, "exponent", math.nan] = nu
            for t in times:
                for name, law in (("drifted", quiet), ("read", model)):
                    now = law.apply_drift_noise_to_conductance(g_prog, nu, t)
                    found[cell, name, t] = now / g_max
        signed = _signed(targets)
        weight, state = model.apply_programming_noise(_matrix(signed, samples))
        _keep(found, signed, "programmed weight", math.nan, weight)
        for t in times:
            now = model.apply_drift_noise(weight, state, t)
            _keep(found, signed, "read weight", t, now)
    return found
