"""Scopes of a source file: which name is bound where, and to what."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal

Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS: Final = (ast.For, ast.AsyncFor, ast.While)
COMPREHENSIONS: Final = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)

NESTED: Final = -1
"""Place of what is unpacked from a part of a tuple."""

Bound = Literal["assign", "augment", "loop", "with", "param", "other"]
"""How a name comes by its value."""


@dataclass(frozen=True)
class Definition:
    """One place where a name gets a value."""

    key: str
    """The name, or a dotted one such as `model.fc`."""
    how: Bound
    value: ast.expr | None
    """What it gets, or takes it from; None if that is not known."""
    index: int | None
    """Place in the tuple that is unpacked; None if it gets the whole value."""
    node: ast.AST
    """The statement, or the parameter."""
    scope: "Scope"

    @property
    def position(self) -> tuple[int, int]:
        """Line and column, to be compared with others of the same scope."""
        return position(self.node)


@dataclass(eq=False)
class ClassInfo:
    """A class of the file, with what its instances hold."""

    node: ast.ClassDef
    bases: list[str]
    """Dotted names as written."""
    methods: dict[str, Function] = field(default_factory=dict)
    attributes: dict[str, list[Definition]] = field(default_factory=dict)
    """What is assigned to `self.NAME` in any method, or to NAME in the body."""

    @property
    def name(self) -> str:
        """As written."""
        return self.node.name


@dataclass(eq=False)
class Scope:
    """A module or a function: its own names, and the scope around it."""

    node: ast.Module | Function
    parent: "Scope | None"
    owner: ClassInfo | None = None
    """The class, for a method."""
    definitions: dict[str, list[Definition]] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    classes: dict[str, ClassInfo] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of the function; empty for the module."""
        return getattr(self.node, "name", "")

    @cached_property
    def parameters(self) -> list[str]:
        """Names of all parameters, in order."""
        return [] if isinstance(self.node, ast.Module) else parameters(self.node)

    @cached_property
    def self_name(self) -> str:
        """What a method calls its instance; empty elsewhere."""
        static = any(
            isinstance(d, ast.Name) and d.id == "staticmethod"
            for d in getattr(self.node, "decorator_list", ())
        )
        return self.parameters[0] if self.owner and self.parameters and not static else ""

    def chain(self) -> Iterator["Scope"]:
        """Yield this scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def find(self, key: str) -> list[Definition]:
        """Return the definitions of a name in the nearest scope that has any."""
        for scope in self.chain():
            if found := scope.definitions.get(key):
                return found
        return []

    def find_function(self, name: str) -> Function | None:
        """Return the function of this name that is seen from here."""
        for scope in self.chain():
            if name in scope.functions:
                return scope.functions[name]
            if name in scope.definitions or name in scope.classes:
                return None
        return None

    def find_class(self, name: str) -> ClassInfo | None:
        """Return the class of this name that is seen from here."""
        for scope in self.chain():
            if name in scope.classes:
                return scope.classes[name]
            if name in scope.definitions or name in scope.functions:
                return None
        return None


def position(node: ast.AST) -> tuple[int, int]:
    """Return line and column where a node begins."""
    return getattr(node, "lineno", 0), getattr(node, "col_offset", 0)


def parameters(function: Function | ast.Lambda) -> list[str]:
    """Return the names of all parameters, in order."""
    a = function.args
    return [p.arg for p in [*a.posonlyargs, *a.args, *a.kwonlyargs]]


def dotted(node: ast.AST | None) -> str:
    """Return `a.b["c"]` as it is written for a name or a path from one; empty for the rest."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant | ast.Name):
        base = dotted(node.value)
        return f"{base}[{ast.unparse(node.slice)}]" if base else ""
    return ""


class ScopeBuilder:
    """Walks a tree once; afterwards `scope_of` and `parent_of` know every node."""

    def __init__(self, tree: ast.Module) -> None:
        self.scope_of: dict[ast.AST, Scope] = {}
        self.parent_of: dict[ast.AST, ast.AST] = {}
        self.scopes: dict[ast.AST, Scope] = {}
        self.classes: list[ClassInfo] = []
        self.nodes: dict[type[ast.AST], list[ast.AST]] = {}
        module = Scope(tree, None)
        self.scopes[tree] = module
        self.scope_of[tree] = module
        for child in tree.body:
            self._visit(child, tree, module, None)

    def _visit(self, node: ast.AST, parent: ast.AST, scope: Scope, owner: ClassInfo | None) -> None:
        self.parent_of[node] = parent
        self.scope_of[node] = scope
        self.nodes.setdefault(type(node), []).append(node)
        if isinstance(node, FUNCTIONS):
            self._function(node, scope, owner)
            return
        if isinstance(node, ast.ClassDef):
            self._class(node, scope)
            return
        self._bind(node, scope, owner)
        for child in ast.iter_child_nodes(node):
            self._visit(child, node, scope, owner)

    def _function(self, node: Function, scope: Scope, owner: ClassInfo | None) -> None:
        if owner is not None:
            owner.methods[node.name] = node
        else:
            scope.functions[node.name] = node
        inner = Scope(node, scope, owner)
        self.scopes[node] = inner
        others = [node.returns] if node.returns is not None else []
        others += getattr(node, "type_params", [])  # since Python 3.12
        for part in [*node.decorator_list, node.args, *others]:
            self._visit(part, node, scope, None)
        positional = [*node.args.posonlyargs, *node.args.args]
        defaults: list[ast.expr | None] = [None] * len(positional)
        if node.args.defaults:
            defaults[-len(node.args.defaults) :] = node.args.defaults
        pairs = [*zip(positional, defaults, strict=True)]
        pairs += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
        for param, default in pairs:
            found = Definition(param.arg, "param", default, None, param, inner)
            inner.definitions.setdefault(param.arg, []).append(found)
        for child in node.body:
            self._visit(child, node, inner, None)

    def _class(self, node: ast.ClassDef, scope: Scope) -> None:
        info = ClassInfo(node, [dotted(b) for b in node.bases])
        scope.classes[node.name] = info
        self.classes.append(info)
        others = getattr(node, "type_params", [])
        for part in [*node.decorator_list, *node.bases, *node.keywords, *others]:
            self._visit(part, node, scope, None)
        for child in node.body:
            self._visit(child, node, scope, info)

    def _bind(self, node: ast.AST, scope: Scope, owner: ClassInfo | None) -> None:
        if isinstance(node, ast.Assign):
            for target in node.targets:
                self._target(target, "assign", node.value, None, node, scope, owner)
        elif isinstance(node, ast.AnnAssign | ast.NamedExpr):
            if node.value is not None:
                self._target(node.target, "assign", node.value, None, node, scope, owner)
        elif isinstance(node, ast.AugAssign):
            self._target(node.target, "augment", node.value, None, node, scope, owner)
        elif isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            where = node.target if isinstance(node, ast.comprehension) else node
            self._target(node.target, "loop", node.iter, None, where, scope, owner)
        elif isinstance(node, ast.withitem) and node.optional_vars is not None:
            self._target(
                node.optional_vars, "with", node.context_expr, None, node.context_expr, scope, owner
            )

    def _target(
        self,
        target: ast.expr,
        how: Bound,
        value: ast.expr,
        index: int | None,
        node: ast.AST,
        scope: Scope,
        owner: ClassInfo | None,
    ) -> None:
        if isinstance(target, ast.Tuple | ast.List):
            for i, each in enumerate(target.elts):
                if index is None:
                    self._target(each, how, value, i, node, scope, owner)
                else:  # nested unpacking: the place is not known
                    nested: Bound = "loop" if how == "loop" else "other"
                    self._target(each, nested, value, NESTED, node, scope, owner)
            return
        if isinstance(target, ast.Starred):
            target = target.value
            how = "other"
        key = dotted(target)
        if not key:
            return
        found = Definition(key, how, value, index, node, scope)
        scope.definitions.setdefault(key, []).append(found)
        if owner is not None:
            owner.attributes.setdefault(key, []).append(found)
        for outer in scope.chain():
            if outer.self_name and key.startswith(f"{outer.self_name}.") and outer.owner:
                name = key.partition(".")[2]
                outer.owner.attributes.setdefault(name, []).append(found)
                break
