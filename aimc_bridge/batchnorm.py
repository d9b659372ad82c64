"""Batch-norm statistics re-estimated on a chip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimc_bridge.calibration import run_batch
from aimc_bridge.errors import CalibrationError, UsageError


class _Moments:
    """Sums over all batches of the inputs of one normalisation, channel by channel."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].detach().double()
        x = x.transpose(0, 1).flatten(1) if x.ndim > 2 else x.T
        both = torch.stack([x.sum(1), x.square().sum(1)])
        self.sums = both if self.sums is None else self.sums + both
        self.count += x.shape[1]

    def put(self, norm: _BatchNorm) -> None:
        """Mean and unbiased variance into the running statistics."""
        if self.sums is None or norm.running_mean is None or norm.running_var is None:
            return  # never reached: what it had stands
        mean = self.sums[0] / self.count
        spread = (self.sums[1] / self.count - mean.square()).clamp_min(0.0)
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(spread * (self.count / max(1, self.count - 1)))


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Set the running statistics of every batch normalisation to those of data on this chip.

    Drift moves the mean and the spread of each layer's outputs; a drift compensation rescales
    whole tiles, this each channel. It takes inputs, no labels: what a chip in use can do.

    Args:    model  converted (with or without a chip) or digital.    batches  as `calibrate` takes
             them: training data, never those that the chip is judged by.
    Returns: the number of layers whose statistics were set. Each layer sees what the layers before
             it give when they are normalised with the statistics of the batch at hand; mean and
             (unbiased) variance are over all samples of all batches.
    Raises:  UsageError where the model has no batch normalisation with running statistics;
             CalibrationError without batches.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        raise UsageError(
            f"{type(model).__name__} has no batch normalisation with running statistics; there is "
            "nothing to re-estimate"
        )
    modes = {module: module.training for module in model.modules()}
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    found = {norm: _Moments() for norm in norms}
    hooks = [norm.register_forward_pre_hook(found[norm].see) for norm in norms]
    device = next(model.parameters()).device
    count = 0
    model.eval()
    try:
        for norm in norms:
            norm.training, norm.momentum = True, 0.0  # normalise by the batch, record nothing
            norm.num_batches_tracked = None
        for batch in batches:
            run_batch(model, batch, device)
            count += 1
    finally:
        for hook in hooks:
            hook.remove()
        for norm, momentum, tracked in kept:
            norm.momentum, norm.num_batches_tracked = momentum, tracked
        for module, mode in modes.items():
            module.training = mode
    if count == 0:
        raise CalibrationError("reestimate_batchnorm got no batches; pass at least one")
    for norm in norms:
        found[norm].put(norm)
    return sum(moments.count > 0 for moments in found.values())
