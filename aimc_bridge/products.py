"""Recognise products among the operations below Python, and record facts about them.

A product is a matrix product, a convolution, attention, an embedding bag, or a fused or quantised
operation. Every such operation of ATen is listed with the places of its operands; others are found
by their names.
"""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_OPERANDS: dict[str, tuple[int, ...]] = {
    "mul": (0, 1),  # counts with the weight of an analog layer only: a sum may follow
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
    "_weight_int4pack_mm_for_cpu": (0, 1),
    "_weight_int4pack_mm_with_scales_and_zeros": (0, 1),
    "_weight_int8pack_mm": (0, 1),
    "_scaled_mm_v2": (0, 1),
    "_scaled_grouped_mm_v2": (0, 1),
    "_sparse_mm_reduce_impl": (0, 1),
    "convolution": (0, 1),
    "_convolution": (0, 1),
    "mkldnn_convolution": (0, 1),
    "cudnn_convolution": (0, 1),
    "_trilinear": (0, 1, 2),
    "_embedding_bag": (0, 6),  # a lookup, unless every entry has a weight of its own
    "_embedding_bag_forward_only": (0, 6),
    # queries, keys and values; masks and biases of the scores are added
    "scaled_dot_product_attention": (0, 1, 2),
    "_scaled_dot_product_attention_math": (0, 1, 2),
    "_scaled_dot_product_attention_math_for_mps": (0, 1, 2),
    "_scaled_dot_product_flash_attention": (0, 1, 2),
    "_scaled_dot_product_flash_attention_for_cpu": (0, 1, 2),
    "_scaled_dot_product_efficient_attention": (0, 1, 2),
    "_scaled_dot_product_cudnn_attention": (0, 1, 2),
    "_scaled_dot_product_fused_attention_overrideable": (0, 1, 2),
    "_flash_attention_forward": (0, 1, 2),
    "_efficient_attention_forward": (0, 1, 2),
    "_cudnn_attention_forward": (0, 1, 2),
    "_native_multi_head_attention": (0, 1, 2, 5, 7),
    "_transformer_encoder_layer_fwd": (0, 3, 5, 12, 14),
}
"""Operation of ATen -> places of its operands."""

_LIKE_A_PRODUCT = re.compile(
    r"linear|conv(?!ert)|mm(?![a-z])|matmul|attention|rnn|lstm|gru|embedding_bag|bilinear"
)
_NO_PRODUCT = re.compile(r"backward|_cell\b|reorder|prepack|pack_weight|unpack")

_HERE = f"{Path(__file__).parent}{os.sep}"
_TORCH = f"{Path(torch.__file__).parent}{os.sep}"


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
        names: All names by which it can be excluded: of these modules, and of the holder.
        kind: Class of the innermost of these modules, in the module tree or not.
        operation: Name of the operation, such as "mm".
        shape: Shape of the operand that does not depend on the inputs.
        place: Source file and line, "model.py:12".
        calls: How often it ran.
        macs: Multiplications of the two operands, if the operation tells.
        added: Whether the innermost module came after the conversion, as adapters do.
    """

    holder: str
    modules: tuple[str, ...]
    names: frozenset[str]
    kind: str
    operation: str
    shape: tuple[int, ...]
    place: str
    calls: int = 0
    macs: int = 0
    added: bool = False

    def __str__(self) -> str:
        """Return one line: the operation, its fixed operand, the module, file and line."""
        size = " x ".join(map(str, self.shape)) or "packed weights"
        what = repr(self.holder) if self.holder else "a constant"
        where = f" in {self.modules[-1]!r}" if self.modules and self.modules[-1] else ""
        article = "an" if self.kind.startswith(tuple("AEIOU")) else "a"
        return f"{self.operation} with {what} ({size}){where}, {article} {self.kind} ({self.place})"


@dataclass
class Measurement:
    """The work of every matrix on tiles in a pass, and all digital products."""

    analog: dict[str, AnalogWork] = field(default_factory=dict)
    digital: list[DigitalProduct] = field(default_factory=list)

    @property
    def unreached(self) -> list[str]:
        """Names of the analog layers that the pass did not reach."""
        return [name for name, work in self.analog.items() if not work.calls]


def tensors(value: Any) -> Iterator[Tensor]:
    """Yield the tensors in an argument or a result of an operation.

    Args:
        value: A tensor, a list or tuple of them, or anything else, which holds none.
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)


def operands(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any] | None:
    """Return the operands of a product; None if the operation is none.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    places = _places(func)
    if places is None:
        return None
    if places:
        values = [args[p] if p < len(args) else kwargs.get(name) for p, name in places]
        return [value for value in values if value is not None]
    found: list[Any] = []
    for value in (*args, *kwargs.values()):  # biases and states are no operands: vectors
        wide = [t for t in tensors(value) if t.ndim >= 2 and t.is_floating_point()]
        if isinstance(value, torch.ScriptObject):
            found.append(value)
        elif wide:
            found += wide if isinstance(value, list | tuple) else [wide[0]]
    return found if len(found) > 1 else None


def made_of_others(func: Any) -> bool:
    """Return whether an operation that is no listed product is written in terms of others.

    Below autograd, in inference mode, they are seen whole: einsum, tensordot, LSTM cells.

    Args:
        func: The operation.
    """
    return bool(not _places(func) and _is_composite(func))


@lru_cache(maxsize=4096)
def _is_composite(func: Any) -> bool:
    """Return whether torch has a kernel for it that calls other operations."""
    if func.namespace == "prim":  # asks about a tensor, such as its layout
        return False
    key = "CompositeImplicitAutograd"
    return bool(torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), key))


@lru_cache(maxsize=4096)
def _places(func: Any) -> tuple[tuple[int, str], ...] | None:
    """Return place and name of each operand; () if they must be looked for, None for no product."""
    namespace, _, name = func._schema.name.partition("::")
    places = _OPERANDS.get(name.removesuffix("_")) if namespace == "aten" else None  # addmm_
    if places is not None:
        named = [argument.name for argument in func._schema.arguments]
        return tuple((p, named[p]) for p in places if p < len(named))
    if not _LIKE_A_PRODUCT.search(name) or _NO_PRODUCT.search(name):
        return None
    return ()


def name_of(func: Any) -> str:
    """Return the name of an operation without its namespace, such as "mm".

    Args:
        func: The operation.
    """
    name: str = func._schema.name.partition("::")[2]
    return name


def inner_size(func: Any, operands: list[Any], args: tuple[Any, ...]) -> int:
    """Return the number of terms that are summed for one output; 0 if it is not known.

    Args:
        func: The operation.
        operands: Its operands.
        args: All its arguments.
    """
    name = name_of(func)
    if name.removesuffix("_") == "mul":
        return 1
    if not all(isinstance(operand, Tensor) for operand in operands):
        return 0
    if "conv" in name:
        transposed = len(args) > 8 and args[6] is True
        inputs = operands[1].shape[0] // args[8] if transposed else operands[1].shape[1]
        return int(math.prod(operands[1].shape[2:], start=inputs))
    if "attention" in name or "rnn" in name or "embedding_bag" in name or name == "_trilinear":
        return 0
    return int(operands[0].shape[-1]) if operands[0].ndim else 1


def written(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an in-place operation or an `out=` argument writes to.

    Args:
        func: The operation.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """
    for place, name in _writes(func):
        yield from tensors(args[place] if place < len(args) else kwargs.get(name))


@lru_cache(maxsize=4096)
def _writes(func: Any) -> tuple[tuple[int, str], ...]:
    """Return place and name of each argument that an operation writes to."""
    return tuple(
        (place, argument.name)
        for place, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def place() -> str:
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
