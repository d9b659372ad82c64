"""The first real pass of a converted model is measured, whoever runs it.

Hooks on the model, and on every part of it that holds an analog layer, watch the first call from
outside, and are then removed. A digital product that nobody excluded is an error if the conversion
was strict, else a warning. Outputs, gradients and random numbers are those of any other pass.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import nn

from aimc_bridge.converted import (
    ConversionRecord,
    inside,
    matches,
    matrices_of,
    record_of,
    shortened,
)
from aimc_bridge.engines.base import Matrix, engine
from aimc_bridge.errors import ConversionError
from aimc_bridge.products import DigitalProduct
from aimc_bridge.watching import Watcher, in_backward, is_ordinary, is_watched

_SHOWN = 12  # products that a message writes out


def watch_first_pass(model: nn.Module) -> None:
    """Let the first pass of a converted model be measured.

    Args:
        model: A converted model, whose record is attached.
    """
    record = record_of(model)
    tiles = {
        module for matrix in matrices_of(model).values() for module, _ in matrix.product_modules()
    }
    for name, module in model.named_modules():
        if module not in tiles and any(part in tiles for part in module.modules()):
            part = _Part(name, record)
            module.register_forward_pre_hook(part.begin, with_kwargs=True, prepend=True)
            module.register_forward_hook(part.end, always_call=True)


@contextmanager
def measuring(model: nn.Module, inputs: Any = None) -> Iterator[None]:
    """Measure what a block does with a model, until its first pass is over.

    The block may call the model itself, parts of it, or other methods than `forward`. It counts as
    the first pass until the whole model has run, or a part begins for the second time.

    Args:
        model: A converted model. If its first pass is over, nothing is measured.
        inputs: The batch that the block runs, if it is known.

    Yields:
        Nothing.

    Raises:
        ConversionError: If the conversion was strict, and something multiplies digitally that
            nobody excluded.
    """
    record = record_of(model)
    if record.measured or is_watched(record) or not is_ordinary(model):
        yield
        return
    watch = _Watch(model, "", record, block=True)
    if not watch.begin():
        yield
        return
    watch.watcher.mark_inputs(inputs)
    try:
        yield
    except BaseException:
        watch.stop()
        raise
    if _WATCHES.get(id(record)) is watch:
        watch.finish()


class MeasuredLoop:
    """Measures what a loop of the user's own does until its first backward pass.

    A pass of the whole model is measured by its own hooks. This is for loops that call its parts,
    and multiply between them with parameters of the model. `begin` is for hooks before the calls of
    `modules`, ahead of all others.

    Attributes:
        model: A converted model.
        modules: The modules whose first call begins the measurement; none if the first pass is
            over.
    """

    def __init__(self, model: nn.Module) -> None:
        """Look at a model; nothing is measured yet."""
        self.model, self._record = model, record_of(model)
        self._watch: _Watch | None = None
        self._over = self._record.measured
        tiles = {
            module
            for matrix in matrices_of(model).values()
            for module, _ in matrix.product_modules()
        }
        self.modules = [
            module
            for module in model.modules()
            if not self._over
            and module is not model
            and any(part in tiles for part in module.modules())
        ]

    def begin(self, module: nn.Module, args: Any) -> None:
        """Begin to measure with the call of a part of the model, if it comes from outside."""
        record = self._record
        if self._over or self._watch is not None or record.measured or is_watched(record):
            return
        other = _WATCHES.get(id(record))
        if other is not None and other.watcher.is_running() or not is_ordinary(module):
            return
        if other is not None:
            other.stop()
        watch = _Watch(self.model, "", record, block=True)
        if watch.begin():
            self._watch = watch
            watch.watcher.enter(module, args)

    def end(self) -> None:
        """Judge what was seen, after the first backward pass; later calls do nothing.

        Raises:
            ConversionError: As in `measuring`.
        """
        watch, self._watch, self._over = self._watch, None, True
        if watch is not None and _WATCHES.get(id(self._record)) is watch:
            watch.finish()

    def stop(self) -> None:
        """Measure nothing any more, without a judgement."""
        watch, self._watch, self._over = self._watch, None, True
        if watch is not None:
            watch.stop()


class _Part:
    """The hooks of a converted model, or of a part of it, before its first pass.

    Copies and pickles of the module keep them.

    Attributes:
        name: Name of the part in the whole model; "" is the whole model.
        record: The record of the conversion.
    """

    def __init__(self, name: str, record: ConversionRecord) -> None:
        """Remember which part it is."""
        self.name, self.record = name, record

    def begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Begin to watch if the call comes from outside; a forward pre-hook."""
        if not is_ordinary(module) or is_watched(self.record):
            return
        other = _WATCHES.get(id(self.record))
        if other is not None and not other.watcher.is_running():
            other.stop()
            other = None
        if other is not None and other.block and other.watcher.runs_here():
            if not other.begins(module, self.name, args, kwargs):
                return
        elif other is not None:
            if other.module is module and other.watcher.runs_here():
                other.depth += 1
            return
        watch = _Watch(module, self.name, self.record)
        if other is not None:
            watch.products = other.products + other.watcher.measurement.digital
        if watch.begin(sys._getframe(1)):
            watch.watcher.mark_inputs((args, kwargs))

    def end(self, module: nn.Module, args: Any, output: Any) -> None:
        """Judge what was seen when the watched call ends; a forward hook, always called."""
        watch = _WATCHES.get(id(self.record))
        if watch is None or watch.module is not module or watch.block or in_backward():
            return
        if not watch.watcher.runs_here():
            return
        watch.depth -= 1
        if watch.depth == 0:
            if sys.exc_info()[1] is not watch.handled:  # the forward pass failed
                watch.stop()
            else:
                watch.finish()


class _Watch:
    """One call, or one block, that is watched.

    Attributes:
        module: The converted model, or the part of it, that is called.
        record: The record of the conversion.
        block: Whether a block is watched in which parts are called.
        watcher: What follows the operations.
        depth: How many calls of the module have begun and not ended.
        handled: The exception that was being handled when the watch began.
        parts: Parts of the model that the block has called.
        products: Digital products that were seen before the watch began.
    """

    def __init__(
        self, module: nn.Module, name: str, record: ConversionRecord, *, block: bool = False
    ) -> None:
        """Prepare a watch; `begin` begins it."""
        self.module, self.name, self.record, self.block = module, name, record, block
        self.watcher = Watcher(module, _matrices(module, name, record), name, only_own=block)
        self.depth = 1
        self.handled = sys.exc_info()[1]
        self.parts: list[nn.Module] = []
        self.products: list[DigitalProduct] = []

    def begin(self, frame: FrameType | None = None) -> bool:
        """Begin to watch; return False if another thread was faster.

        Args:
            frame: The frame of the call that is watched; None for a block.
        """
        if _WATCHES.setdefault(id(self.record), self) is not self:
            return False
        self.watcher.start(None if self.block else self.module, frame)
        return True

    def begins(self, module: nn.Module, name: str, args: Any, kwargs: Any) -> bool:
        """Note a call in a block; return whether the call is to be watched in place of the block.

        Args:
            module: The converted model or a part of it.
            name: Its name in the whole model.
            args: Its arguments.
            kwargs: Its keyword arguments.
        """
        if any(outer in self.watcher.names for outer in self.watcher.within[:-1]):
            return False
        if name == "":
            self.stop()
            return True
        if module in self.parts:
            self.finish()
            return False
        self.parts.append(module)
        self.watcher.mark_inputs((args, kwargs))
        return False

    def stop(self) -> None:
        """Leave nothing behind; the next pass is the first again."""
        self.watcher.stop()
        if _WATCHES.get(id(self.record)) is self:
            del _WATCHES[id(self.record)]

    def finish(self) -> None:
        """Stop, judge what was seen, and remove the hooks.

        Raises:
            ConversionError: If the conversion was strict, and something multiplies digitally that
                nobody excluded. The hooks then stay.
        """
        self.stop()
        products = [
            product
            for product in (*self.products, *self.watcher.measurement.digital)
            if not product.added and excluded_by(product, self.record.exclude) is None
        ]
        if products:
            message = _message(self.module, products, self.record, self.watcher)
            if self.record.strict:
                raise ConversionError(message)
            warnings.warn(message, stacklevel=2)
        for part in self.parts if self.block else [self.module]:
            _remove_hooks(part, self.record)
        if self.name == "" and not self.block:
            self.record.measured = True


_WATCHES: dict[int, _Watch] = {}
"""The watch that runs, by the identity of the conversion's record, which the watch holds."""


def _matrices(module: nn.Module, name: str, record: ConversionRecord) -> dict[str, Matrix]:
    """Return the matrices of a part, by their names in the whole model."""
    matrices = engine(record.engine).matrices(module)
    return {".".join(filter(None, [name, key])): matrix for key, matrix in matrices.items()}


def _remove_hooks(module: nn.Module, record: ConversionRecord) -> None:
    """Remove the hooks of a module and its parts."""
    for part in module.modules():
        for hooks, about in (
            (part._forward_pre_hooks, part._forward_pre_hooks_with_kwargs),
            (part._forward_hooks, part._forward_hooks_always_called),
        ):
            for key, hook in list(hooks.items()):
                owner = getattr(hook, "__self__", None)
                if isinstance(owner, _Part) and owner.record is record:
                    del hooks[key]
                    about.pop(key, None)


def excluded_by(product: DigitalProduct, patterns: Iterable[str]) -> str | None:
    """Return the pattern that leaves a product digital, or None.

    Args:
        product: A digital product.
        patterns: Names and shell patterns of modules, parameters and buffers.
    """
    return next((p for p in patterns if any(matches(n, p) for n in product.names)), None)


# --- messages -------------------------------------------------------------------------------------


def _message(
    model: nn.Module,
    products: list[DigitalProduct],
    record: ConversionRecord,
    watcher: Watcher,
) -> str:
    """Return what is wrong, and an `exclude` to paste if names can exclude all of it."""
    lines = [f"  {product}" for product in products]
    if len(lines) > _SHOWN + 1:
        lines[_SHOWN:] = [f"  and {len(lines) - _SHOWN} more"]
    found = "\n".join(
        [f"the first pass of {type(model).__name__} multiplied outside of the tiles:", *lines]
    )
    analog = [layer.module for layer in record.layers if layer.where == "analog"]
    matrices = list(watcher.measurement.analog)
    named = [_name_to_exclude(product, analog, matrices) for product in products]
    way = "write a handler for the layer (@aimc_bridge.handles)"
    if not all(named):
        way = (
            "keep layers in the module tree (nn.ModuleList) and constants in buffers, which have "
            f"names to exclude, {way}"
        )
    names = [name for names in watcher.names.values() for name in names]
    patterns = [*record.exclude, *shortened(filter(None, named), names)]
    listed = ", ".join(f'"{pattern}"' for pattern in dict.fromkeys(patterns))
    strict = ", pass strict=False to convert" if record.strict else ""
    if not any(named):
        return f"{found}\n{way}{strict}"
    return f"{found}\n{way}{strict}, or leave them digital by name: exclude=[{listed}]"


def _name_to_exclude(product: DigitalProduct, analog: list[str], matrices: list[str]) -> str:
    """Return the name that leaves a product digital and as much as possible analog; "" for none.

    Args:
        product: A digital product.
        analog: Names of the analog layers.
        matrices: Names of the weight matrices on tiles.
    """
    owner = product.holder.rpartition(".")[0]
    if product.holder and any(inside(owner, matrix) for matrix in matrices):
        return next((layer for layer in analog if inside(owner, layer)), "")
    innermost = product.modules[-1] if product.modules else ""
    if innermost and not any(inside(matrix, innermost) for matrix in matrices):
        return innermost
    return product.holder
