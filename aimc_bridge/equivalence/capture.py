"""The layers of a model, each with the inputs that it sees in the model without noise."""

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

VECTORS, IMAGES = 4096, 32  # inputs kept per layer: vectors of a matrix, images of a convolution
_A_CALL = 256  # vectors kept per call, because a recurrent layer is called at every step
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
    """One weight matrix of a model, taken out of it.

    Attributes:
        name: Its name in the model.
        kind: "convolution", "gates" (of a recurrent layer), "attention" or "linear".
        module: A digital layer with its weights and without a bias (biases stay digital).
        inputs: What reaches it in the model without noise, shape (vectors, in), or images.
        ranges: Input ranges, shape (row tiles, column tiles), or None.
        grid: How the matrix is cut into tiles.
    """

    name: str
    kind: str
    module: nn.Module
    inputs: Tensor
    ranges: Tensor | None
    grid: TileGrid

    @property
    def weights(self) -> int:
        """The number of weights."""
        return self.grid.out_features * self.grid.in_features

    def part(self, count: int, seed: int) -> Tensor:
        """Draw some of the inputs without replacement.

        Args:
            count: How many; all of them if there are fewer.
            seed: The seed of the cross-check.
        """
        order = torch.randperm(len(self.inputs), generator=stream(seed, "inputs", self.name))
        return self.inputs[order[:count]]


def batches_of(inputs: Any) -> list[Any]:
    """Return the batches as a list.

    Args:
        inputs: A list of batches, or one batch.

    Raises:
        UsageError: If the list is empty.
    """
    batches = list(inputs) if isinstance(inputs, list) else [inputs]
    if not batches:
        raise UsageError("inputs is an empty list; give one batch of inputs, or more")
    return batches


def calibrated(native: nn.Module, batches: Sequence[Any]) -> None:
    """Set the input ranges of a converted model from inputs.

    Args:
        native: A model on the native engine.
        batches: The inputs.

    Raises:
        ShapeError: If the model does not take inputs of this shape or type.
        UsageError: If a batch is none that a model can be called with.
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
    """Take every weight matrix out of a model, with the inputs that reach it.

    Args:
        native: A calibrated model on the native engine; the weights are taken from it.
        digital: The model that it was converted from.
        batches: The inputs of the model.

    Returns:
        One layer per weight matrix.

    Raises:
        UsageError: If the inputs never reach a layer.
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
    captured = []
    for name, matrix in matrices.items():
        weight = matrix.clean_weight() * matrix.grid.expand_columns(matrix.learned_scale())
        if kinds[name] == "convolution":
            module = copy.deepcopy(digital.get_submodule(name))
            module.register_parameter("bias", None)
            with torch.no_grad():
                digital_weight = module.get_parameter("weight")
                digital_weight.copy_(weight.view_as(digital_weight))
            limit = IMAGES
        else:
            module = layers.linear_around(weight.cpu(), None)
            limit = VECTORS
        ranges = matrix.input_ranges()
        inputs = seen[name].inputs(limit, name)
        if ranges is not None:
            ranges = ranges.cpu().clone()
        module = module.cpu().eval().requires_grad_(False)
        captured.append(Layer(name, kinds[name], module, inputs, ranges, matrix.grid))
    return captured


def _nothing(row: int, column: int, x: Tensor, outputs: Any) -> None:
    """Observe a matrix and collect nothing."""


class _Seen:
    """Collects the inputs of one matrix."""

    def __init__(self, matrix: Matrix) -> None:
        """Start with no inputs."""
        self.rows = len(matrix.grid.rows)
        self.pending: list[Tensor] = []
        self.pieces: list[Tensor] = []

    def vectors(self, row: int, column: int, x: Tensor, outputs: Any) -> None:
        """Collect input vectors, as an observer of the matrix.

        It is called once per tile. All column tiles of a row see the same inputs, so that the first
        one is enough; the inputs of all row tiles together are one vector.
        """
        if column > 0:
            return
        self.pending.append(x.detach().reshape(-1, x.shape[-1]))
        if row == self.rows - 1:
            whole = torch.cat(self.pending, dim=1)
            self.pending = []
            whole = whole[whole.abs().amax(1) > 0]  # a recurrent layer's first state is 0
            step = -(-len(whole) // _A_CALL) or 1
            self.pieces.append(whole[::step].cpu().clone())

    def images(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Collect images, as a forward hook of a convolution."""
        x: Tensor = args[0].detach()
        spatial = module.get_parameter("weight").ndim - 2
        batched = x if x.ndim == spatial + 2 else x.unsqueeze(0)
        self.pieces.append(batched[:IMAGES].cpu().clone())

    def inputs(self, limit: int, name: str) -> Tensor:
        """Return at most `limit` of the collected inputs, evenly spread.

        Raises:
            UsageError: If there are none; the message has the layer's name.
        """
        if not self.pieces or not sum(len(x) for x in self.pieces):
            raise UsageError(f"the inputs never reach layer {name!r}; exclude it, or give others")
        shapes = {x.shape[1:] for x in self.pieces}
        if len(shapes) > 1:  # images of several sizes: keep the first size
            self.pieces = [x for x in self.pieces if x.shape[1:] == self.pieces[0].shape[1:]]
        whole = torch.cat(self.pieces)
        return whole[:: -(-len(whole) // limit)].clone()


def _kinds(native: nn.Module, matrices: dict[str, Matrix]) -> dict[str, str]:
    """Return the kind of each weight matrix, by the layer that it belongs to."""
    parents = dict(native.named_modules())
    kinds = {}
    for name in matrices:
        module = parents[name]
        parent = parents.get(name.rpartition(".")[0])
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and weight.ndim > 2:
            kinds[name] = "convolution"
        elif isinstance(parent, _RECURRENT):
            kinds[name] = "gates"
        elif isinstance(parent, layers.AnalogMultiheadAttention) or any(
            word in part for part in name.lower().split(".") for word in ("attention", "attn")
        ):
            kinds[name] = "attention"
        else:
            kinds[name] = "linear"
    return kinds


def chosen(layers: list[Layer], wanted: Sequence[str] | None) -> list[Layer]:
    """Choose layers by name, or typical ones.

    Args:
        layers: All layers.
        wanted: Names or shell patterns. None chooses up to two layers of each kind: those with the
            most row tiles, and among them those with the most weights.

    Raises:
        UsageError: If a pattern matches no layer, or if there is no pattern.
    """
    if wanted is not None:
        for pattern in wanted:
            if not any(fnmatchcase(layer.name, pattern) for layer in layers):
                names = ", ".join(layer.name for layer in layers)
                raise UsageError(f"layers: {pattern!r} matches none of {names}")
        named = [x for x in layers if any(fnmatchcase(x.name, p) for p in wanted)]
        if not named:
            raise UsageError("layers names no layer; allowed: names or patterns, or None")
        return named
    picked: list[Layer] = []
    for kind in dict.fromkeys(layer.kind for layer in layers):
        of_kind = [layer for layer in layers if layer.kind == kind]
        of_kind.sort(key=lambda layer: (-len(layer.grid.rows), -layer.weights))
        unlike: dict[Any, Layer] = {}  # two layers of one shape would tell the same
        for layer in of_kind:
            role = layer.name.rpartition(".")[2][:2] if kind == "gates" else ""
            unlike.setdefault((layer.grid.rows, layer.grid.columns, role), layer)
        picked += list(unlike.values())[:2]
    return picked
