"""How the code of a module uses a parameter: as a matrix that is multiplied with, or otherwise.

Read from the source of the module's class, before any pass. A parameter that no product takes (a
position table that is added, a gain) is digital by right. What this reading misses, the first pass
shows (`aimc_bridge.products`): it decides what is an error early, not what is measured.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import lru_cache

from torch import nn

_PRODUCTS = frozenset(
    {
        *("linear", "matmul", "bmm", "mm", "mv", "dot", "vdot", "inner", "tensordot", "einsum"),
        *(
            "addmm",
            "addmv",
            "baddbmm",
            "addbmm",
            "bilinear",
            "chain_matmul",
            "multi_dot",
            "_int_mm",
        ),
        *("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"),
        *(
            "conv_transpose3d",
            "_grouped_mm",
            "grouped_mm",
            "_scaled_mm",
            "_int_mm",
            "embedding_bag",
        ),
        *("scaled_dot_product_attention", "multi_head_attention_forward", "__matmul__"),
    }
)
_JOINS = frozenset({"cat", "concat", "concatenate", "stack", "hstack", "vstack"})


def is_multiplied(module: nn.Module, parameter: str) -> bool:
    """Whether the code of a module may multiply inputs with a parameter as with a matrix.

    Args:
        module: The module that holds the parameter.
        parameter: The parameter's name in the module.

    Returns:
        True if a matrix product, a convolution or the like takes it, if the code cannot be read, or
        if it does not mention the parameter; False if all that it does is something else.
    """
    methods = _methods(type(module))  # type: ignore[arg-type]
    if methods is None or "forward" in module.__dict__:
        return True
    uses = [_Uses(parameter) for _ in methods]
    for use, method in zip(uses, methods, strict=True):
        use.read(method)
    return not any(use.mentioned for use in uses) or any(use.multiplied for use in uses)


@lru_cache(maxsize=1024)
def _methods(kind: type[nn.Module]) -> list[ast.FunctionDef] | None:
    """Return all methods of a class and its bases; None if their source is not there."""
    found: list[ast.FunctionDef] = []
    seen: set[str] = set()
    for base in kind.__mro__:
        if base in (nn.Module, object):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            return None
        for node in getattr(tree.body[0], "body", []):
            if isinstance(node, ast.FunctionDef) and node.name not in seen:
                seen.add(node.name)
                if not node.name.startswith(("__init__", "reset_parameters", "extra_repr")):
                    found.append(node)
    return found


class _Uses(ast.NodeVisitor):
    """Follows one parameter through a method, in the order of the text."""

    def __init__(self, parameter: str) -> None:
        self.parameter = parameter
        self.names: set[str] = set()  # local variables that hold the parameter
        self.mentioned = False
        self.multiplied = False

    def read(self, method: ast.FunctionDef) -> None:
        for statement in method.body:
            self.visit(statement)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if self._is_parameter(node):
            self.mentioned = True
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        holds = self._holds(node.value)
        for target in node.targets:
            for name in ast.walk(target):
                if isinstance(name, ast.Name):
                    (self.names.add if holds else self.names.discard)(name.id)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.MatMult) and (self._holds(node.left) or self._holds(node.right)):
            self.multiplied = True
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        values = [*node.args, *(keyword.value for keyword in node.keywords)]
        name = _name(node.func)
        owner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
        if name in _PRODUCTS and any(map(self._holds, (*owner, *values))):
            self.multiplied = True
        self.generic_visit(node)

    def _is_parameter(self, node: ast.AST) -> bool:
        return (
            isinstance(node, ast.Attribute)
            and node.attr == self.parameter
            and isinstance(node.value, ast.Name)
            and node.value.id == "self"
        )

    def _holds(self, node: ast.AST) -> bool:
        """Whether an expression is the parameter, in another shape perhaps."""
        if self._is_parameter(node):
            return True
        if isinstance(node, ast.Name):
            return node.id in self.names
        if isinstance(node, ast.Attribute | ast.Subscript | ast.Starred):
            return self._holds(node.value)
        if isinstance(node, ast.Tuple | ast.List):
            return any(map(self._holds, node.elts))
        if isinstance(node, ast.IfExp):
            return self._holds(node.body) or self._holds(node.orelse)
        if isinstance(node, ast.UnaryOp):
            return self._holds(node.operand)
        if isinstance(node, ast.BinOp):  # scaled by a number or by another attribute
            sides = (node.left, node.right)
            plain = all(self._holds(side) or _is_plain(side) for side in sides)
            return plain and any(map(self._holds, sides))
        if isinstance(node, ast.Call):
            if _name(node.func) in _JOINS:
                return False
            owner = [node.func.value] if isinstance(node.func, ast.Attribute) else []
            return any(map(self._holds, (*owner, *node.args)))
        return False


def _name(function: ast.AST) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_plain(node: ast.AST) -> bool:
    """Whether an expression has no local variables: numbers and attributes of the module."""
    return not any(isinstance(part, ast.Name) and part.id != "self" for part in ast.walk(node))
