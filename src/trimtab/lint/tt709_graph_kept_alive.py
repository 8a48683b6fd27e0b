"""Sums and lists of losses that keep every step's graph in memory."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._edits import edit_fix, insert_after_node
from trimtab.lint._graph import roots_of
from trimtab.lint._losses import loss_called
from trimtab.lint._origins import reaching
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import LOOPS, dotted
from trimtab.lint._source import Source
from trimtab.lint._trace import Event


@register
@dataclass(frozen=True, kw_only=True)
class GraphKeptAlive(SourceRule):
    """A running sum or list of losses keeps the graph of every step alive.

    Why: `total += loss` makes `total` part of the graph, and the graph part of `total`: nothing of
    any step can be freed, memory grows from batch to batch, and a long epoch ends out of memory.
    Measured: a loss that goes `backward()` is added to a variable, or appended to a list, in a
    loop, without `.item()`, `.detach()` or `float()`.
    Silent on: sums that go backward themselves, losses that were detached before, and code without
    gradients.
    Fix: add `loss.item()`, or `loss.detach()` where waiting for the device costs too much.
    Source: PyTorch FAQ, "My model reports cuda runtime error(2): out of memory": "Don't accumulate
    history across your training loop".
    """

    code: ClassVar = "TT709"
    name: ClassVar = "graph-kept-alive"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

total = 0.0
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    total += loss
"""
    good: ClassVar = """\
import torch

total = 0.0
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    total += loss.item()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each place where losses pile up with their graphs."""
        seen: set[ast.AST] = set()
        for trace in source.traces:
            for backward in trace.of("backward"):
                names = self._names(backward)
                for found in self._kept(source, backward, names):
                    if found not in seen:
                        seen.add(found)
                        yield self._finding(source, found)

    def _names(self, backward: Event) -> set[str]:
        loss = backward.loss
        while isinstance(loss, ast.BinOp):
            loss = loss.left
        return {dotted(loss)} - {""}

    def _kept(self, source: Source, backward: Event, names: set[str]) -> Iterator[ast.expr]:
        """Yield the loss wherever it is added to something that outlives the pass."""
        loop = next((n for n in source.around(backward.node) if isinstance(n, LOOPS)), None)
        function = source.scope_of(backward.node)
        if not names or backward.loss is None or (loop is None and not source.fragment):
            return
        gone = roots_of(source, backward.loss)
        for node in ast.walk(loop if loop is not None else function.node):
            if source.scope_of(node) is not function:
                continue
            into, value = _accumulation(node)
            if not into or value is None or into in gone or into in names:
                continue
            for each in _bare(value):
                same = dotted(each) in names and self._is_graph(source, each)
                if same and self._outlives(source, into, loop, each):
                    yield each

    def _is_graph(self, source: Source, node: ast.expr) -> bool:
        """Tell whether a name still holds the loss itself, not a number taken from it."""
        for found in reaching(source, node):
            text = "" if found.value is None else ast.unparse(found.value)
            if any(w in text for w in (".item()", ".detach()", "float(", ".data", "reduce_value")):
                return False
            if found.how not in {"assign", "augment"}:
                return False
        return not any(
            "no_grad" in ast.unparse(item.context_expr)
            for n in source.around(node)
            if isinstance(n, ast.With)
            for item in n.items
        )

    def _outlives(self, source: Source, into: str, loop: ast.AST | None, node: ast.expr) -> bool:
        """Tell whether the sum or list was begun outside the loop."""
        root = into.partition("[")[0]
        scope = source.scope_of(node)
        begun = [d for d in scope.find(into) + scope.find(root) if d.how == "assign"]
        begun = [d for d in begun if not _adds(d.node, into)]
        if loop is None:
            return "." in root
        if any(n is loop for d in begun for n in source.around(d.node)):
            return False
        return bool(begun) or "." in root

    def _finding(self, source: Source, node: ast.expr) -> Finding:
        name = dotted(node)
        return self.at(
            source,
            node,
            what=f"{loss_called(name)} is kept from step to step together with its graph",
            cause=(
                "nothing that the step computed can be freed while the graph is referenced, so "
                "memory grows with every batch"
            ),
            fix=f"keep {name}.item(), or {name}.detach() to leave it on the device",
            remedy=edit_fix(insert_after_node(source, node, ".detach()")),
        )


def _accumulation(node: ast.AST) -> tuple[str, ast.expr | None]:
    """Return what a node adds to, and what it adds; empty if it is no sum and no list."""
    if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
        return dotted(node.target), node.value
    if isinstance(node, ast.Assign) and len(node.targets) == 1:
        key, value = dotted(node.targets[0]), node.value
        if key and isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add):
            if dotted(value.left) == key:
                return key, value.right
            if dotted(value.right) == key:
                return key, value.left
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(node.args) == 1:
        return (dotted(node.func.value) if node.func.attr == "append" else ""), node.args[0]
    return "", None


def _adds(node: ast.AST, into: str) -> bool:
    return _accumulation(node)[0] == into


def _bare(node: ast.expr) -> Iterator[ast.expr]:
    """Yield the names of an expression that keep their graph in it."""
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        yield node
    elif isinstance(node, ast.BinOp):
        yield from _bare(node.left)
        yield from _bare(node.right)
    elif isinstance(node, ast.List | ast.Tuple):
        for each in node.elts:
            yield from _bare(each)
