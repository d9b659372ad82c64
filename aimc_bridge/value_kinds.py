"""The kinds of values in source code, and the kinds that operations known by name make of them."""

from __future__ import annotations

from collections.abc import Mapping

PARAMETER = frozenset({"parameter"})
INPUT = frozenset({"input"})
SCALED = frozenset({"input", "scaled"})
NOTHING: frozenset[str] = frozenset()
"""The kinds: made of the parameter alone ("parameter"); made of inputs ("input"); made of inputs
and scaled by the parameter, element by element ("input", "scaled"); none of these (empty)."""

_TWO = (0, 1)
PRODUCTS: dict[str, tuple[int, ...] | None] = {
    **dict.fromkeys(("linear", "matmul", "bmm", "mm", "mv", "dot", "vdot", "inner"), _TWO),
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "vecdot", "__matmul__", "outer"), _TWO),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _TWO),
    **dict.fromkeys(("grouped_mm", "_grouped_mm", "_int_mm", "_scaled_mm", "cdist"), _TWO),
    **dict.fromkeys(("addmm", "addmv", "baddbmm", "addbmm"), (1, 2)),
    **dict.fromkeys(("tensordot", "einsum", "chain_matmul", "multi_dot", "bilinear"), None),
    **dict.fromkeys(("embedding_bag", "multi_head_attention_forward"), None),
    "scaled_dot_product_attention": (0, 1, 2),
}
"""Product -> places of its operands; None for all of its arguments."""

_NO_OPERANDS = frozenset({"bias", "attn_mask", "beta", "alpha"})
NO_VALUES = frozenset(
    {"shape", "dtype", "device", "ndim", "layout", "is_cuda", "requires_grad", "names"}
)
NO_VALUES_CALLED = frozenset(
    {"size", "dim", "numel", "len", "isinstance", "get_device", "stride", "numpy", "tolist", "item"}
)
SUMS = frozenset({"sum", "mean", "nansum", "nanmean", "logsumexp", "norm", "reduce", "cumsum"})
ELEMENTWISE = frozenset({"mul", "multiply", "mul_"})
TENSOR_PACKAGES = ("torch", "einops", "math", "builtins", "numpy")


def joined(values: list[frozenset[str]]) -> frozenset[str]:
    """Return what a value is made of that is made of several.

    Args:
        values: The kinds of the values.
    """
    value = frozenset().union(*values)
    return value - PARAMETER if value & INPUT else value


def scaled(left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    """Return what a product, element by element, is made of.

    Args:
        left: The kind of one factor.
        right: The kind of the other.
    """
    if PARAMETER & (left | right) and INPUT & (left | right):
        return SCALED
    return joined([left, right])


def operands_of(
    name: str, arguments: list[frozenset[str]], keywords: Mapping[str, frozenset[str]]
) -> list[frozenset[str]]:
    """Return the operands of a product among its arguments.

    Args:
        name: A key of PRODUCTS.
        arguments: The kinds of its arguments.
        keywords: The kinds of its keyword arguments.
    """
    places = PRODUCTS[name]
    named = [value for key, value in keywords.items() if key not in _NO_OPERANDS]
    if places is None:
        return [*arguments, *named]
    return [*(arguments[place] for place in places if place < len(arguments)), *named]
