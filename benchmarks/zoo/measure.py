"""The steps for an entry of the zoo: convert, measure, compare, train, program, drift."""

from __future__ import annotations

import contextlib
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from aimc_bridge import HWATraining, calibrate, convert, coverage, drift, program, restore, train
from aimc_bridge.calibration import run_batch
from aimc_bridge.converted import matrices_of
from aimc_bridge.errors import AimcError, ConversionError
from benchmarks.zoo.entry import Entry, Measured, random
from presets import ideal, rasch2023

if TYPE_CHECKING:
    import pandas as pd


class ZooError(AimcError):
    """An architecture does not do what its entry says."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what libraries say about small or random models; ours stays an error in tests."""
    with warnings.catch_warnings():
        for package in ("timm", "torchvision", "transformers", "torch"):
            warnings.filterwarnings("ignore", module=rf"{package}(\.|$)")
        logger = logging.getLogger("transformers")
        level = logger.level
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


@torch.no_grad()
def built(entry: Entry) -> nn.Module:
    """Return the digital model of an entry, in eval mode.

    Many architectures start with zeros: biases, gates of residual branches, class tokens. They get
    random values here, so that a part of the model that goes missing changes the outputs.

    Args:
        entry: The entry.
    """
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(0)
        model = entry.build().eval()
        for module in model.modules():
            for key, value in (*module.named_parameters(recurse=False), *_running(module)):
                if value.is_floating_point() and bool((value == value.flatten()[:1]).all()):
                    noise = 0.1 * torch.randn_like(value)
                    value += noise.abs() if "var" in key else noise
    return model


def _running(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the statistics of a batch normalisation."""
    for name, buffer in module.named_buffers(recurse=False):
        if name in ("running_mean", "running_var"):
            yield name, buffer


def floats(outputs: Any) -> list[Tensor]:
    """Return all floating-point tensors in what a model returns, without its caches.

    Args:
        outputs: A tensor, or nested tuples, lists and mappings.
    """
    if isinstance(outputs, Tensor):
        return [outputs] if outputs.is_floating_point() else []
    if isinstance(outputs, Mapping):
        outputs = list(outputs.values())
    if isinstance(outputs, list | tuple):
        return [tensor for part in outputs for tensor in floats(part)]
    return []


def outputs_of(model: nn.Module, batch: Any) -> list[Tensor]:
    """Return the outputs of one pass without gradients; its random numbers are always the same.

    Args:
        model: A digital or converted model.
        batch: One batch.
    """
    with quiet(), torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        outputs = floats(run_batch(model, batch, torch.device("cpu")))
    if not outputs:
        raise ZooError(f"{type(model).__name__} gives no floating-point outputs")
    return outputs


def measured(entry: Entry, engine: str = "native") -> Measured | None:
    """Take an entry through everything that the zoo promises.

    Args:
        entry: The entry.
        engine: The engine.

    Returns:
        What was measured; None for an architecture that is refused, as its entry says.

    Raises:
        ZooError: If it does not do what its entry says, at the first step that fails.
        AimcError: If a step of the library fails.
    """
    model, batch = built(entry), entry.inputs()
    with quiet():
        if entry.refused:
            _refused(entry, model, engine)
            return None
        _exact(entry, model, batch, engine)
        analog = convert(model, rasch2023, engine=engine, exclude=entry.exclude)
        table = coverage(analog, batch)
        _check_coverage(entry, table)
        trained(entry, analog, batch)
        calibrate(analog, [batch], "percentile")
        program(analog, seed=1)
        drift(analog, "1y")
        if not all(bool(o.isfinite().all()) for o in outputs_of(analog, batch)):
            raise ZooError(f"{entry.key}: outputs after one year are not finite")
        restore(analog)
    on_tiles = int(table.macs[table["where"] == "analog"].sum())
    return Measured(on_tiles / int(table.macs.sum()), int(table.tiles.sum()))


def _refused(entry: Entry, model: nn.Module, engine: str) -> None:
    """Check that `convert` refuses an architecture, and says why."""
    try:
        convert(model, ideal, engine=engine, exclude=entry.exclude)
    except ConversionError as problem:
        if re.search(entry.refused, str(problem)) is None:
            raise ZooError(f"{entry.key}: another refusal than {entry.refused!r}") from problem
        return
    raise ZooError(f"{entry.key}: converts, although its entry says that it is refused")


def _exact(entry: Entry, model: nn.Module, batch: Any, engine: str) -> None:
    """Check that the preset `ideal` gives the digital outputs."""
    expected = outputs_of(model, batch)
    actual = outputs_of(convert(model, ideal, engine=engine, exclude=entry.exclude), batch)
    for ours, theirs in zip(actual, expected, strict=True):
        scale = float(theirs.abs().max()) or 1.0
        difference = float((ours - theirs).abs().max()) / scale
        if not difference <= entry.bound:
            raise ZooError(f"{entry.key}: {difference:.1e} off under ideal, bound {entry.bound:g}")


def _check_coverage(entry: Entry, table: pd.DataFrame) -> None:
    """Check that no product is digital unless its entry excludes it, and no layer is missed."""
    unseen = [row.reason for row in digital_products(table) if "excluded" not in row.reason]
    if unseen:
        raise ZooError(f"{entry.key}: digital without being excluded: {'; '.join(unseen)}")
    missed = table.module[(table["where"] == "analog") & (table.calls == 0)]
    if len(missed):
        raise ZooError(f"{entry.key}: the pass did not reach {', '.join(missed)}")


def digital_products(table: pd.DataFrame) -> list[Any]:
    """Return the rows of a measured coverage that stand for digital products.

    Args:
        table: As `coverage(analog, inputs)` returns it.
    """
    return [r for r in table.itertuples() if r.where == "digital" and (r.calls or r.macs)]


def trained(entry: Entry, analog: nn.Module, batch: Any) -> None:
    """Train a converted model for one step, and check that it changes all its matrices.

    Weight decay is off and Adam's step does not depend on the size of a gradient, so that a matrix
    changes if and only if a gradient reaches it.

    Args:
        entry: The entry.
        analog: The converted model.
        batch: One batch.

    Raises:
        ZooError: If weights are not finite, or a matrix is still as it was.
    """
    recipe = HWATraining.for_(rasch2023, "wrn16").override(
        optimizer="adamw",
        learning_rate=1e-3,
        warmup_batches=0,
        weight_decay=0.0,
        ramp_batches=0,
        dropout=0.0,
        distill_weight=0.0,
    )
    matrices = matrices_of(analog)
    before = {name: matrix.clean_weight().clone() for name, matrix in matrices.items()}

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs = floats(run_batch(model, batch, torch.device("cpu")))
        # squares would give no gradient behind a normalisation
        parts = [(output.float() * random(*output.shape)).mean() for output in outputs]
        return torch.stack(parts).sum()

    train(analog, [batch], loss, recipe=recipe, max_batches=1, progress=False, cpu=True)
    after = {name: matrix.clean_weight() for name, matrix in matrices.items()}
    broken = [name for name, weight in after.items() if not bool(weight.isfinite().all())]
    still = [name for name, weight in after.items() if torch.equal(weight, before[name])]
    if broken or still:
        raise ZooError(
            f"{entry.key}: a training step makes {', '.join(broken) or 'no matrix'} infinite and "
            f"does not change {', '.join(still) or 'none'}"
        )
