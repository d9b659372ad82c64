"""Tell which values in a function's source come from one parameter, from inputs, or from both.

`aimc_bridge.usage` asks this about the forward pass of a module. Values are followed in the order
of the text, through branches, loops and calls; nothing is run.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import types
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Protocol

from torch import nn

from aimc_bridge.source_code import Method, dotted, function_source, methods_of
from aimc_bridge.value_kinds import (
    ELEMENTWISE,
    INPUT,
    NO_VALUES,
    NO_VALUES_CALLED,
    NOTHING,
    PARAMETER,
    PRODUCTS,
    SUMS,
    TENSOR_PACKAGES,
    joined,
    operands_of,
    scaled,
)

_CALLERS = frozenset({"checkpoint", "vmap", "compile", "apply", "reduce", "partial", "map"})
_DEPTH = 6  # functions that call functions


class Reading(Protocol):
    """A reader of the methods of a module's class, for one parameter.

    Attributes:
        module: The module.
        names: Names of the attributes that hold the parameter.
        methods: The methods of the class, with the names that their modules know.
        mentioned: Whether the code mentions the parameter.
        multiplied: Whether a product may take it.
    """

    module: nn.Module
    names: set[str]
    methods: Mapping[str, list[Method]]
    mentioned: bool
    multiplied: bool

    def call(
        self,
        node: ast.FunctionDef,
        names: Mapping[str, Any],
        arguments: list[frozenset[str]],
        keywords: Mapping[str, frozenset[str]],
        owner: nn.Module | None,
        depth: int,
    ) -> frozenset[str]:
        """Read a function, and return what it returns."""


def is_static(node: ast.FunctionDef) -> bool:
    """Return whether a method has no `self`."""
    return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)


def bound(
    node: ast.FunctionDef,
    arguments: list[frozenset[str]],
    keywords: Mapping[str, frozenset[str]],
) -> dict[str, frozenset[str]]:
    """Return what each parameter of a function is made of."""
    spec = node.args
    places = [argument.arg for argument in (*spec.posonlyargs, *spec.args)]
    local = dict(zip(places, arguments, strict=False))
    for name, value in keywords.items():
        if name in places or any(argument.arg == name for argument in spec.kwonlyargs):
            local[name] = value
        elif spec.kwarg is not None:
            local[spec.kwarg.arg] = local.get(spec.kwarg.arg, NOTHING) | value
    if spec.vararg is not None:
        local[spec.vararg.arg] = NOTHING.union(*arguments[len(places) :])  # each may be taken out
    return local


class Frame:
    """Follows values through one function, in the order of the text.

    Attributes:
        local: What each local variable is made of.
        returned: What the function returns.
    """

    def __init__(
        self,
        reading: Reading,
        names: Mapping[str, Any],
        local: dict[str, frozenset[str]],
        owner: nn.Module | None,
        depth: int,
    ) -> None:
        """Begin a function.

        Args:
            reading: What reads the class.
            names: What the function's module knows by name.
            local: What each argument is made of.
            owner: The module that `self` is, if it is one.
            depth: How many calls lead here.
        """
        self.reading, self.names, self.owner, self.depth = reading, names, owner, depth
        self.local = local
        self.returned: frozenset[str] = NOTHING

    def run(self, body: list[ast.stmt]) -> None:
        """Follow the values through statements."""
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Return(value=value):
                if value is not None:
                    self.returned |= self.value(value)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, value)
            case ast.AnnAssign(target=target, value=value) if value is not None:
                self._assign(target, value)
            case ast.AugAssign(target=target, op=op, value=value):
                self._store(target, self._operation(op, self.value(target), self.value(value)))
            case ast.For(target=target, iter=iterated):
                self._assign_each(target, iterated)
                self._branches([*node.body, *node.body], node.orelse)  # twice: values come round
            case ast.While(test=test):
                self.value(test)
                self._branches([*node.body, *node.body], node.orelse)
            case ast.If(test=test):
                self.value(test)
                self._branches(node.body, node.orelse)
            case ast.With(items=items):
                for item in items:
                    context = self.value(item.context_expr)
                    if item.optional_vars is not None:
                        self._store(item.optional_vars, context)
                self.run(node.body)
            case ast.Try():
                self._branches(node.body, [s for h in node.handlers for s in h.body])
                self.run([*node.orelse, *node.finalbody])
            case ast.FunctionDef():
                frame = self._inner({a.arg: INPUT for a in node.args.args})
                frame.run(node.body)
                self.local[node.name] = frame.returned
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child)
                    elif isinstance(child, ast.stmt):
                        self._statement(child)

    def _branches(self, first: list[ast.stmt], second: list[ast.stmt]) -> None:
        """Follow two branches, of which either may run; a variable may then be both."""
        before = dict(self.local)
        self.run(first)
        after, self.local = self.local, before
        self.run(second)
        for name in {*after, *self.local}:
            self.local[name] = after.get(name, NOTHING) | self.local.get(name, NOTHING)

    def _assign(self, target: ast.expr, value: ast.expr) -> None:
        """Follow an assignment, item by item where both sides are written as tuples."""
        if (
            isinstance(target, ast.Tuple)
            and isinstance(value, ast.Tuple)
            and len(target.elts) == len(value.elts)
        ):
            values = [self.value(item) for item in value.elts]
            for item, item_value in zip(target.elts, values, strict=True):
                self._store(item, item_value)
        else:
            self._store(target, self.value(value))

    def _assign_each(self, target: ast.expr, iterated: ast.expr) -> None:
        """Give the variables of a loop what they iterate over."""
        names = {"zip": 0, "enumerate": -1}
        if (
            isinstance(iterated, ast.Call)
            and _name(iterated.func) in names
            and isinstance(target, ast.Tuple)
        ):
            sources = [self.value(argument) for argument in iterated.args]
            if _name(iterated.func) == "enumerate":
                sources = [NOTHING, *sources[:1]]
            for item, source in zip(target.elts, sources, strict=False):
                self._store(item, source)
        else:
            self._store(target, self.value(iterated))

    def _store(self, target: ast.expr, value: frozenset[str]) -> None:
        if isinstance(target, ast.Name):
            self.local[target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            for item in target.elts:
                self._store(item, value)
        elif isinstance(target, ast.Starred):
            self._store(target.value, value)
        elif isinstance(target, ast.Subscript):  # a part of a value is written
            self.value(target.slice)
            if isinstance(target.value, ast.Name):
                old = self.local.get(target.value.id, NOTHING)
                self.local[target.value.id] = joined([old, value])
        elif value & PARAMETER and isinstance(target, ast.Attribute):
            if self._is_own(target):
                self.reading.names.add(target.attr)  # kept under another name
            else:
                self.reading.multiplied = True  # what happens to it elsewhere is not followed

    def value(self, node: ast.expr) -> frozenset[str]:
        """Return what an expression is made of."""
        match node:
            case ast.Constant():
                return NOTHING
            case ast.Name(id=name):
                return self.local.get(name, NOTHING)
            case ast.Attribute(value=owner, attr=attribute):
                if self._is_parameter(node):
                    self.reading.mentioned = True
                    return PARAMETER
                inner = self.value(owner)
                if attribute in NO_VALUES:
                    return NOTHING
                if isinstance(owner, ast.Name) and owner.id == "self" and self.owner is not None:
                    defined = inspect.getattr_static(type(self.owner), attribute, None)
                    if isinstance(defined, property | cached_property):
                        return self._followed(self.owner, attribute, [], {})
                return inner
            case ast.Subscript(value=owner, slice=index):
                whole, place = self.value(owner), self.value(index)
                return joined([whole, place]) if place else whole
            case ast.BinOp(left=left, op=op, right=right):
                return self._operation(op, self.value(left), self.value(right))
            case ast.Call():
                return self._call(node)
            case ast.Compare() | ast.BoolOp() | ast.JoinedStr():
                values = [self.value(part) for part in _parts(node)]
                return joined(values) if isinstance(node, ast.BoolOp) else NOTHING
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.value(test)
                return self.value(body) | self.value(orelse)
            case ast.NamedExpr(target=target, value=value):
                result = self.value(value)
                self._store(target, result)
                return result
            case ast.Lambda(args=arguments, body=body):
                return self._inner({a.arg: INPUT for a in arguments.args}).value(body)
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp() | ast.DictComp():
                frame = self._inner({})
                for generator in node.generators:
                    frame._assign_each(generator.target, generator.iter)
                    for test in generator.ifs:
                        frame.value(test)
                if isinstance(node, ast.DictComp):
                    return joined([frame.value(node.key), frame.value(node.value)])
                return frame.value(node.elt)
            case _:
                return joined([self.value(part) for part in _parts(node)])

    def _inner(self, local: Mapping[str, frozenset[str]]) -> Frame:
        """Return a frame inside this one, with variables of its own."""
        inside = {**self.local, **local}
        return Frame(self.reading, self.names, inside, self.owner, self.depth)

    def _operation(
        self, op: ast.operator, left: frozenset[str], right: frozenset[str]
    ) -> frozenset[str]:
        """Return what the result of an operator is made of."""
        if isinstance(op, ast.MatMult):
            self._product([left, right])
        if isinstance(op, ast.Mult | ast.Div):
            return scaled(left, right)
        return joined([left, right]) - {"scaled"}

    def _product(self, operands: list[frozenset[str]]) -> None:
        """Note a product: the parameter is multiplied if it is an operand."""
        if any(PARAMETER & operand for operand in operands):
            self.reading.multiplied = True

    def _call(self, node: ast.Call) -> frozenset[str]:
        """Return what the result of a call is made of; follow what the parameter is passed to."""
        name = _name(node.func)
        function = self._resolved(node.func)
        arguments = [self.value(argument) for argument in node.args]
        keywords = {k.arg or "**": self.value(k.value) for k in node.keywords}
        if function is None and isinstance(node.func, ast.Attribute):
            holder = self.value(node.func.value)  # a method of a value
            if holder:
                arguments.insert(0, holder)
        else:
            holder = NOTHING
        values = [*arguments, *keywords.values()]
        if not isinstance(function, nn.Module | types.MethodType):  # their code says what they do
            result = self._by_name(name, arguments, keywords)
            if result is not None:
                return result
        passed = bool(PARAMETER & frozenset().union(*values))
        if not holder and (passed or isinstance(function, types.MethodType)):
            return self._passed(function, arguments, keywords)
        inside = self.value(node.func) if isinstance(node.func, ast.Name) else NOTHING
        return joined(values) | inside  # a function in this one: what it returns

    def _by_name(
        self,
        name: str,
        arguments: list[frozenset[str]],
        keywords: Mapping[str, frozenset[str]],
    ) -> frozenset[str] | None:
        """Return the result of an operation that is known by its name; None for another one."""
        values = [*arguments, *keywords.values()]
        if name in NO_VALUES_CALLED:
            return NOTHING
        if name in PRODUCTS:
            self._product(operands_of(name, arguments, keywords))
            return joined(values) - {"scaled"}
        if name in SUMS and any("scaled" in value for value in values):
            self.reading.multiplied = True
        if name in ELEMENTWISE and len(arguments) == 2:
            return scaled(*arguments)
        return None

    def _passed(
        self,
        function: Any,
        arguments: list[frozenset[str]],
        keywords: Mapping[str, frozenset[str]],
    ) -> frozenset[str]:
        """Follow the parameter into what it is passed to, and return what comes out."""
        values = [*arguments, *keywords.values()]
        package = str(getattr(function, "__module__", None) or "").split(".")[0]
        if isinstance(function, nn.Module):
            if type(function).__module__.startswith("torch.nn."):
                return INPUT  # a layer with a row of its own: its output counts as an input
            return self._followed(function, "forward", arguments, keywords) | INPUT
        if isinstance(function, types.MethodType):
            return self._followed(function.__self__, function.__name__, arguments, keywords)
        if package in TENSOR_PACKAGES and function.__name__ not in _CALLERS:
            return joined(values)
        if isinstance(function, types.FunctionType) and self.depth < _DEPTH:
            plain = inspect.unwrap(function)
            node = function_source(plain)
            if node is not None:
                names = plain.__globals__
                return self.reading.call(node, names, arguments, keywords, None, self.depth + 1)
        self.reading.multiplied = True  # what is called cannot be read
        return joined(values)

    def _followed(
        self,
        owner: Any,
        name: str,
        arguments: list[frozenset[str]],
        keywords: Mapping[str, frozenset[str]],
    ) -> frozenset[str]:
        """Read a method of a module with these arguments, and return what it returns."""
        kind: Any = type(owner)
        defined = (methods_of(kind) or {}).get(name)
        if defined is None or self.depth >= _DEPTH:
            values = [*arguments, *keywords.values()]
            if any(PARAMETER & value for value in values):
                self.reading.multiplied = True
            return joined(values)
        node, names = defined[0]
        first = [] if is_static(node) else [NOTHING]
        return self.reading.call(node, names, [*first, *arguments], keywords, owner, self.depth + 1)

    def _is_parameter(self, node: ast.Attribute) -> bool:
        """Return whether an expression is the parameter of the module in question."""
        if self.owner is not self.reading.module:
            return False
        return dotted(ast.unparse(node)).removeprefix("self.") in self.reading.names

    def _is_own(self, node: ast.Attribute) -> bool:
        """Return whether an expression is an attribute of the module in question itself."""
        is_self = isinstance(node.value, ast.Name) and node.value.id == "self"
        return is_self and self.owner is self.reading.module

    def _resolved(self, node: ast.expr) -> Any:
        """Return the object that a name or an attribute stands for.

        None for a method of a tensor, and for all that is not known before a pass.
        """
        if isinstance(node, ast.Name) and node.id == "self":
            return self.owner
        if isinstance(node, ast.Name) and node.id not in self.local:
            return self.names.get(node.id, getattr(builtins, node.id, None))
        if isinstance(node, ast.Attribute):
            owner = self._resolved(node.value)
            if isinstance(owner, nn.Module):
                if node.attr in owner._modules:
                    return owner._modules[node.attr]
                defined = inspect.getattr_static(type(owner), node.attr, None)
                if isinstance(defined, staticmethod):
                    return defined.__func__
                if isinstance(defined, types.FunctionType):
                    return types.MethodType(defined, owner)
            elif isinstance(owner, types.ModuleType | type):
                return getattr(owner, node.attr, None)
        return None


def _parts(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the expressions that an expression is made of."""
    for part in ast.iter_child_nodes(node):
        if isinstance(part, ast.expr):
            yield part
        elif isinstance(part, ast.FormattedValue | ast.keyword):
            yield part.value


def _name(function: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
