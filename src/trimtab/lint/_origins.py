"""What an expression stands for: the calls and constants its value comes from, across functions."""

import ast
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from trimtab.lint._names import (
    LAYERS,
    MODEL_NAME,
    OPTIMIZER_NAME,
    OPTIMIZERS,
    SAME_OBJECT,
    SCALER_NAME,
    SCHEDULER_NAME,
    SCHEDULERS,
    WRAPPERS,
)
from trimtab.lint._scopes import ClassInfo, Definition, Function, Scope, dotted, position
from trimtab.lint._source import keyword, last_name

if TYPE_CHECKING:
    from trimtab.lint._source import Source

MOST: Final = 24
"""Values that one expression can come from; more than that is taken as unknown."""
DEEPEST: Final = 24
"""Questions within questions, such as whose method is called, to find where a value comes from."""
FARTHEST: Final = 400
"""Expressions that are looked at on the way back from one."""


class Origins:
    """Follows names back to what they were made from, without regard to order."""

    def __init__(self, source: "Source") -> None:
        self.source = source
        self._known: dict[ast.expr, list[ast.expr]] = {}
        self._steps: dict[ast.expr, tuple[list[ast.expr], bool]] = {}
        self._callers: dict[Function, list[ast.Call]] | None = None
        self._returns: dict[ast.AST, list[ast.expr]] | None = None
        self._busy: set[ast.AST] = set()

    def of(self, node: ast.expr | None) -> list[ast.expr]:
        """Return the expressions that a value can come from.

        They are calls of what the file does not define, constants, and whatever could not be
        followed further; empty where nothing is known.
        """
        if node is None:
            return []
        if node in self._known:
            return self._known[node]
        ends: list[ast.expr] = []
        waiting, seen = [node], {node}
        while waiting and len(seen) <= FARTHEST:
            each = waiting.pop()
            further, is_end = self._step(each)
            if is_end:
                ends.append(each)
            new = [f for f in further if f not in seen]
            seen.update(new)
            waiting += reversed(new)
        found = ends if len(ends) <= MOST and not waiting else []
        if not self._busy:  # else it may have been cut short by a cycle
            self._known[node] = found
        return found

    def _step(self, node: ast.expr) -> tuple[list[ast.expr], bool]:
        """Return what a value is taken from, and whether it cannot be followed further."""
        if node in self._steps:
            return self._steps[node]
        if node in self._busy or len(self._busy) > DEEPEST:
            return [], False
        self._busy.add(node)
        found = self._follow(node)
        self._busy.discard(node)
        self._steps[node] = found
        return found

    def class_names(self, node: ast.expr | None) -> set[str]:
        """Return the names of the classes or functions that can have made a value."""
        found = set()
        for origin in self.of(node):
            if isinstance(origin, ast.Call):
                found.add(self.source.called(origin) or last_name(dotted(origin.func)))
            elif isinstance(origin, ast.Name) and origin.id in self.source.given_classes:
                found.add(self.source.given_classes[origin.id])
        return found - {""}

    def instances(self, node: ast.expr | None) -> list[ClassInfo]:
        """Return the file's own classes that a value can be an instance of."""
        found = []
        for origin in self.of(node):
            if isinstance(origin, ast.Call) and (info := self.local_class(origin)):
                found.append(info)
            elif isinstance(origin, ast.Name):
                scope = self.source.scope_of(origin)
                if scope.owner and origin.id == scope.self_name:
                    found.append(scope.owner)
        return list(dict.fromkeys(found))

    def local_class(self, call: ast.Call) -> ClassInfo | None:
        """Return the file's class that a call makes an instance of."""
        if isinstance(call.func, ast.Name):
            return self.source.scope_of(call.func).find_class(call.func.id)
        return None

    def is_optimizer(self, node: ast.expr) -> bool:
        """Tell whether a value is an optimizer, by its class, or else by its name."""
        return self._is(node, OPTIMIZERS, OPTIMIZER_NAME, SCHEDULERS | {"GradScaler"})

    def is_scheduler(self, node: ast.expr) -> bool:
        """Tell whether a value is a learning-rate schedule."""
        return self._is(node, SCHEDULERS, SCHEDULER_NAME, OPTIMIZERS | {"GradScaler"})

    def is_scaler(self, node: ast.expr) -> bool:
        """Tell whether a value is a gradient scaler."""
        scalers = frozenset({"GradScaler", "ShardedGradScaler"})
        return self._is(node, scalers, SCALER_NAME, OPTIMIZERS | SCHEDULERS)

    def is_model(self, node: ast.expr) -> bool:
        """Tell whether a value is a network that can be called."""
        names = self.class_names(node)
        if names & LAYERS or any(self.is_module(c) for c in self.instances(node)):
            return True
        if names & (OPTIMIZERS | SCHEDULERS) or any(n.endswith("Loss") for n in names):
            return False
        return bool(MODEL_NAME.search(last_name(dotted(node))))

    def is_module(self, info: ClassInfo) -> bool:
        """Tell whether a class is an nn.Module, through the file's own bases."""
        return any(
            last_name(base).endswith("Module") and "LightningModule" not in base
            for each in self.ancestors(info)
            for base in each.bases
        )

    def ancestors(self, info: ClassInfo) -> Iterator[ClassInfo]:
        """Yield a class and the file's own classes that it derives from."""
        waiting, seen = [info], set()
        while waiting:
            each = waiting.pop(0)
            if each in seen:
                continue
            seen.add(each)
            yield each
            scope = self.source.scope_of(each.node)
            waiting += [c for base in each.bases if (c := scope.find_class(base))]

    def method(self, info: ClassInfo, name: str) -> Function | None:
        """Return a method of a class or of its bases in the file."""
        for each in self.ancestors(info):
            if name in each.methods:
                return each.methods[name]
        return None

    def function_called(self, call: ast.Call) -> Function | None:
        """Return the file's function that a call runs; None for a class or what is not known."""
        func = call.func
        if isinstance(func, ast.Name):
            return self.source.scope_of(func).find_function(func.id)
        if isinstance(func, ast.Attribute):
            for info in self.instances(func.value):
                if found := self.method(info, func.attr):
                    return found
        return None

    def callers(self, function: Function) -> list[ast.Call]:
        """Return the calls of a function, or of its class if it is a constructor."""
        if self._callers is None:
            self._callers = {}
            for call in self.source.all(ast.Call):
                info = self.local_class(call)
                called = self.method(info, "__init__") if info else self._by_name(call)
                if called is not None:
                    self._callers.setdefault(called, []).append(call)
        return self._callers.get(function, [])

    def _by_name(self, call: ast.Call) -> Function | None:
        """Return the function called, with methods of unknown objects found by name if unique."""
        func = call.func
        if isinstance(func, ast.Attribute):
            base = func.value
            if isinstance(base, ast.Name):
                scope = self.source.scope_of(base)
                for outer in scope.chain():
                    if outer.owner and base.id == outer.self_name:
                        return self.method(outer.owner, func.attr)
            named = [c.methods[func.attr] for c in self.source.classes if func.attr in c.methods]
            return named[0] if len(named) == 1 else None
        return self.function_called(call)

    def _follow(self, node: ast.expr) -> tuple[list[ast.expr], bool]:
        if isinstance(node, ast.Name):
            return self._follow_name(node)
        if isinstance(node, ast.Attribute):
            return self._follow_attribute(node)
        if isinstance(node, ast.Call):
            return self._follow_call(node)
        if isinstance(node, ast.IfExp):
            return [node.body, node.orelse], False
        if isinstance(node, ast.BoolOp):
            return node.values, False
        if isinstance(node, ast.NamedExpr):
            return [node.value], False
        if isinstance(node, ast.Subscript) and (found := self._definitions(node)):
            return [v for each in found for v in self.of_definition(each)], False
        return [], True

    def _definitions(self, node: ast.expr) -> list[Definition]:
        key = dotted(node)
        return self.source.scope_of(node).find(key) if key else []

    def _follow_name(self, node: ast.Name) -> tuple[list[ast.expr], bool]:
        scope = self.source.scope_of(node)
        if any(o.owner and node.id == o.self_name for o in scope.chain()):
            return [], True
        found = [d for d in scope.find(node.id) if d.how != "augment"]
        unknown = not found or any(d.how == "other" for d in found)
        return [v for each in found for v in self.of_definition(each)], unknown

    def of_definition(self, found: Definition) -> list[ast.expr]:
        """Return what a definition takes its value from."""
        if found.how == "param":
            return self.arguments(found)
        if found.value is None or found.how in {"augment", "other"}:
            return []
        if found.how == "loop":
            return self._elements(found)
        if found.index is not None:
            return self._unpacked(found.value, found.index)
        return [found.value]

    def arguments(self, found: Definition) -> list[ast.expr]:
        """Return what the file's own calls pass for a parameter, or else its default."""
        function = found.scope.node
        if isinstance(function, ast.Module):
            return []
        names = found.scope.parameters
        offset = 1 if found.scope.self_name else 0
        place = names.index(found.key) - offset
        passed = []
        for call in self.callers(function):
            value = keyword(call, found.key, place if place >= 0 else None)
            if value is None:
                value = found.value
            if value is not None:
                passed.append(value)
        if not passed and found.value is not None:
            passed.append(found.value)
        return passed

    def _elements(self, found: Definition) -> list[ast.expr]:
        """Return what the elements can be that a loop goes over, where they are written out."""
        lists = [o for o in self.of(found.value) if isinstance(o, ast.List | ast.Tuple)]
        elements = [e for each in lists for e in each.elts]
        if found.index is not None and found.index >= 0:
            rows = [e for e in elements if isinstance(e, ast.Tuple | ast.List)]
            return [r.elts[found.index] for r in rows if found.index < len(r.elts)]
        return elements if found.index is None else []

    def _unpacked(self, value: ast.expr, index: int, depth: int = 4) -> list[ast.expr]:
        """Return what a place of an unpacked value can be."""
        if depth == 0:
            return []
        if isinstance(value, ast.Tuple | ast.List):
            return [value.elts[index]] if index < len(value.elts) else []
        if isinstance(value, ast.IfExp):
            arms = (value.body, value.orelse)
            return [v for arm in arms for v in self._unpacked(arm, index, depth - 1)]
        if isinstance(value, ast.Call):
            method = value.func.attr if isinstance(value.func, ast.Attribute) else ""
            if method in {"prepare", "setup"}:  # accelerate, fabric
                return [value.args[index]] if index < len(value.args) else []
            if function := self.function_called(value):
                returned = (v for v in self.returned(function) if v is not None)
                return [v for r in returned for v in self._unpacked(r, index, depth - 1)]
        if isinstance(value, ast.Name):
            scope = self.source.scope_of(value)
            values = [d.value for d in scope.find(value.id) if d.how == "assign"]
            tuples = [v for v in values if isinstance(v, ast.Tuple | ast.List)]
            return [v.elts[index] for v in tuples if index < len(v.elts)]
        return []

    def returned(self, function: Function) -> list[ast.expr]:
        """Return what a function returns, in its own scope."""
        if self._returns is None:
            self._returns = {}
            for each in self.source.all(ast.Return):
                if each.value is not None:
                    owner = self.source.scope_of(each).node
                    self._returns.setdefault(owner, []).append(each.value)
        return self._returns.get(function, [])

    def _follow_attribute(self, node: ast.Attribute) -> tuple[list[ast.expr], bool]:
        if node.attr in {"module", "_orig_mod"}:
            return [node.value], False
        found: list[Definition] = list(self._definitions(node))
        owner = self._owner(node)
        infos = [owner] if owner is not None else [] if found else self.instances(node.value)
        for info in infos:
            for each in self.ancestors(info):
                found += each.attributes.get(node.attr, [])
        values = [v for each in dict.fromkeys(found) for v in self.of_definition(each)]
        return values, not found

    def _owner(self, node: ast.Attribute) -> ClassInfo | None:
        if isinstance(node.value, ast.Name):
            for outer in self.source.scope_of(node).chain():
                if outer.owner and node.value.id == outer.self_name:
                    return outer.owner
        return None

    def _follow_call(self, node: ast.Call) -> tuple[list[ast.expr], bool]:
        function = self.function_called(node)
        if function is not None:
            values = self.returned(function)
            return values, not values
        name = self.source.called(node)
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in WRAPPERS and node.args:
            return [node.args[0]], False
        if not name and method in SAME_OBJECT and isinstance(node.func, ast.Attribute):
            return [node.func.value], False
        if method in {"prepare", "setup", "prepare_model", "setup_module"} and node.args:
            return [node.args[0]], False
        return [], True

    def _is(
        self, node: ast.expr, classes: frozenset[str], name: re.Pattern[str], others: frozenset[str]
    ) -> bool:
        known = self.class_names(node)
        if known & classes:
            return True
        if known & others or any(c for c in self.instances(node) if c.name not in classes):
            return False
        text = dotted(node) or (dotted(node.func) if isinstance(node, ast.Call) else "")
        return bool(name.search(last_name(text)))


def reaching(source: "Source", node: ast.expr, scope: Scope | None = None) -> list[Definition]:
    """Return the definitions of a name that can be in force where it is read, latest first.

    Looks only into the scope it is read in; empty for names from outside.
    """
    scope = scope or source.scope_of(node)
    here = position(source.statement(node))
    around = set(source.around(node))
    before = [d for d in scope.definitions.get(dotted(node), ()) if d.position < here]
    found: list[Definition] = []
    for each in sorted(before, key=lambda d: d.position, reverse=True):
        branches = [n for n in source.around(each.node) if isinstance(n, ast.If | ast.Try)]
        if exclusive(source, each.node, node):
            continue
        found.append(each)
        if all(b in around for b in branches) and each.how != "augment":
            break
    return found


def exclusive(source: "Source", first: ast.AST, second: ast.AST) -> bool:
    """Tell whether two nodes are in different branches of one `if`."""
    chain = [first, *source.around(first)]
    other = {id(n): i for i, n in enumerate([second, *source.around(second)])}
    path = [second, *source.around(second)]
    for i, node in enumerate(chain):
        if isinstance(node, ast.If) and id(node) in other and i and other[id(node)]:
            a, b = chain[i - 1], path[other[id(node)] - 1]
            in_body = [a in node.body, b in node.body]
            in_else = [a in node.orelse, b in node.orelse]
            if (in_body[0] and in_else[1]) or (in_else[0] and in_body[1]):
                return True
    return False
