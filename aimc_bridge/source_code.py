"""The source code of classes and functions, as Python's own syntax trees."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from torch import nn

_NO_CODE = ("typing", "abc", "torch.nn.utils.parametrize")

Method = tuple[ast.FunctionDef, Mapping[str, Any]]
"""A method's source, and what its module knows by name."""


@lru_cache(maxsize=1024)
def methods_of(kind: Any) -> dict[str, list[Method]] | None:
    """Return the methods of a class and its bases by name, the nearest first.

    None if a source is not there.
    """
    found: dict[str, list[Method]] = {}
    for base in kind.__mro__:
        if base in (nn.Module, object) or base.__module__ in _NO_CODE:
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            return None
        names = vars(sys.modules.get(base.__module__, builtins))
        for node in getattr(tree.body[0], "body", []):
            if isinstance(node, ast.FunctionDef):
                found.setdefault(node.name, []).append((node, names))
    return found


@lru_cache(maxsize=1024)
def function_source(function: types.FunctionType) -> ast.FunctionDef | None:
    """Return the source of a function, or None."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    node = tree.body[0]
    return node if isinstance(node, ast.FunctionDef) else None


def dotted(code: str) -> str:
    """Return code in which `getattr(self, "1")`, as torch.fx writes it, is `self.1`.

    Args:
        code: Python code.
    """
    while (short := re.sub(r"""getattr\(([\w.]+), ["'](\w+)["']\)""", r"\1.\2", code)) != code:
        code = short
    return code
