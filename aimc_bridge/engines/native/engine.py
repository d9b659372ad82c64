"""The native engine: handlers by layer type, crossbars by layer name."""

from __future__ import annotations

import torch
from torch import nn

from aimc_bridge import layers
from aimc_bridge.converted import owners, record_of
from aimc_bridge.engines.base import Engine, Matrix
from aimc_bridge.engines.native import kernels
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.engines.native.layers import convert_conv, convert_linear, convert_transposed
from aimc_bridge.engines.native.tiles import check_precision
from aimc_bridge.errors import CapabilityError, UsageError
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import Preset


class NativeEngine(Engine):
    """All of the physics in PyTorch; CPU or GPU; float32 and float64."""

    name = "native"
    draw_on = ("cpu", "device", "compiled")

    def check(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        check_precision(dtype)
        law_of(preset.pcm)  # a device without a law is an error before anything is converted

    def matrices(self, model: nn.Module) -> dict[str, Matrix]:
        crossbars: dict[str, Matrix] = {}
        for name, module in owners(model, Crossbar):
            assert isinstance(module, Crossbar)
            crossbars[name.removesuffix("crossbar").removesuffix(".")] = module
        return crossbars

    def finish(self, model: nn.Module) -> None:
        for name, matrix in self.matrices(model).items():
            assert isinstance(matrix, Crossbar)
            matrix.label = f"layer {name!r}" if name else "this layer"


def side_precision(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Compute the products behind IR drop and read noise in another precision, to save time.

    The weighted sum itself keeps the precision of the weights. With `torch.bfloat16` an IR drop is
    off by up to 1 % of itself (it is some per cent of an output), a noise's sigma by 0.4 %.

    Args:    model  converted to the native engine.    dtype  `torch.bfloat16`; None is exact again.
    Raises:  UsageError for another dtype; CapabilityError where the model is not a native one.
    """
    if dtype not in (None, torch.bfloat16):
        raise UsageError(f"side_precision: {dtype!r}; allowed: torch.bfloat16, None")
    if record_of(model).engine != "native":
        raise CapabilityError("side_precision: only the native engine has side products")
    for matrix in ENGINE.matrices(model).values():
        assert isinstance(matrix, Crossbar)
        matrix.set_side_precision(dtype)


def compiled(model: nn.Module, on: bool = True) -> None:
    """Let torch.compile fuse noise, IR drop and converters of every layer, to save time.

    The law is the same, the noise's numbers are others than without: a generator that runs inside
    the compiled passes, seeded from torch's default generator, so that `torch.manual_seed` repeats
    them, on any number of threads. So is the noise that `train` injects, which stays a function of
    its seed. The first passes take seconds, until everything is compiled.
    Chips are drawn as `program(model, seed, draw_on=...)` says, which knows "compiled" too.

    Args:    model  converted to the native engine.
    Raises:  CapabilityError where torch.compile does not work, or the model is not a native one.
    """
    if record_of(model).engine != "native":
        raise CapabilityError("compiled: only the native engine can be compiled")
    matrices = ENGINE.matrices(model)
    if on:
        for device in {matrix.column_scale().device.type for matrix in matrices.values()}:
            kernels.check(device)
    for matrix in matrices.values():
        assert isinstance(matrix, Crossbar)
        matrix.set_compiled(on)


ENGINE = NativeEngine()
layers.register_defaults(ENGINE.handlers, convert_linear, convert_conv, convert_transposed)
