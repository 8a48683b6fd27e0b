"""What happens in training, in order, with the file's own functions followed."""

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal

from trimtab.lint._scopes import COMPREHENSIONS, FUNCTIONS, LOOPS, Function, dotted, parameters

if TYPE_CHECKING:
    from trimtab.lint._source import Source

Kind = Literal[
    "backward",
    "step",
    "zero",
    "unscale",
    "clip",
    "update",
    "schedule",
    "mode",
    "forward",
    "call",
]
"""What an event does: `step` of an optimizer, `update` of a scaler, `schedule` of a schedule."""

DEPTH: Final = 5
"""Calls within calls that are followed."""
MOST_EVENTS: Final = 4000
"""Events of one trace; beyond that, calls are not followed any more."""


@dataclass(frozen=True)
class Branch:
    """One arm of an `if`, or what comes after one that left."""

    node: ast.AST
    arm: int
    condition: str
    holds: bool
    """Whether the condition is true here."""


@dataclass(frozen=True)
class Context:
    """What surrounds an event."""

    loops: tuple[ast.AST, ...] = ()
    branches: tuple[Branch, ...] = ()
    withs: tuple[ast.expr, ...] = ()
    """Expressions of the `with` statements, and decorators of the functions."""
    calls: tuple[ast.Call, ...] = ()
    """Calls that led here."""
    names: tuple[tuple[str, str], ...] = ()
    """What the names of the function stand for where it was called."""

    def key(self, node: ast.AST | None) -> str:
        """Return a dotted name as the outermost function calls it."""
        text = dotted(node)
        root = text
        for end in (".", "["):
            root = root.partition(end)[0]
        known = dict(self.names)
        if root in known:
            text = known[root] + text[len(root) :] if known[root] else ""
        return text.replace(".module", "").replace("._orig_mod", "")


@dataclass(frozen=True)
class Event:
    """Something that matters for training."""

    kind: Kind
    node: ast.Call | ast.stmt
    context: Context
    key: str = ""
    """The optimizer, scaler, schedule or model, as the outermost function calls it."""
    subject: ast.expr | None = None
    """The same as it is written here."""
    loss: ast.expr | None = None
    """Of a backward."""
    via: str = ""
    """`scaler`, or `framework` where a library wraps it."""
    detail: str = ""
    """`train` or `eval` of a mode."""
    index: int = 0
    """Place in the trace."""

    @property
    def loops(self) -> tuple[ast.AST, ...]:
        """Loops around it, from the outside."""
        return self.context.loops


@dataclass
class Trace:
    """All events from one entry on."""

    source: "Source"
    root: ast.Module | Function
    events: list[Event] = field(default_factory=list)
    functions: set[ast.AST] = field(default_factory=set)
    """Those that were followed."""

    def of(self, *kinds: Kind) -> list[Event]:
        """Return the events of some kinds."""
        return [e for e in self.events if e.kind in kinds]

    def cycle(self, event: Event) -> list[Event]:
        """Return the events of the innermost loop around an event, in order.

        Outside any loop it is the function, if that is a step which is called again and again.
        """
        return [e for e in self.events if e.loops[: len(event.loops)] == event.loops]


def compatible(first: Event, second: Event) -> bool:
    """Tell whether two events can happen in one pass: no condition parts them."""
    for a in first.context.branches:
        for b in second.context.branches:
            if a.node is b.node and a.arm != b.arm:
                return False
            if a.condition and a.condition == b.condition and a.holds != b.holds:
                return False
    return True


def make_traces(source: "Source") -> list[Trace]:
    """Return a trace of the file and of each function that nothing in the file calls."""
    traces = [_Walker(source, source.module.node).walk()]
    seen = set(traces[0].functions)
    functions = [f for f in source.scopes if isinstance(f, FUNCTIONS)]
    called = {f for f in functions if source.origins.callers(f)}
    for group in (
        [f for f in functions if f not in called],
        [f for f in functions if f in called],
    ):
        for function in group:
            if function not in seen:
                trace = _Walker(source, function).walk()
                seen |= trace.functions | {function}
                traces.append(trace)
    return traces


def condition_of(test: ast.expr, context: Context) -> tuple[str, bool]:
    """Return a condition without its negation, and whether it was stated without one."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        text, holds = condition_of(test.operand, context)
        return text, not holds
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        left, op, right = test.left, test.ops[0], test.comparators[0]
        none = isinstance(right, ast.Constant) and right.value is None
        if none and isinstance(op, ast.Is | ast.IsNot):
            return condition_of(left, context)[0], isinstance(op, ast.IsNot)
        if isinstance(op, ast.Eq | ast.NotEq):
            text = f"{context.key(left) or ast.unparse(left)} == {ast.unparse(right)}"
            return text, isinstance(op, ast.Eq)
    return context.key(test) or ast.unparse(test), True


class _Walker:
    """Builds one trace."""

    def __init__(self, source: "Source", root: ast.Module | Function) -> None:
        from trimtab.lint._events import classify

        self.source = source
        self.trace = Trace(source, root)
        self._classify = classify
        self._stack: list[ast.AST] = [root]

    def walk(self) -> Trace:
        root = self.trace.root
        context = Context()
        if isinstance(root, FUNCTIONS):
            context = replace(context, withs=tuple(root.decorator_list))
        self._block(root.body, context)
        return self.trace

    def _block(self, body: Sequence[ast.stmt], context: Context) -> None:
        for stmt in body:
            self._statement(stmt, context)
            context = self._after(stmt, context)

    def _after(self, stmt: ast.stmt, context: Context) -> Context:
        """Return the context behind a statement: an `if` that leaves parts what follows from it."""
        if isinstance(stmt, ast.If) and _leaves(stmt.body) and not stmt.orelse:
            text, holds = condition_of(stmt.test, context)
            branch = Branch(stmt, 1, text, not holds)
            return replace(context, branches=(*context.branches, branch))
        return context

    def _statement(self, stmt: ast.stmt, context: Context) -> None:
        if isinstance(stmt, (*FUNCTIONS, ast.ClassDef)):
            return
        if isinstance(stmt, ast.If):
            self._if(stmt, context)
        elif isinstance(stmt, LOOPS):
            self._expression(stmt.test if isinstance(stmt, ast.While) else stmt.iter, context)
            self._block(stmt.body, replace(context, loops=(*context.loops, stmt)))
            self._block(stmt.orelse, context)
        elif isinstance(stmt, ast.With | ast.AsyncWith):
            for item in stmt.items:
                self._expression(item.context_expr, context)
            inner = tuple(i.context_expr for i in stmt.items)
            self._block(stmt.body, replace(context, withs=context.withs + inner))
        elif isinstance(stmt, ast.Try):
            self._block(stmt.body, context)
            for i, handler in enumerate(stmt.handlers):
                arm = Branch(stmt, 2 + i, "", holds=True)
                self._block(handler.body, replace(context, branches=(*context.branches, arm)))
            self._block([*stmt.orelse, *stmt.finalbody], context)
        elif isinstance(stmt, ast.Match):
            for i, case in enumerate(stmt.cases):
                arm = Branch(stmt, i, "", holds=True)
                self._block(case.body, replace(context, branches=(*context.branches, arm)))
        else:
            self._simple(stmt, context)

    def _simple(self, stmt: ast.stmt, context: Context) -> None:
        value = getattr(stmt, "value", None)
        if isinstance(value, ast.expr):
            self._expression(value, context)
        else:
            for child in ast.iter_child_nodes(stmt):
                if isinstance(child, ast.expr):
                    self._expression(child, context)
        self._emit(stmt, context)

    def _if(self, stmt: ast.If, context: Context) -> None:
        self._expression(stmt.test, context)
        if "__name__" in ast.unparse(stmt.test):
            self._block(stmt.body, context)
            return
        text, holds = condition_of(stmt.test, context)
        for arm, body in enumerate((stmt.body, stmt.orelse)):
            branch = Branch(stmt, arm, text, holds == (arm == 0))
            self._block(body, replace(context, branches=(*context.branches, branch)))

    def _expression(self, node: ast.AST, context: Context) -> None:
        if isinstance(node, ast.Lambda):
            return
        if isinstance(node, COMPREHENSIONS):
            first = node.generators[0]
            self._expression(first.iter, context)
            inner = replace(context, loops=(*context.loops, node))
            for child in ast.iter_child_nodes(node):
                for part in ast.iter_child_nodes(child) if child is first else [child]:
                    if part is not first.iter:
                        self._expression(part, inner)
            return
        if isinstance(node, ast.IfExp):
            self._expression(node.test, context)
            text, holds = condition_of(node.test, context)
            for arm, part in enumerate((node.body, node.orelse)):
                branch = Branch(node, arm, text, holds == (arm == 0))
                self._expression(part, replace(context, branches=(*context.branches, branch)))
            return
        for child in ast.iter_child_nodes(node):
            self._expression(child, context)
        if isinstance(node, ast.Call):
            self._call(node, context)

    def _call(self, call: ast.Call, context: Context) -> None:
        function = self.source.origins.function_called(call)
        if function is None and (info := self.source.origins.local_class(call)):
            function = self.source.origins.method(info, "__init__")
        if function is not None and self._can_follow(function):
            self._follow(call, function, context)
            return
        closure = _closure(self.source, call)
        if closure is not None and self._can_follow(closure):
            self._follow(call, closure, context, bare=True)
        self._emit(call, context)

    def _can_follow(self, function: Function) -> bool:
        return (
            function not in self._stack
            and len(self._stack) <= DEPTH
            and len(self.trace.events) < MOST_EVENTS
        )

    def _follow(
        self, call: ast.Call, function: Function, context: Context, *, bare: bool = False
    ) -> None:
        names = context.names if bare else _arguments(self.source, call, function, context)
        inner = replace(
            context,
            names=names,
            calls=(*context.calls, call),
            withs=context.withs + tuple(function.decorator_list),
        )
        self._stack.append(function)
        self.trace.functions.add(function)
        self._block(function.body, inner)
        self._stack.pop()

    def _emit(self, node: ast.Call | ast.stmt, context: Context) -> None:
        for event in self._classify(self.source, node, context):
            self.trace.events.append(replace(event, index=len(self.trace.events)))


def _arguments(
    source: "Source", call: ast.Call, function: Function, context: Context
) -> tuple[tuple[str, str], ...]:
    """Return what each parameter stands for where the function is called."""
    scope = source.scopes[function]
    names = parameters(function)
    found: dict[str, str] = {}
    if scope.self_name:
        receiver = call.func.value if isinstance(call.func, ast.Attribute) else None
        found[scope.self_name] = context.key(receiver) or "self"
        names = names[1:]
    for name, value in zip(names, call.args, strict=False):
        found[name] = context.key(value)
    for each in call.keywords:
        if each.arg:
            found[each.arg] = context.key(each.value)
    outer: Mapping[str, str] = dict(context.names)
    kept = {n: k for n, k in outer.items() if n not in found}
    nested = scope.parent is not None and isinstance(scope.parent.node, FUNCTIONS)
    return tuple(((kept if nested else {}) | found).items())


def _closure(source: "Source", call: ast.Call) -> Function | None:
    """Return the function of the file that `optimizer.step(closure)` calls."""
    if not (isinstance(call.func, ast.Attribute) and call.func.attr == "step" and call.args):
        return None
    last = call.args[-1]
    if isinstance(last, ast.Name):
        return source.scope_of(last).find_function(last.id)
    return None


def _leaves(body: Sequence[ast.stmt]) -> bool:
    return bool(body) and isinstance(body[-1], ast.Continue | ast.Break | ast.Return | ast.Raise)
