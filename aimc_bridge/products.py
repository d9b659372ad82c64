"""Watching a pass of a model: which products the tiles do, and which stay digital.

A product (a matrix product, a convolution, attention, an embedding bag, a fused or quantised
operation) is digital if one operand depends on the inputs, another does not, and no analog layer
does it. Dependence is followed below Python, by storage, so that views, in-place writes and caches
are seen, and so is a layer that a closure, a hook or any other object holds.
"""

from __future__ import annotations

import math
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as nn_module
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from aimc_bridge.converted import matrices_of
from aimc_bridge.engines.base import Matrix

_OPERANDS: dict[str, tuple[int, ...]] = {
    "mm": (0, 1),
    "addmm": (1, 2),
    "_addmm_activation": (1, 2),
    "bmm": (0, 1),
    "addbmm": (1, 2),
    "baddbmm": (1, 2),
    "mv": (0, 1),
    "addmv": (1, 2),
    "dot": (0, 1),
    "vdot": (0, 1),
    "linear": (0, 1),
    "matmul": (0, 1),
    "_int_mm": (0, 1),
    "_scaled_mm": (0, 1),
    "_grouped_mm": (0, 1),
    "_scaled_grouped_mm": (0, 1),
    "_weight_int4pack_mm": (0, 1),
    "_weight_int8pack_mm": (0, 1),
    "convolution": (0, 1),
    "_convolution": (0, 1),
    "mkldnn_convolution": (0, 1),
    "cudnn_convolution": (0, 1),
    "_trilinear": (0, 1, 2),
    "_embedding_bag": (0, 1, 6),
    "_embedding_bag_forward_only": (0, 1, 6),
    "_native_multi_head_attention": (0, 1, 2, 5, 7),
    "_transformer_encoder_layer_fwd": (0, 3, 5, 12, 14),
}
"""Operation of ATen -> places of its operands."""

_LIKE_A_PRODUCT = re.compile(
    r"linear|conv(?!ert)|_mm\b|matmul|attention|rnn|lstm|gru|embedding_bag|bilinear"
)
_NO_PRODUCT = re.compile(r"backward|_cell\b|reorder|prepack|pack_weight|unpack")

_HERE = str(Path(__file__).parent)
_TORCH = str(Path(torch.__file__).parent)


@dataclass
class AnalogWork:
    """The work of one weight matrix on tiles in a pass.

    Attributes:
        calls: Passes through the layer.
        mvms: Products of one tile with one vector.
        macs: Multiplications of a weight with an input.
        adc_conversions: Outputs that an ADC read; 0 if the preset has no ADC.
    """

    calls: int = 0
    mvms: int = 0
    macs: int = 0
    adc_conversions: int = 0


@dataclass
class DigitalProduct:
    """A product of inputs with something that does not depend on them, outside of the tiles.

    Attributes:
        holder: Name of the parameter or buffer, or "" if the model registers none for it.
        modules: Names of the modules in whose forward pass the product stands, outermost first.
        kind: Class of the innermost of these modules, in the module tree or not.
        operation: Name of the operation, such as "mm".
        shape: Shape of the operand that does not depend on the inputs.
        place: Source file and line, "model.py:12".
        calls: How often it ran.
        macs: Multiplications of the two operands, if the operation tells.
    """

    holder: str
    modules: tuple[str, ...]
    kind: str
    operation: str
    shape: tuple[int, ...]
    place: str
    calls: int = 0
    macs: int = 0

    def __str__(self) -> str:
        """Return one line: the operation, its fixed operand, the module, file and line."""
        size = " x ".join(map(str, self.shape)) or "packed weights"
        what = repr(self.holder) if self.holder else "a constant"
        where = f" in {self.modules[-1]!r}" if self.modules and self.modules[-1] else ""
        return f"{self.operation} with {what} ({size}){where}, a {self.kind} ({self.place})"


@dataclass
class Measurement:
    """The work of every matrix on tiles in a pass, and all digital products."""

    analog: dict[str, AnalogWork] = field(default_factory=dict)
    digital: list[DigitalProduct] = field(default_factory=list)

    @property
    def unreached(self) -> list[str]:
        """Names of the analog layers that the pass did not reach."""
        return [name for name, work in self.analog.items() if not work.calls]


def _keep_exact(row: int, column: int, x: Tensor, outputs: Callable[[], Tensor]) -> None:
    """Do nothing: while a matrix has an observer, its products are exact."""


@contextmanager
def watched(model: nn.Module) -> Iterator[Measurement]:
    """Watch what the model does inside the block, without a trace.

    Analog products are exact meanwhile (no noise is drawn, no input range is needed), gradients are
    off and modules are in evaluation mode.

    Args:
        model: A converted model.

    Yields:
        The measurement, which is complete at the end of the block.
    """
    matrices = matrices_of(model)
    modes = {module: module.training for module in model.modules()}
    measurement = Measurement({name: AnalogWork() for name in matrices})
    watcher = _Watcher(model, matrices, measurement)
    model.eval()
    for matrix in matrices.values():
        matrix.observe(_keep_exact)
    try:
        with torch.no_grad(), watcher.hooks(), watcher:
            yield measurement
    finally:
        for matrix in matrices.values():
            matrix.observe(None)
        for module, training in modes.items():
            module.training = training


class _Marks:
    """The tensors that depend on the inputs, by the storage they lie in."""

    def __init__(self) -> None:
        self._storages: dict[int, StorageWeakRef] = {}
        self._others: Any = WeakTensorKeyDictionary()  # of tensors without a storage

    def add(self, tensor: Tensor) -> None:
        for part in _parts(tensor):
            try:
                reference = StorageWeakRef(part.untyped_storage())
            except (NotImplementedError, RuntimeError):
                self._others[part] = True
            else:  # while there is a reference, no other storage gets its address
                self._storages[reference.cdata] = reference

    def has(self, tensor: Tensor) -> bool:
        for part in _parts(tensor):
            try:
                key = part.untyped_storage()._cdata
            except (NotImplementedError, RuntimeError):
                if part in self._others:
                    return True
            else:
                if key in self._storages:
                    return True
        return False


def _parts(tensor: Tensor) -> tuple[Tensor, ...]:
    """Return the strided tensors that a sparse one consists of, or the tensor itself."""
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.values()
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    return (tensor,)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class _Watcher(TorchDispatchMode):
    """Follows every operation of a pass."""

    def __init__(
        self, model: nn.Module, matrices: Mapping[str, Matrix], measurement: Measurement
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.measurement = measurement
        self.marks = _Marks()
        self.names = {module: name for name, module in model.named_modules()}
        self.holders = _holders(model)
        self.derived: dict[int, tuple[StorageWeakRef, str]] = {}  # made from a parameter alone
        self.tiles = {
            module: (name, matrix, first)
            for name, matrix in matrices.items()
            for module, first in matrix.product_modules()
        }
        self.stack: list[nn.Module] = []
        self.inside = 0  # depth of analog products
        self.rows: dict[tuple[Any, ...], DigitalProduct] = {}
        self.thread = threading.get_ident()

    # --- modules ---

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Follow the calls of all modules, of those outside the module tree too."""
        handles = [
            nn_module.register_module_forward_pre_hook(self._enter),
            nn_module.register_module_forward_hook(self._leave, always_call=True),
        ]
        outermost = [
            module.register_forward_pre_hook(self._mark_inputs, with_kwargs=True, prepend=True)
            for module in self.names
        ]
        try:
            yield
        finally:
            for handle in (*handles, *outermost):
                handle.remove()

    def _mark_inputs(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Mark the arguments of the outermost call: they are the inputs."""
        if (
            threading.get_ident() == self.thread
            and self.stack[:1] == [module]
            and (len(self.stack) == 1)
        ):
            for tensor in _tensors((args, kwargs)):
                self.marks.add(tensor)

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self.thread:
            return
        self.stack.append(module)
        if module in self.tiles:
            self.inside += 1

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self.thread or module not in self.stack:
            return
        while self.stack.pop() is not module:  # a hook that failed left its module here
            pass
        if module in self.tiles:
            self.inside -= 1
            for tensor in _tensors(output):
                self.marks.add(tensor)
            name, matrix, first = self.tiles[module]
            if first and isinstance(output, Tensor):
                self._count(self.measurement.analog[name], matrix, output, first)

    def _count(self, work: AnalogWork, matrix: Matrix, output: Tensor, columns: int) -> None:
        """Add a call; `columns` is the number of outputs per vector of this module."""
        grid = matrix.grid
        vectors = output.numel() // columns
        work.calls += 1
        work.mvms += vectors * grid.tiles
        work.macs += vectors * grid.in_features * grid.out_features
        if matrix.preset.crossbar.adc_bits is not None:
            work.adc_conversions += vectors * len(grid.rows) * grid.out_features

    # --- operations ---

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        operands = None if self.inside else _operands(func, args, kwargs)
        said = operands is not None and self._is_digital(operands)
        given = _tensors((args, kwargs))
        dependent = any(self.marks.has(tensor) for tensor in given)
        result = func(*args, **kwargs)
        if dependent:
            for tensor in _tensors(result):
                self.marks.add(tensor)
            for tensor in _written(func, args, kwargs):
                self.marks.add(tensor)
        else:
            self._derive(given, result)
        if said and operands is not None:
            self._record(func, operands, result)
        return result

    def _derive(self, given: list[Tensor], result: Any) -> None:
        """Remember which parameter a tensor was made from, such as a standardised weight."""
        holder = next(filter(None, map(self._holder_of, given)), "")
        for tensor in _tensors(result) if holder else ():
            try:
                reference = StorageWeakRef(tensor.untyped_storage())
            except (NotImplementedError, RuntimeError):
                continue
            self.derived.setdefault(reference.cdata, (reference, holder))

    def _is_digital(self, operands: list[Any]) -> bool:
        depends = [self._depends(operand) for operand in operands]
        return any(depends) and not all(depends)

    def _depends(self, operand: Any) -> bool:
        return any(self.marks.has(tensor) for tensor in _tensors(operand))

    def _record(self, func: Any, operands: list[Any], result: Any) -> None:
        fixed = [operand for operand in operands if not self._depends(operand)]
        tensors = _tensors(fixed)
        inner = _inner_size(func, operands)
        if inner == 1:
            return  # an inner dimension of 1 is a scaling, no product
        largest = max(tensors, key=lambda tensor: tensor.numel(), default=None)
        holder = "" if largest is None else self._holder_of(largest)
        shape = () if largest is None else tuple(largest.shape)
        modules = tuple(self.names[module] for module in self.stack if module in self.names)
        kind = type(self.stack[-1]).__name__ if self.stack else "function"
        place = _place()
        name = func._schema.name.partition("::")[2]
        key = (holder, modules, kind, name, shape, place)
        row = self.rows.get(key)
        if row is None:
            row = DigitalProduct(holder, modules, kind, name, shape, place)
            self.rows[key] = row
            self.measurement.digital.append(row)
        row.calls += 1
        outputs = _tensors(result)
        if outputs and inner:
            row.macs += outputs[0].numel() * inner

    def _holder_of(self, tensor: Tensor) -> str:
        try:
            key = tensor.untyped_storage()._cdata
        except (NotImplementedError, RuntimeError):
            return ""
        return self.holders.get(key) or self.derived.get(key, (None, ""))[1]


def _holders(model: nn.Module) -> dict[int, str]:
    """Storage -> name of the parameter or buffer that lies in it."""
    found: dict[int, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        try:
            found.setdefault(tensor.untyped_storage()._cdata, name)
        except (NotImplementedError, RuntimeError):
            continue
    return found


def _operands(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
    """Return the operands of a product; None if the operation is none."""
    namespace, _, name = func._schema.name.partition("::")
    places = _OPERANDS.get(name) if namespace == "aten" else None
    if places is not None:
        named = [argument.name for argument in func._schema.arguments]
        values = [
            args[place] if place < len(args) else kwargs.get(named[place])
            for place in places
            if place < len(named)
        ]
        return [value for value in values if value is not None]
    if not _LIKE_A_PRODUCT.search(name) or _NO_PRODUCT.search(name):
        return None
    operands: list[Any] = []
    for value in (*args, *kwargs.values()):  # biases and states are no operands: vectors
        tensors = [t for t in _tensors(value) if t.ndim >= 2 and t.is_floating_point()]
        if isinstance(value, torch.ScriptObject):
            operands.append(value)
        elif tensors:
            operands += tensors if isinstance(value, list | tuple) else [tensors[0]]
    return operands if len(operands) > 1 else None


def _inner_size(func: Any, operands: list[Any]) -> int:
    """Number of terms that are summed for one output; 0 if it is not known."""
    name = func._schema.name.partition("::")[2]
    if not all(isinstance(operand, Tensor) for operand in operands):
        return 0
    if "conv" in name:
        return math.prod(operands[1].shape[1:])
    if "attention" in name or "rnn" in name or "embedding_bag" in name or name == "_trilinear":
        return 0
    return int(operands[0].shape[-1]) if operands[0].ndim else 1


def _written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterable[Tensor]:
    """Tensors that an in-place operation or an `out=` argument writes to."""
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[place] if place < len(args) else kwargs.get(argument.name)
            yield from _tensors(value)


def _place() -> str:
    """Return file and line of the code that asked for the operation."""
    frame = sys._getframe(1)
    last = ""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith((_TORCH, _HERE)) and not file.startswith("<frozen"):
            return f"{Path(file).name}:{frame.f_lineno}"
        if file.startswith(_TORCH) and not last and f"{Path('nn') / 'modules'}" in file:
            last = f"{Path(file).name}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return last or "?"
