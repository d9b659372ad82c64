"""How the code of a module uses a parameter: as a matrix that is multiplied with, or otherwise.

Read from the source of the module's class, before any pass. A parameter that no product takes (a
position table that is added, a gain, a table that is looked up) is digital by right. What this
reading misses, the first pass shows (`aimc_bridge.products`): it decides what is an error early,
not what is measured. Where it is not sure, it says that the parameter is multiplied.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

from torch import nn
from torch.fx import GraphModule

_PARAMETER = frozenset({"parameter"})
_INPUT = frozenset({"input"})
_SCALED = frozenset({"input", "scaled"})
_NOTHING: frozenset[str] = frozenset()
"""What a value is made of: of the parameter alone ("parameter"), of inputs ("input"), or of inputs
scaled by the parameter, element by element ("input", "scaled")."""

_TWO = (0, 1)
_PRODUCTS: dict[str, tuple[int, ...] | None] = {
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
_NO_VALUES = frozenset(
    {"shape", "dtype", "device", "ndim", "layout", "is_cuda", "requires_grad", "names"}
)
_NO_VALUES_CALLED = frozenset(
    {"size", "dim", "numel", "len", "isinstance", "get_device", "stride", "numpy", "tolist", "item"}
)
_SUMS = frozenset({"sum", "mean", "nansum", "nanmean", "logsumexp", "norm", "reduce", "cumsum"})
_ELEMENTWISE = frozenset({"mul", "multiply", "mul_"})
_TENSOR_PACKAGES = ("torch", "einops", "math", "builtins", "numpy")
_CALLERS = frozenset({"checkpoint", "vmap", "compile", "apply", "reduce", "partial", "map"})
_DEPTH = 6  # functions that call functions


_NO_CODE = ("typing", "abc", "torch.nn.utils.parametrize")
_NOT_READ = ("__init__", "reset_", "extra_repr", "_init_", "init_", "__repr__")

_Method = tuple[ast.FunctionDef, Mapping[str, Any]]
"""A method's source, and what its module knows by name."""


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
    methods = _graph(module) if isinstance(module, GraphModule) else _methods(kind)
    if methods is None or "forward" in module.__dict__:
        return True
    for part in (_reached(methods), methods):
        reading = _Reading(module, parameter, part)
        reading.read_class()
        if reading.mentioned:
            return reading.multiplied
    return True


def _reached(methods: Mapping[str, list[_Method]]) -> dict[str, list[_Method]]:
    """Return the forward pass of a class and the methods that it names, in any number of steps.

    A method that only changes a parameter, such as one for another size of window, is not there.
    """
    reached: dict[str, list[_Method]] = {}
    waiting = ["forward"]
    while waiting:
        name = waiting.pop()
        if name in methods and name not in reached:
            reached[name] = methods[name]
            for node, _ in methods[name]:
                waiting += [n.attr for n in ast.walk(node) if isinstance(n, ast.Attribute)]
    return reached


def dotted(code: str) -> str:
    """Return code in which `getattr(self, "1")`, as torch.fx writes it, is `self.1`.

    Args:
        code: Python code.
    """
    while (short := re.sub(r"""getattr\(([\w.]+), ["'](\w+)["']\)""", r"\1.\2", code)) != code:
        code = short
    return code


def _graph(module: GraphModule) -> dict[str, list[_Method]] | None:
    """Return the generated forward pass of a torch.fx graph."""
    node = ast.parse(textwrap.dedent(module.code)).body[-1]
    names = getattr(module.forward, "__globals__", {})
    return {"forward": [(node, names)]} if isinstance(node, ast.FunctionDef) else None


@lru_cache(maxsize=1024)
def _methods(kind: Any) -> dict[str, list[_Method]] | None:
    """Return the methods of a class and its bases by name, the nearest first.

    None if a source is not there.
    """
    found: dict[str, list[_Method]] = {}
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
def _function(function: types.FunctionType) -> ast.FunctionDef | None:
    """Return the source of a function, or None."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    node = tree.body[0]
    return node if isinstance(node, ast.FunctionDef) else None


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
        methods: Mapping[str, list[_Method]],
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
                first = [] if _is_static(node) else [_NOTHING]
                self.call(node, names, [*first, *[_INPUT] * 50], {}, self.module, 0)
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
        local = _bound(node, arguments, keywords)
        key = (id(node), id(owner), tuple(sorted((n, *sorted(v)) for n, v in local.items())))
        if key not in self.results:
            self.results[key] = _NOTHING
            frame = _Frame(self, names, local, owner, depth)
            frame.run(node.body)
            self.results[key] = _joined([frame.returned])
        return self.results[key]


def _is_static(node: ast.FunctionDef) -> bool:
    """Return whether a method has no `self`."""
    return any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)


def _bound(
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
            local[spec.kwarg.arg] = local.get(spec.kwarg.arg, _NOTHING) | value
    if spec.vararg is not None:
        local[spec.vararg.arg] = _joined(arguments[len(places) :])
    return local


def _joined(values: list[frozenset[str]]) -> frozenset[str]:
    """Return what a value is made of that is made of several."""
    value = frozenset().union(*values)
    return value - _PARAMETER if value & _INPUT else value


class _Frame:
    """Follows values through one function, in the order of the text.

    Attributes:
        local: What each local variable is made of.
        returned: What the function returns.
    """

    def __init__(
        self,
        reading: _Reading,
        names: Mapping[str, Any],
        local: dict[str, frozenset[str]],
        owner: nn.Module | None,
        depth: int,
    ) -> None:
        self.reading, self.names, self.owner, self.depth = reading, names, owner, depth
        self.local = local
        self.returned: frozenset[str] = _NOTHING

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
                frame = self._inner({a.arg: _INPUT for a in node.args.args})
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
            self.local[name] = after.get(name, _NOTHING) | self.local.get(name, _NOTHING)

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
                sources = [_NOTHING, *sources[:1]]
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
                old = self.local.get(target.value.id, _NOTHING)
                self.local[target.value.id] = _joined([old, value])
        elif value & _PARAMETER and isinstance(target, ast.Attribute):
            if self._is_own(target):
                self.reading.names.add(target.attr)  # kept under another name
            else:
                self.reading.multiplied = True  # what happens to it elsewhere is not followed

    def value(self, node: ast.expr) -> frozenset[str]:
        """Return what an expression is made of."""
        match node:
            case ast.Constant():
                return _NOTHING
            case ast.Name(id=name):
                return self.local.get(name, _NOTHING)
            case ast.Attribute(value=owner, attr=attribute):
                if self._is_parameter(node):
                    self.reading.mentioned = True
                    return _PARAMETER
                inner = self.value(owner)
                if attribute in _NO_VALUES:
                    return _NOTHING
                if isinstance(owner, ast.Name) and owner.id == "self" and self.owner is not None:
                    defined = inspect.getattr_static(type(self.owner), attribute, None)
                    if isinstance(defined, property | cached_property):
                        return self._followed(self.owner, attribute, [], {})
                return inner
            case ast.Subscript(value=owner, slice=index):
                return _joined([self.value(owner), self.value(index)])
            case ast.BinOp(left=left, op=op, right=right):
                return self._operation(op, self.value(left), self.value(right))
            case ast.Call():
                return self._call(node)
            case ast.Compare() | ast.BoolOp() | ast.JoinedStr():
                values = [self.value(part) for part in _parts(node)]
                return _joined(values) if isinstance(node, ast.BoolOp) else _NOTHING
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self.value(test)
                return self.value(body) | self.value(orelse)
            case ast.NamedExpr(target=target, value=value):
                result = self.value(value)
                self._store(target, result)
                return result
            case ast.Lambda(args=arguments, body=body):
                return self._inner({a.arg: _INPUT for a in arguments.args}).value(body)
            case ast.ListComp() | ast.GeneratorExp() | ast.SetComp() | ast.DictComp():
                frame = self._inner({})
                for generator in node.generators:
                    frame._assign_each(generator.target, generator.iter)
                    for test in generator.ifs:
                        frame.value(test)
                if isinstance(node, ast.DictComp):
                    return _joined([frame.value(node.key), frame.value(node.value)])
                return frame.value(node.elt)
            case _:
                return _joined([self.value(part) for part in _parts(node)])

    def _inner(self, local: Mapping[str, frozenset[str]]) -> _Frame:
        """Return a frame inside this one, with variables of its own."""
        inside = {**self.local, **local}
        return _Frame(self.reading, self.names, inside, self.owner, self.depth)

    def _operation(
        self, op: ast.operator, left: frozenset[str], right: frozenset[str]
    ) -> frozenset[str]:
        """Return what the result of an operator is made of."""
        if isinstance(op, ast.MatMult):
            self._product([left, right])
        if isinstance(op, ast.Mult | ast.Div):
            return _scaled(left, right)
        return _joined([left, right]) - {"scaled"}

    def _product(self, operands: list[frozenset[str]]) -> None:
        """Note a product: the parameter is multiplied if it is an operand."""
        if any(_PARAMETER & operand for operand in operands):
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
            holder = _NOTHING
        values = [*arguments, *keywords.values()]
        if name in _NO_VALUES_CALLED:
            return _NOTHING
        if name in _PRODUCTS:
            self._product(_operands(name, arguments, keywords))
            return _joined(values) - {"scaled"}
        if name in _SUMS and any("scaled" in value for value in values):
            self.reading.multiplied = True
        if name in _ELEMENTWISE and len(arguments) == 2:
            return _scaled(*arguments)
        passed = bool(_PARAMETER & frozenset().union(*values))
        if not holder and (passed or isinstance(function, types.MethodType)):
            return self._passed(function, arguments, keywords)
        return _joined(values)

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
                return _INPUT  # a layer with a row of its own: its output counts as an input
            return self._followed(function, "forward", arguments, keywords) | _INPUT
        if isinstance(function, types.MethodType):
            return self._followed(function.__self__, function.__name__, arguments, keywords)
        if package in _TENSOR_PACKAGES and function.__name__ not in _CALLERS:
            return _joined(values)
        if isinstance(function, types.FunctionType) and self.depth < _DEPTH:
            plain = inspect.unwrap(function)
            node = _function(plain)
            if node is not None:
                names = plain.__globals__
                return self.reading.call(node, names, arguments, keywords, None, self.depth + 1)
        self.reading.multiplied = True  # what is called cannot be read
        return _joined(values)

    def _followed(
        self,
        owner: Any,
        name: str,
        arguments: list[frozenset[str]],
        keywords: Mapping[str, frozenset[str]],
    ) -> frozenset[str]:
        """Read a method of a module with these arguments, and return what it returns."""
        kind: Any = type(owner)
        defined = (_methods(kind) or {}).get(name)
        if defined is None or self.depth >= _DEPTH:
            values = [*arguments, *keywords.values()]
            if any(_PARAMETER & value for value in values):
                self.reading.multiplied = True
            return _joined(values)
        node, names = defined[0]
        first = [] if _is_static(node) else [_NOTHING]
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


def _scaled(left: frozenset[str], right: frozenset[str]) -> frozenset[str]:
    """Return what a product, element by element, is made of."""
    if _PARAMETER & (left | right) and _INPUT & (left | right):
        return _SCALED
    return _joined([left, right])


def _name(function: ast.expr) -> str:
    """Return the last part of the name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _operands(
    name: str, arguments: list[frozenset[str]], keywords: Mapping[str, frozenset[str]]
) -> list[frozenset[str]]:
    """Return the operands of a product among its arguments."""
    places = _PRODUCTS[name]
    named = [value for key, value in keywords.items() if key not in _NO_OPERANDS]
    if places is None:
        return [*arguments, *named]
    return [*(arguments[place] for place in places if place < len(arguments)), *named]
