"""Statistics of batch normalisations, estimated again on a chip."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from aimc_bridge.arguments import iterable
from aimc_bridge.arguments import module as module_of
from aimc_bridge.calibration import run_batch
from aimc_bridge.errors import CalibrationError, UsageError
from aimc_bridge.modes import modes_kept


class _Statistics(NamedTuple):
    """Mean and unbiased variance of each channel, shape [channels]."""

    mean: Tensor
    variance: Tensor

    @staticmethod
    def of(norm: _BatchNorm) -> _Statistics:
        """Return a copy of the layer's running statistics."""
        assert norm.running_mean is not None and norm.running_var is not None
        return _Statistics(norm.running_mean.clone(), norm.running_var.clone())

    def put(self, norm: _BatchNorm) -> None:
        """Write these statistics into the layer."""
        assert norm.running_mean is not None and norm.running_var is not None
        norm.running_mean.copy_(self.mean)
        norm.running_var.copy_(self.variance)


class _Moments:
    """Sums over all batches of the inputs of one normalisation, per channel."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: Tensor | None = None

    def see(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """Add one batch of inputs, shape [batch, channels, *space]; a forward pre-hook."""
        x = inputs[0].detach().double()
        x = x.transpose(0, 1).flatten(1) if x.ndim > 2 else x.T
        sums = torch.stack([x.sum(1), x.square().sum(1)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.count += x.shape[1]

    def statistics(self, name: str, norm: _BatchNorm) -> _Statistics | None:
        """Return the statistics of all batches.

        Args:
            name: Name of the layer, for errors.
            norm: The layer; the result has its device and dtype.

        Returns:
            The statistics, or None if no batch reached the layer.

        Raises:
            CalibrationError: If all batches were empty, or the statistics are not finite.
        """
        if self.sums is None or norm.running_mean is None or norm.running_var is None:
            return None
        if self.count == 0:
            raise CalibrationError(
                f"reestimate_batchnorm got only empty batches at {name!r}; pass data"
            )
        mean = self.sums[0] / self.count
        spread = (self.sums[1] / self.count - mean.square()).clamp_min(0.0)
        variance = spread * (self.count / max(1, self.count - 1))
        statistics = _Statistics(mean.to(norm.running_mean), variance.to(norm.running_var))
        if not all(bool(values.isfinite().all()) for values in statistics):
            raise CalibrationError(
                f"the data of reestimate_batchnorm give NaN or infinite statistics at {name!r}"
            )
        return statistics


@torch.no_grad()
def reestimate_batchnorm(model: nn.Module, batches: Iterable[Any]) -> int:
    """Set the running statistics of every batch normalisation from data on this chip.

    Drift moves the mean and the spread of each layer's outputs. A drift compensation rescales whole
    tiles; this rescales each channel. It needs inputs and no labels, so a chip in use can do it.

    While the data run through, each layer sees the outputs of the layers before it, normalised with
    the statistics of the current batch. Mean and unbiased variance are then taken over all samples
    of all batches.

    Args:
        model: A converted model, with or without a chip, or a digital one.
        batches: Input batches as in `calibrate`. Take them from the training data, never from the
            data that the chip is judged by.

    Returns:
        The number of layers whose statistics were set. A layer that no batch reaches keeps its own.

    Raises:
        UsageError: If the model has no batch normalisation with running statistics.
        CalibrationError: If there are no batches, or data are empty or not finite. The statistics
            are then as before.
    """
    module_of("model", model)
    iterable("batches", batches, "an iterable of batches, such as [inputs] or a loader")
    norms = {
        module: name
        for name, module in model.named_modules()
        if isinstance(module, _BatchNorm) and module.running_mean is not None
    }
    if not norms:
        raise UsageError(
            f"{type(model).__name__} has no batch normalisation with running statistics; there is "
            "nothing to re-estimate"
        )
    saved = [
        (norm, norm.momentum, norm.num_batches_tracked, _Statistics.of(norm)) for norm in norms
    ]
    moments = {norm: _Moments() for norm in norms}
    hooks = [norm.register_forward_pre_hook(moments[norm].see) for norm in norms]
    device = next(model.parameters()).device
    count = 0
    with modes_kept(model):
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
            for norm, momentum, tracked, before in saved:
                norm.momentum, norm.num_batches_tracked = momentum, tracked
                before.put(norm)  # momentum 0 still writes NaN: 0 times NaN is NaN
    if count == 0:
        raise CalibrationError("reestimate_batchnorm got no batches; pass at least one")
    measured = {norm: moments[norm].statistics(name, norm) for norm, name in norms.items()}
    for norm, statistics in measured.items():
        if statistics is not None:  # None: never reached, so it keeps its own
            statistics.put(norm)
    return sum(statistics is not None for statistics in measured.values())
