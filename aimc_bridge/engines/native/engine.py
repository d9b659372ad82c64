"""The native engine: handlers by layer type, crossbars by layer name."""

from __future__ import annotations

import torch
from torch import nn

from aimc_bridge import layers
from aimc_bridge.arguments import flag
from aimc_bridge.converted import owners, record_of
from aimc_bridge.engines.base import Engine, Matrix
from aimc_bridge.engines.native import kernels
from aimc_bridge.engines.native.crossbar import Crossbar
from aimc_bridge.engines.native.layers import convert_conv, convert_linear, convert_transposed
from aimc_bridge.errors import CapabilityError, UsageError, shown
from aimc_bridge.layers.border import check_dtype
from aimc_bridge.physics.laws import law_of
from aimc_bridge.spec import Preset


class NativeEngine(Engine):
    """All of the physics in PyTorch, on a CPU or GPU, in float32 or float64 inside."""

    name = "native"
    draw_on = ("cpu", "device", "compiled")

    def check(self, preset: Preset, device: torch.device, dtype: torch.dtype) -> None:
        """Accept weights of floating-point dtypes, and devices that have a law."""
        check_dtype(dtype, self.name)
        law_of(preset.pcm)  # if the device has no law, this raises before anything is converted

    def matrices(self, model: nn.Module) -> dict[str, Matrix]:
        """Return the crossbars of a model, by the name of the layer that owns each."""
        crossbars: dict[str, Matrix] = {}
        for name, module in owners(model, Crossbar):
            assert isinstance(module, Crossbar)
            crossbars[name.removesuffix("crossbar").removesuffix(".")] = module
        return crossbars

    def finish(self, model: nn.Module) -> None:
        """Name the layers for errors."""
        for name, matrix in self.matrices(model).items():
            matrix.name = name
            assert isinstance(matrix, Crossbar)
            matrix.label = f"layer {name!r}" if name else "this layer"

    def unfinish(self, model: nn.Module) -> None:
        """Do nothing: `finish` changes crossbars alone."""


def side_precision(model: nn.Module, dtype: torch.dtype | None) -> None:
    """Compute the products behind IR drop and read noise in another precision.

    It saves time.

    The weighted sum itself keeps the precision of the weights. With `torch.bfloat16` the IR drop is
    wrong by up to 1 % of itself (it is a few per cent of an output), the sigma of a noise by 0.4 %.
    Where products are computed in integers (docs/speed.md), the weights of the side products then
    have 8 bits instead of 16, and the errors stay below these.

    Args:
        model: A model that was converted to the native engine.
        dtype: `torch.bfloat16`; None makes the products exact again.

    Raises:
        UsageError: If the dtype is another one.
        CapabilityError: If the model was converted to another engine.
    """
    if not (dtype is None or (isinstance(dtype, torch.dtype) and dtype == torch.bfloat16)):
        raise UsageError(f"side_precision: {shown(dtype)}; allowed: torch.bfloat16, None")
    if record_of(model).engine != "native":
        raise CapabilityError("side_precision: only the native engine has side products")
    for matrix in ENGINE.matrices(model).values():
        assert isinstance(matrix, Crossbar)
        matrix.set_side_precision(dtype)


def compiled(model: nn.Module, on: bool = True) -> None:
    """Let torch.compile fuse noise, IR drop and converters, to save time.

    The law of the noise stays the same, its numbers are others than without. They come from a
    generator that runs inside the compiled passes and is seeded from torch's default generator, so
    `torch.manual_seed` repeats them on any number of threads. The noise that `train` injects comes
    from that generator too, and remains a function of its seed. The first passes take
    seconds, until everything is compiled. On a CPU, products with fewer than 32,768 outputs stay
    as they are: a call of a compiled pass would take longer than the pass saves. Chips are drawn as
    `program(model, seed, draw_on=...)` says, for which "compiled" is a choice, too.

    Args:
        model: A model that was converted to the native engine.
        on: False undoes it.

    Raises:
        CapabilityError: If torch.compile does not work, or the model was converted to another
            engine.
    """
    if record_of(model).engine != "native":
        raise CapabilityError("compiled: only the native engine can be compiled")
    matrices = ENGINE.matrices(model)
    if flag("on", on):
        for device in {matrix.column_scale().device.type for matrix in matrices.values()}:
            kernels.check(device)
    for matrix in matrices.values():
        assert isinstance(matrix, Crossbar)
        matrix.set_compiled(on)


ENGINE = NativeEngine()
layers.register_defaults(
    ENGINE.handlers, convert_linear, convert_conv, convert_transposed, ENGINE.matrices
)
