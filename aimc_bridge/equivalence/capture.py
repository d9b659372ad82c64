"""Layers of a model as they are, each with the inputs that it sees in the digital model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from aimc_bridge import layers
from aimc_bridge.calibration import calibrate, run_batch
from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix
from aimc_bridge.errors import AimcError, ShapeError, UsageError
from aimc_bridge.physics.mapping import TileGrid
from aimc_bridge.rng import stream

VECTORS, IMAGES = 4096, 32  # inputs kept of a layer: vectors of a matrix, images of a convolution
_A_CALL = 256  # vectors kept of one call: a recurrent layer is called at every step
_RECURRENT = (
    layers.AnalogLSTM,
    layers.AnalogGRU,
    layers.AnalogRNN,
    layers.AnalogLSTMCell,
    layers.AnalogGRUCell,
    layers.AnalogRNNCell,
)


@dataclass(frozen=True, eq=False)
class Layer:
    """One weight matrix, alone.

    kind     "convolution", "gates", "attention" or "linear"
    module   a digital layer with its weights and no bias (biases are digital)
    inputs   that reach it in the model without noise: `[vectors, in]`, or images
    ranges   input ranges, `[row tiles, column tiles]`, or None
    """

    name: str
    kind: str
    module: nn.Module
    inputs: Tensor
    ranges: Tensor | None
    grid: TileGrid

    @property
    def weights(self) -> int:
        return self.grid.out_features * self.grid.in_features

    def part(self, count: int, seed: int) -> Tensor:
        """`count` of the inputs (all, where there are fewer), drawn without replacement."""
        order = torch.randperm(len(self.inputs), generator=stream(seed, "inputs", self.name))
        return self.inputs[order[:count]]


def batches_of(inputs: Any) -> list[Any]:
    """A list of batches as given, or one batch alone.

    Raises:  UsageError where there is none.
    """
    batches = list(inputs) if isinstance(inputs, list) else [inputs]
    if not batches:
        raise UsageError("inputs is an empty list; give one batch of inputs, or more")
    return batches


def calibrated(native: nn.Module, batches: Sequence[Any]) -> None:
    """Set the input ranges of a converted model from the inputs, and try that they fit.

    Raises:  ShapeError, UsageError (by their kind) where the model does not take them.
    """
    try:
        calibrate(native, batches, "percentile")
    except AimcError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as problem:
        line = str(problem).strip().splitlines()[0]
        raise ShapeError(
            f"the model does not take these inputs ({type(problem).__name__}: {line}); give a "
            "tensor, a tuple of arguments or a dict of keyword arguments, or a list of those"
        ) from problem


def layers_of(native: nn.Module, digital: nn.Module, batches: Sequence[Any]) -> list[Layer]:
    """Every weight matrix of a calibrated model of the native engine, with its real inputs.

    Args:    digital  what it was converted from; the weights are those of `native`.
    """
    matrices = matrices_of(native)
    kinds = _kinds(native, matrices)
    seen = {name: _Seen(matrix) for name, matrix in matrices.items()}
    hooks = []
    device = next(native.parameters()).device
    native.eval()
    try:
        for name, matrix in matrices.items():
            if kinds[name] == "convolution":
                matrix.observe(_nothing)
                module = native.get_submodule(name)
                hooks.append(module.register_forward_pre_hook(seen[name].images))
            else:
                matrix.observe(seen[name].vectors)
        with torch.no_grad():
            for batch in batches:
                run_batch(native, batch, device)
    finally:
        for matrix in matrices.values():
            matrix.observe(None)
        for hook in hooks:
            hook.remove()
    found = []
    for name, matrix in matrices.items():
        weight = matrix.clean_weight() * matrix.grid.expand_columns(matrix.learned_scale())
        if kinds[name] == "convolution":
            module = copy.deepcopy(digital.get_submodule(name))
            module.register_parameter("bias", None)
            with torch.no_grad():
                own = module.get_parameter("weight")
                own.copy_(weight.view_as(own))
            limit = IMAGES
        else:
            module = layers.linear_around(weight.cpu(), None)
            limit = VECTORS
        ranges = matrix.input_ranges()
        inputs = seen[name].inputs(limit, name)
        kept = None if ranges is None else ranges.cpu().clone()
        module = module.cpu().eval().requires_grad_(False)
        found.append(Layer(name, kinds[name], module, inputs, kept, matrix.grid))
    return found


def _nothing(row: int, column: int, x: Tensor, outputs: Any) -> None:
    pass


class _Seen:
    """Collects the inputs of one matrix."""

    def __init__(self, matrix: Matrix) -> None:
        self.rows = len(matrix.grid.rows)
        self.pending: list[Tensor] = []
        self.kept: list[Tensor] = []

    def vectors(self, row: int, column: int, x: Tensor, outputs: Any) -> None:
        """As an observer: row tile by row tile, each first for its first column tile."""
        if column > 0:
            return
        self.pending.append(x.detach().reshape(-1, x.shape[-1]))
        if row == self.rows - 1:
            whole = torch.cat(self.pending, dim=1)
            self.pending = []
            whole = whole[whole.abs().amax(1) > 0]  # the first step of a recurrent layer sees zeros
            step = -(-len(whole) // _A_CALL) or 1
            self.kept.append(whole[::step].cpu().clone())

    def images(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """As a forward hook of a convolution."""
        x: Tensor = args[0].detach()
        spatial = module.get_parameter("weight").ndim - 2
        batched = x if x.ndim == spatial + 2 else x.unsqueeze(0)
        self.kept.append(batched[:IMAGES].cpu().clone())

    def inputs(self, limit: int, name: str) -> Tensor:
        if not self.kept or not sum(len(x) for x in self.kept):
            raise UsageError(f"the inputs never reach layer {name!r}; exclude it, or give others")
        shapes = {x.shape[1:] for x in self.kept}
        if len(shapes) > 1:  # images of several sizes: those of the first
            self.kept = [x for x in self.kept if x.shape[1:] == self.kept[0].shape[1:]]
        whole = torch.cat(self.kept)
        return whole[:: -(-len(whole) // limit)].clone()


def _kinds(native: nn.Module, matrices: dict[str, Matrix]) -> dict[str, str]:
    parents = dict(native.named_modules())
    found = {}
    for name in matrices:
        module = parents[name]
        parent = parents.get(name.rpartition(".")[0])
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.ndim > 2:
            found[name] = "convolution"
        elif isinstance(parent, _RECURRENT):
            found[name] = "gates"
        elif isinstance(parent, layers.AnalogMultiheadAttention) or any(
            word in part for part in name.lower().split(".") for word in ("attention", "attn")
        ):
            found[name] = "attention"
        else:
            found[name] = "linear"
    return found


def chosen(layers: list[Layer], wanted: Sequence[str] | None) -> list[Layer]:
    """The layers that some names or shell patterns mean; without any, up to two of each kind: those
    with the most row tiles, then the most weights.

    Raises:  UsageError for a pattern that means none.
    """
    if wanted is not None:
        for pattern in wanted:
            if not any(fnmatchcase(layer.name, pattern) for layer in layers):
                names = ", ".join(layer.name for layer in layers)
                raise UsageError(f"layers: {pattern!r} matches none of {names}")
        found = [x for x in layers if any(fnmatchcase(x.name, p) for p in wanted)]
        if not found:
            raise UsageError("layers names no layer; allowed: names or patterns, or None")
        return found
    found = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        mine = [layer for layer in layers if layer.kind == kind]
        mine.sort(key=lambda layer: (-len(layer.grid.rows), -layer.weights))
        unlike: dict[Any, Layer] = {}  # two of one shape tell the same twice
        for layer in mine:
            role = layer.name.rpartition(".")[2][:2] if kind == "gates" else ""
            unlike.setdefault((layer.grid.rows, layer.grid.columns, role), layer)
        found += list(unlike.values())[:2]
    return found
