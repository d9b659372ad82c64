"""Layers of several weight matrices, made of any engine's analog linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from aimc_bridge.engines.match import Handler, Handlers
from aimc_bridge.layers import aihwkit_lightning
from aimc_bridge.layers.aihwkit_lightning import unwrapped
from aimc_bridge.layers.attention import AnalogMultiheadAttention, disable_fast_paths
from aimc_bridge.layers.convolution import UnfoldedConv
from aimc_bridge.layers.digital_form import digital_form, remembering
from aimc_bridge.layers.experts import (
    convert_experts,
    convert_router,
    holds_experts,
    holds_router,
)
from aimc_bridge.layers.linear import linear_around
from aimc_bridge.layers.named import NAMED, Named
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
    "digital_form",
    "disable_fast_paths",
    "linear_around",
    "register_defaults",
    "unwrapped",
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


def register_defaults(
    handlers: Handlers,
    convert_linear: Callable[[Any, Preset], nn.Module],
    convert_conv: Handler,
    convert_transposed: Handler,
    matrices: aihwkit_lightning.Matrices,
) -> None:
    """Register handlers for every layer type that the library converts.

    Args:
        handlers: The handlers of one engine, to which all are added.
        convert_linear: The engine's own handler of `nn.Linear`. It copies the weights, their
            device, dtype, gradient flags and training mode. All layers of several matrices are made
            of its layers.
        convert_conv: The engine's own handler of convolutions in one, two and three dimensions.
        convert_transposed: The engine's own handler of Hugging Face's `Conv1D`, whose weights have
            the shape [in, out].
        matrices: Returns the engine's weight matrices of a layer, by name.
    """
    convert_linear = remembering(convert_linear)
    handlers.add(convert_linear, nn.Linear)
    convert_conv = remembering(convert_conv)
    handlers.add(convert_conv, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    handlers.add_named(remembering(convert_transposed), "transformers.pytorch_utils", "Conv1D")
    for named in NAMED:
        handlers.add_named(
            _plain_first(named, convert_linear, convert_conv), named.module, named.name, named.note
        )
    aihwkit_lightning.register(handlers, convert_linear, convert_conv, matrices)
    handlers.add_holding(_handler(convert_experts, convert_linear), holds_experts)
    handlers.add_holding(_handler(convert_router, convert_linear), holds_router)
    for kind, analog in _COUNTERPARTS.items():
        handlers.add(_handler(analog, convert_linear), kind)


def _handler(
    analog: Callable[..., nn.Module], convert_linear: Callable[[Any, Preset], nn.Module]
) -> Handler:
    """Return a handler that makes a counterpart out of the engine's linear layers."""

    def convert(module: nn.Module, preset: Preset) -> nn.Module:
        def make_linear(weight: Tensor, bias: Tensor | None) -> nn.Module:
            return convert_linear(linear_around(weight, bias), preset)

        return analog(module, make_linear).train(module.training)

    return convert


def _plain_first(
    named: Named, convert_linear: Callable[[Any, Preset], nn.Module], convert_conv: Handler
) -> Handler:
    """Return a handler that makes a plain layer first, and converts that."""

    def convert(module: nn.Module, preset: Preset) -> nn.Module:
        padding, plain = named.plain(module)
        plain.train(module.training)
        convert_plain = convert_linear if isinstance(plain, nn.Linear) else convert_conv
        analog = convert_plain(plain, preset)
        if padding is None:
            return analog
        return nn.Sequential(padding, analog).train(module.training)

    return convert
