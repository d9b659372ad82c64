"""Facts about the layers of a run: their tiles, and the compensation and error of each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from aimc_bridge.chip import drift, program
from aimc_bridge.conversion import coverage
from aimc_bridge.errors import UsageError
from aimc_bridge.rng import derive
from aimc_bridge.sealed_files import damaged, read_facts, write_facts
from benchmarks.studies.ladder.probe import Probe
from benchmarks.tasks import Task

COVERAGE = ("module", "type", "parameters", "where", "tiles", "reason", "macs")


def coverage_facts(model: nn.Module, task: Task) -> dict[str, Any]:
    """Return what of a model's work is on tiles, measured in one pass over training data.

    Args:
        model: A converted model.
        task: Its task.

    Returns:
        "columns" and "rows" of `coverage`, without layers that do no products. The multiplications
        ("macs") are those of the pass: their shares count.
    """
    (inputs,) = task.calibration_batches(1, batch_size=8)
    table = coverage(model, inputs)
    shown = table[(table["where"] == "analog") | (table["macs"] > 0)][list(COVERAGE)]
    return {"columns": list(COVERAGE), "rows": shown.astype(object).to_numpy().tolist()}


def layer_facts(
    model: nn.Module, task: Task, seed: int, times: Sequence[float]
) -> dict[str, Any] | None:
    """Return the compensation factor and the MVM error of each layer of one chip.

    Args:
        model: A converted model of the native engine, with input ranges. A copy of it is
            measured: the model and the random generators of the process stay as they are, and have
            no influence.
        task: Its task; the inputs of layers are taken from its validation data.
        seed: The seed of the chip.
        times: Seconds after programming.

    Returns:
        "seed", "times", "layers" (names), and "alpha" and "mvm_error" with a list per time that has
        a number per layer. The error is |y - exact| / |exact|. None if the data do not reach all
        layers.
    """
    sizes = task.ladder

    def run(analog: nn.Module) -> None:
        for batch in task.batches("validation", sizes.probe_samples):
            task.logits(analog, batch)

    devices = sorted({p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"})
    with torch.random.fork_rng(devices=devices):
        measured = copy.deepcopy(model)
        torch.manual_seed(derive(seed, "layers"))
        try:
            probe = Probe(measured, run, sizes.probe_inputs)
        except UsageError:  # a layer that this data does not reach
            return None
        alphas, errors = [], []
        program(measured, seed)
        for t_s in times:
            drift(measured, t_s)
            torch.manual_seed(derive(seed, "layers", float(t_s)))  # of the noise of products
            alphas.append([_rounded(float(m.alpha().mean())) for m in probe.matrices.values()])
            found = probe.errors()
            errors.append([_rounded(found[name]) for name in probe.matrices])
    return {
        "seed": seed,
        "times": list(map(float, times)),
        "layers": list(probe.matrices),
        "alpha": alphas,
        "mvm_error": errors,
    }


def kept_facts(
    path: Path, measure: Callable[[], dict[str, Any] | None], seed: int, times: Sequence[float]
) -> dict[str, Any] | None:
    """Return the facts in a file if they are of this chip and these times; else measure them.

    Args:
        path: The file; it is written if they are measured.
        measure: Measures them, as `layer_facts` does.
        seed: The seed of the chip.
        times: Seconds after programming.

    Raises:
        CheckpointError: If the file is damaged.
    """
    if path.exists():
        try:
            facts = read_facts(path)
            if (facts["seed"], facts["times"]) == (seed, list(map(float, times))):
                return dict(facts) if facts["layers"] else None
        except (ValueError, KeyError, TypeError) as error:  # a CheckpointError is a ValueError
            raise damaged(path, error, "delete it to measure the layers again") from None
    found = measure()
    nothing = {"seed": seed, "times": list(map(float, times)), "layers": []}
    write_facts(path, found or nothing)
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")
