"""Layers made of several weight matrices, built out of the analog linear layers of any engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from aimc_bridge.engines.base import Handler
from aimc_bridge.layers.attention import AnalogMultiheadAttention, disable_fast_paths
from aimc_bridge.layers.convolution import UnfoldedConv
from aimc_bridge.layers.recurrent import (
    AnalogGRU,
    AnalogGRUCell,
    AnalogLSTM,
    AnalogLSTMCell,
    AnalogRNN,
    AnalogRNNCell,
)
from aimc_bridge.layers.transposed import AnalogConvTranspose
from aimc_bridge.spec import Preset

__all__ = [
    "AnalogConvTranspose",
    "AnalogGRU",
    "AnalogGRUCell",
    "AnalogLSTM",
    "AnalogLSTMCell",
    "AnalogMultiheadAttention",
    "AnalogRNN",
    "AnalogRNNCell",
    "UnfoldedConv",
    "disable_fast_paths",
    "handlers",
    "linear_around",
]

_COUNTERPARTS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    nn.LSTM: AnalogLSTM,
    nn.GRU: AnalogGRU,
    nn.RNN: AnalogRNN,
    nn.LSTMCell: AnalogLSTMCell,
    nn.GRUCell: AnalogGRUCell,
    nn.RNNCell: AnalogRNNCell,
    nn.MultiheadAttention: AnalogMultiheadAttention,
    nn.ConvTranspose1d: AnalogConvTranspose,
    nn.ConvTranspose2d: AnalogConvTranspose,
    nn.ConvTranspose3d: AnalogConvTranspose,
}


def handlers(
    convert_linear: Callable[[Any, Preset], nn.Module],
) -> dict[type[nn.Module], Handler]:
    """Layer type -> handler, for an engine whose handler of `nn.Linear` is `convert_linear`.

    `convert_linear` copies the weights, their device, dtype and gradient flags; a handler keeps the
    training mode.
    """
    return {kind: _handler(analog, convert_linear) for kind, analog in _COUNTERPARTS.items()}


def _handler(
    analog: Callable[..., nn.Module], convert_linear: Callable[[Any, Preset], nn.Module]
) -> Handler:
    def convert(module: nn.Module, preset: Preset) -> nn.Module:
        def make_linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
            return convert_linear(linear_around(weight, bias), preset)

        return analog(module, make_linear).train(module.training)

    return convert


def linear_around(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """A digital layer around these very tensors: born on meta, nothing is drawn or allocated."""
    rows, columns = weight.shape
    linear = nn.Linear(columns, rows, bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=weight.requires_grad)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=bias.requires_grad)
    return linear
