"""The native engine's entry in the registry: handlers by layer type, crossbars by layer name."""

from __future__ import annotations

import torch
from torch import nn

from aimc_bridge import composite
from aimc_bridge.errors import CapabilityError
from aimc_bridge.native.crossbar import Crossbar
from aimc_bridge.native.layers import convert_conv, convert_linear, convert_transposed
from aimc_bridge.registry import Engine, Matrix, owners
from aimc_bridge.spec import Preset


class NativeEngine(Engine):
    """All of the physics in PyTorch; CPU or GPU; float32 and float64."""

    name = "native"

    def check(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise CapabilityError(
                f"native engine: weights of {dtype}; allowed: float32, float64 "
                "(model.float() first; autocast may run inside)"
            )

    def matrices(self, model: nn.Module) -> dict[str, Matrix]:
        found: dict[str, Matrix] = {}
        for name, module in owners(model, Crossbar):
            assert isinstance(module, Crossbar)
            found[name.removesuffix("crossbar").removesuffix(".")] = module
        return found

    def finish(self, model: nn.Module) -> None:
        for name, matrix in self.matrices(model).items():
            assert isinstance(matrix, Crossbar)
            matrix.label = f"layer {name!r}" if name else "this layer"


ENGINE = NativeEngine()
ENGINE.handles(nn.Linear)(convert_linear)
ENGINE.handles(nn.Conv1d, nn.Conv2d, nn.Conv3d)(convert_conv)
ENGINE.handles_named("transformers.pytorch_utils", "Conv1D")(convert_transposed)
for _kind, _handler in composite.handlers(convert_linear).items():
    ENGINE.handles(_kind)(_handler)
