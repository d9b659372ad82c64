"""Tell from a module's code whether a parameter is multiplied with inputs or used otherwise.

Read from the source of the module's class, before any pass. A parameter that no product takes (a
position table that is added, a gain, a table that is looked up) is digital by right. What this
reading misses, the first pass shows (`aimc_bridge.products`): it decides what is an error early,
not what is measured. Where it is not sure, it says that the parameter is multiplied.
"""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.fx import GraphModule

from aimc_bridge.dataflow import Frame, bound, is_static
from aimc_bridge.source_code import Method, methods_of
from aimc_bridge.value_kinds import INPUT, NOTHING, joined

_NOT_READ = ("__init__", "reset_", "extra_repr", "_init_", "init_", "__repr__")


def is_multiplied(module: nn.Module, parameter: str) -> bool:
    """Return whether the code of a module may multiply inputs with a parameter, as with a matrix.

    The forward pass is read, with all functions and methods that it calls. If these do not mention
    the parameter, all methods of the class are read.

    Args:
        module: The module that holds the parameter.
        parameter: Name of the parameter in the module, or of a `nn.ParameterList` that holds it. In
            a torch.fx graph, also of a parameter in one of its parts, such as "encoder.table".

    Returns:
        True if a matrix product, a convolution, or a sum of scaled inputs takes it; also if the
        code cannot be read or does not mention it. False if all that it does is something else.
    """
    kind: Any = type(module)
    methods = _graph(module) if isinstance(module, GraphModule) else methods_of(kind)
    if methods is None or "forward" in module.__dict__:
        return True
    for part in (_reached(methods), methods):
        reading = _Reading(module, parameter, part)
        reading.read_class()
        if reading.mentioned:
            return reading.multiplied
    return True


def _reached(methods: Mapping[str, list[Method]]) -> dict[str, list[Method]]:
    """Return the forward pass of a class and the methods that it names, in any number of steps.

    A method that only changes a parameter, such as one for another size of window, is not there.
    """
    reached: dict[str, list[Method]] = {}
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        if name in methods and name not in reached:
            reached[name] = methods[name]
            for node, _ in methods[name]:
                waiting += [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    return reached


def _graph(module: GraphModule) -> dict[str, list[Method]] | None:
    """Return the generated forward pass of a torch.fx graph."""
    node = ast.parse(textwrap.dedent(module.code)).body[-1]
    names = getattr(module.forward, "__globals__", {})
    return {"forward": [(node, names)]} if isinstance(node, ast.FunctionDef) else None


class _Reading:
    """Reads all methods of a module's class, and what they call, for one parameter.

    Attributes:
        module: The module.
        names: Names of the attributes that hold the parameter.
        methods: The methods of the class, with the names that their modules know.
        mentioned: Whether the code mentions the parameter.
        multiplied: Whether a product may take it.
        results: What each call that was read returns; an unfinished one returns nothing yet.
    """

    def __init__(
        self,
        module: nn.Module,
        parameter: str,
        methods: Mapping[str, list[Method]],
    ) -> None:
        self.module, self.names, self.methods = module, {parameter}, methods
        self.mentioned = self.multiplied = False
        self.results: dict[tuple[Any, ...], frozenset[str]] = {}

    def read_class(self) -> None:
        """Read every method: its arguments are inputs.

        All are read again when an attribute turns out to hold the parameter, too.
        """
        known = set(self.names)
        for name, definitions in self.methods.items():
            for node, names in [] if name.startswith(_NOT_READ) else definitions:
                first = [] if is_static(node) else [NOTHING]
                self.call(node, names, [*first, *[INPUT] * 50], {}, self.module, 0)
        if self.names != known:
            self.results.clear()
            self.read_class()

    def call(
        self,
        node: ast.FunctionDef,
        names: Mapping[str, Any],
        arguments: list[frozenset[str]],
        keywords: Mapping[str, frozenset[str]],
        owner: nn.Module | None,
        depth: int,
    ) -> frozenset[str]:
        """Read a function, once per kinds of arguments, and return what it returns.

        Args:
            node: The function.
            names: What its module knows by name.
            arguments: What its positional arguments are made of, `self` included.
            keywords: The same for keyword arguments.
            owner: The module that `self` is, if it is one.
            depth: How many calls lead here.
        """
        local = bound(node, arguments, keywords)
        key = (id(node), id(owner), tuple(sorted((n, *sorted(v)) for n, v in local.items())))
        if key not in self.results:
            self.results[key] = NOTHING
            frame = Frame(self, names, local, owner, depth)
            frame.run(node.body)
            self.results[key] = joined([frame.returned])
        return self.results[key]
