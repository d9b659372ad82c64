"""Following a pass of a model: which products the tiles do, and which stay digital.

A product is digital if one operand depends on the inputs, another does not, and no analog layer
does it. Dependence is followed below Python, by storage, so that views, in-place writes and caches
are seen, and so is a layer that a closure, a hook or any other object holds.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.modules import module as nn_module
from torch.utils import _python_dispatch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.hooks import RemovableHandle

from aimc_bridge.converted import (
    ConversionRecord,
    inside,
    is_converted,
    matrices_of,
    record_of,
    was_added,
)
from aimc_bridge.engines.base import Matrix
from aimc_bridge.layers.transforms import transformed
from aimc_bridge.modes import modes_kept
from aimc_bridge.products import (
    AnalogWork,
    DigitalProduct,
    Measurement,
    inner_size,
    made_of_others,
    name_of,
    operands,
    place,
    tensors,
    written,
)
from aimc_bridge.tracked_tensors import Marks, holders_by_storage, is_plain, storage_of, tensors_in

_WATCHED: list[int] = []
"""The identities of the records of models that are watched."""


def is_watched(record: ConversionRecord) -> bool:
    """Return whether a model is inside a block of `watched`.

    Args:
        record: The model's record.
    """
    return id(record) in _WATCHED


def in_backward() -> bool:
    """Return whether a backward pass is under way; torch.utils.checkpoint asks in this way too."""
    return torch._C._current_graph_task_id() != -1


def is_ordinary(module: nn.Module) -> bool:
    """Return whether a call is a real pass.

    It is none in a trace, a transform, a replica of DataParallel, or a backward pass, in which
    gradient checkpointing repeats calls.

    Args:
        module: The module that is called.
    """
    return not (
        in_backward()
        or transformed()
        or torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None
        or module.__dict__.get("_is_replica", False)
    )


def _keep_exact(row: int, column: int, x: Tensor, outputs: Callable[[], Tensor]) -> None:
    """Do nothing: while a matrix has an observer, its products are exact."""


@contextmanager
def watched(model: nn.Module) -> Iterator[Measurement]:
    """Watch a pass of a whole model inside the block, without a trace.

    Analog products are exact meanwhile (no noise is drawn, no input range is needed), gradients are
    off and modules are in evaluation mode.

    Args:
        model: A converted model.

    Yields:
        The measurement, which is complete at the end of the block.
    """
    matrices = matrices_of(model)
    watcher = Watcher(model, matrices)
    record = record_of(model)

    def mark(_: nn.Module, args: Any, kwargs: Any) -> None:
        if watcher.within == [model]:
            watcher.mark_inputs((args, kwargs))

    with modes_kept(model), torch.no_grad():
        model.eval()
        for matrix in matrices.values():
            matrix.observe(_keep_exact)
        handle = model.register_forward_pre_hook(mark, with_kwargs=True, prepend=True)
        _WATCHED.append(id(record))
        try:
            watcher.start()
            yield watcher.measurement
        finally:
            watcher.stop()
            _WATCHED.remove(id(record))
            handle.remove()
            for matrix in matrices.values():
                matrix.observe(None)


class Watcher(TorchDispatchMode):
    """Follows every operation from `start` to `stop`.

    Operations inside analog products are not followed: the watcher steps aside there, so that they
    take no longer, and compiled passes stay compiled.

    Attributes:
        measurement: What was found so far.
        within: The modules whose forward pass runs, outermost first, in the model or not.
        names: All names of each module of the model.
    """

    supports_higher_order_operators = True

    def __init__(
        self,
        model: nn.Module,
        matrices: Mapping[str, Matrix],
        name: str = "",
        *,
        only_own: bool = False,
    ) -> None:
        """Look at the model; nothing is followed yet.

        Args:
            model: A converted model, or a part of one.
            matrices: Its weight matrices on tiles, by the name of the layer in the whole model.
            name: Name of the part in the whole model.
            only_own: Whether code outside of the model's forward passes may run, too. There, only
                products with the model's own parameters and buffers count.
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self.measurement = Measurement({key: AnalogWork() for key in matrices})
        self.within: list[nn.Module] = []
        self.names: dict[nn.Module, list[str]] = {}
        self._model, self._only_own = model, only_own
        for key, module in model.named_modules(remove_duplicate=False):
            self.names.setdefault(module, []).append(".".join(filter(None, [name, key])))
        self._marks = Marks()
        self._drawn = Marks()  # noise that the model draws in the pass, which no tile can hold
        self._holders = holders_by_storage(model, name)
        self._derived: dict[int, tuple[StorageWeakRef, tuple[int, ...]]] = {}  # of parameters
        self._tiles = {
            module: (key, matrix, first)
            for key, matrix in matrices.items()
            for module, first in matrix.product_modules()
        }
        self._inside = 0  # depth of analog products
        self._aside = False
        self._rows: dict[tuple[Any, ...], DigitalProduct] = {}
        self._thread = threading.get_ident()
        self._frame: FrameType | None = None
        self._handles: list[RemovableHandle] = []

    # --- from start to stop ---

    def start(self, within: nn.Module | None = None, frame: FrameType | None = None) -> None:
        """Begin to follow operations, and calls of all modules, in the module tree or not.

        Args:
            within: The module whose call has just begun.
            frame: The frame of that call. When it has been left in a way that runs no hooks
                (KeyboardInterrupt), the watcher stops as soon as it notices.
        """
        if within is not None:
            self.within.append(within)
        self._frame = frame
        self._handles = [
            nn_module.register_module_forward_pre_hook(self.enter),
            nn_module.register_module_forward_hook(self._leave, always_call=True),
        ]
        self.__enter__()  # type: ignore[no-untyped-call]

    def stop(self) -> None:
        """Leave no hook and no mode behind; more than once does no harm."""
        self._frame = None
        for handle in self._handles:
            handle.remove()
        if self._handles and not self._aside and threading.get_ident() == self._thread:
            above = []
            while (mode := _python_dispatch._get_current_dispatch_mode()) is not None:
                if mode is self:
                    self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
                    break
                above.append(_python_dispatch._pop_mode())
            for mode in reversed(above):
                _python_dispatch._push_mode(mode)
        self._handles = []

    def runs_here(self) -> bool:
        """Return whether this thread is the one that is followed."""
        return threading.get_ident() == self._thread

    def is_running(self) -> bool:
        """Return whether the call that is followed is not over; no hook may have said so."""
        if not self._handles or self._frame is None or not self.runs_here():
            return bool(self._handles)
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame is not self._frame:
            frame = frame.f_back
        return frame is not None

    # --- modules ---

    def mark_inputs(self, values: Any) -> None:
        """Mark tensors as inputs, but for parameters and buffers of the model.

        Args:
            values: Anything that holds tensors.
        """
        for tensor in tensors_in(values):
            storage = storage_of(tensor)
            if storage is None or storage._cdata not in self._holders:
                self._marks.add(tensor)

    def enter(self, module: nn.Module, args: Any) -> None:
        """Note that the call of a module begins; this is a hook of all modules."""
        if threading.get_ident() != self._thread:
            return
        if not self.is_running():
            self.stop()
            return
        self.within.append(module)
        if self._is_tile(module):
            self._inside += 1
            if self._inside == 1 and _python_dispatch._get_current_dispatch_mode() is self:
                self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
                self._aside = True

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        """Note that the call of a module ends; this is a hook of all modules."""
        if threading.get_ident() != self._thread or module not in self.within:
            return
        while (last := self.within.pop()) is not module:  # its own hook failed
            self._end(last)
        self._end(module)
        if self._is_tile(module):
            for tensor in tensors_in(output):
                self._marks.add(tensor)
            if module in self._tiles:
                name, matrix, first = self._tiles[module]
                if first and isinstance(output, Tensor):
                    _count(self.measurement.analog[name], matrix, output, first)

    def _end(self, module: nn.Module) -> None:
        """Follow operations again if the module was the last analog product."""
        if self._is_tile(module):
            self._inside -= 1
            if self._inside == 0 and self._aside:
                self._aside = False
                self.__enter__()  # type: ignore[no-untyped-call]

    def _is_tile(self, module: nn.Module) -> bool:
        """Return whether a module does products on tiles, or is another converted model."""
        return module in self._tiles or is_converted(module) and module is not self._model

    # --- operations ---

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Do an operation, and follow which tensors depend on the inputs."""
        kwargs = kwargs or {}
        known = isinstance(func, OpOverload)  # not an operator on functions, such as cond
        given = [*tensors(args), *tensors(tuple(kwargs.values()))]
        if known and made_of_others(func) and all(map(is_plain, given)):
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeImplicitAutograd, *args, **kwargs)
        # the products of a backward pass belong to the layers of the forward pass
        counts = known and not self._inside and not in_backward()
        values = operands(func, args, kwargs) if counts else None
        digital = values is not None and self._is_digital(func, values)
        dependent = any(self._marks.has(tensor) for tensor in given)
        result = func(*args, **kwargs)
        if dependent:
            for tensor in tensors(result):
                self._marks.add(tensor)
            for tensor in written(func, args, kwargs) if known else ():
                self._marks.add(tensor)
        else:
            self._derive(given, result)
            if known:
                self._draw(func, args, kwargs, given, result)
        if digital and values is not None and self._record(func, values, args, result):
            for tensor in tensors(result):  # of drawn noise, too
                self._marks.add(tensor)
        return result

    def _draw(
        self, func: Any, args: tuple[Any, ...], kwargs: Any, given: list[Tensor], result: Any
    ) -> None:
        """Remember noise, such as the latent vectors of a generator; noise of weights is none."""
        fresh = torch.Tag.nondeterministic_seeded in func.tags
        if not fresh and not any(map(self._drawn.has, given)):
            return
        if not any(map(self._origins, given)):
            for tensor in (*tensors(result), *written(func, args, kwargs)):
                self._drawn.add(tensor)

    def _derive(self, given: list[Tensor], result: Any) -> None:
        """Remember which parameters a tensor was made from, such as a standardised weight."""
        origins = tuple(dict.fromkeys(o for tensor in given for o in self._origins(tensor)))
        for tensor in tensors(result) if origins else ():
            storage = storage_of(tensor)
            if storage is not None and storage._cdata not in self._holders:
                self._derived[storage._cdata] = (StorageWeakRef(storage), origins)

    def _is_digital(self, func: Any, values: list[Any]) -> bool:
        """Return whether some operands depend on the inputs, and others do not.

        Drawn noise counts as an input, but not where it is scaled by weights: that is how noise is
        put on them, in a training or on a chip.
        """
        if name_of(func).removesuffix("_") == "mul":
            depends = [any(map(self._marks.has, tensors(value))) for value in values]
        else:
            depends = [self._depends(value) for value in values]
        return any(depends) and not all(depends)

    def _depends(self, operand: Any) -> bool:
        return any(self._marks.has(t) or self._drawn.has(t) for t in tensors(operand))

    def _record(self, func: Any, values: list[Any], args: tuple[Any, ...], result: Any) -> bool:
        """Note a digital product: one row, or one for each weight of an analog layer in it.

        Returns:
            Whether it is a product.
        """
        inner = inner_size(func, values, args)
        fixed = list(tensors([value for value in values if not self._depends(value)]))
        largest = max(fixed, key=lambda tensor: tensor.numel(), default=None)
        origins = () if largest is None else self._origins(largest)
        held = [self._holders[origin] for origin in origins]
        layers = {self._layer_of(holders[0]): holders for holders in reversed(held)}
        on_tiles = [holders for layer, holders in layers.items() if layer is not None][::-1]
        if inner == 1 and not on_tiles:
            return False  # an inner dimension of 1 is a scaling, no product
        stack = [self.names[module] for module in self.within if module in self.names]
        if self._only_own and not stack and not held:
            return True
        outputs = list(tensors(result))
        macs = outputs[0].numel() * inner if outputs else 0
        for holders in on_tiles or held[:1] or [[]]:
            self._row(func, holders, stack, () if largest is None else tuple(largest.shape), macs)
            macs = 0
        return True

    def _row(
        self,
        func: Any,
        holders: list[str],
        stack: list[list[str]],
        shape: tuple[int, ...],
        macs: int,
    ) -> None:
        """Count a digital product in its row, which may be new."""
        modules = tuple(names[0] for names in stack)
        kind = type(self.within[-1]).__name__ if self.within else "function"
        key = (tuple(holders[:1]), modules, kind, name_of(func), shape, place())
        row = self._rows.get(key)
        if row is None:
            names = frozenset(filter(None, [*holders, *(n for names in stack for n in names)]))
            holder = holders[0] if holders else ""
            row = DigitalProduct(holder, modules, names, kind, name_of(func), shape, key[-1])
            innermost = self.within[-1] if self.within else None
            row.added = innermost in self.names and was_added(innermost)
            self._rows[key] = row
            self.measurement.digital.append(row)
        row.calls += 1
        row.macs += macs

    def _layer_of(self, holder: str) -> str | None:
        """Return the analog layer whose weight a parameter is, or None."""
        owner, _, name = holder.rpartition(".")
        if "bias" in name:
            return None
        return next((key for key in self.measurement.analog if inside(owner, key)), None)

    def _origins(self, tensor: Tensor) -> tuple[int, ...]:
        """Return the storages of the parameters and buffers that a tensor is or was made from."""
        storage = storage_of(tensor)
        if storage is None:
            return ()
        key: int = storage._cdata
        return (key,) if key in self._holders else self._derived.get(key, (None, ()))[1]


def _count(work: AnalogWork, matrix: Matrix, output: Tensor, columns: int) -> None:
    """Add a call; `columns` is the number of outputs per vector of this module."""
    grid = matrix.grid
    vectors = output.numel() // columns
    work.calls += 1
    work.mvms += vectors * grid.tiles
    work.macs += vectors * grid.in_features * grid.out_features
    if matrix.preset.crossbar.adc_bits is not None:
        work.adc_conversions += vectors * len(grid.rows) * grid.out_features
