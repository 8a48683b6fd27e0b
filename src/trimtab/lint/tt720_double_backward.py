"""Two backward passes through one graph."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._losses import loss_called
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import LOOPS, dotted, position
from trimtab.lint._source import Source, is_constant, keyword
from trimtab.lint._trace import Event, compatible


@register
@dataclass(frozen=True, kw_only=True)
class DoubleBackward(SourceRule):
    """backward() is called twice on one loss.

    Why: the first call frees what the graph has saved, so the second one fails with "Trying to
    backward through the graph a second time"; where nothing was saved, it adds the same gradient
    once more and doubles the step.
    Measured: two calls of `backward()` on the same name in one function, which is not assigned
    between them, without `retain_graph=True`; or one call in a loop on a loss that is computed
    before the loop.
    Silent on: calls in different branches, and losses that are kept with `retain_graph`.
    Fix: call `backward()` once a forward pass; add losses up first if there are several.
    Source: torch.autograd, "retain_graph"; Islam et al. 2019, arXiv:1906.01388.
    """

    code: ClassVar = "TT720"
    name: ClassVar = "double-backward"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each second backward."""
        seen: set[ast.AST] = set()
        for trace in source.traces:
            events = [
                e
                for e in trace.of("backward")
                if dotted(e.loss) and e.via != "framework" and not self._retains(e)
            ]
            for i, event in enumerate(events):
                first = next((e for e in events[:i] if self._repeats(source, e, event)), None)
                again = first is not None or self._in_a_loop(source, event)
                if again and event.node not in seen:
                    seen.add(event.node)
                    yield self._finding(source, event, first)

    def _retains(self, event: Event) -> bool:
        call = event.node
        if not isinstance(call, ast.Call):
            return True
        if call.args and event.loss is not None and event.via != "scaler":
            return True  # rows of a Jacobian, one by one
        value = keyword(call, "retain_graph") or keyword(call, "create_graph")
        return value is not None and not is_constant(value, False)  # noqa: FBT003

    def _repeats(self, source: Source, first: Event, second: Event) -> bool:
        if first.node is second.node or dotted(first.loss) != dotted(second.loss):
            return False
        if first.loops != second.loops or first.context.calls != second.context.calls:
            return False
        if source.scope_of(first.node) is not source.scope_of(second.node):
            return False
        if not compatible(first, second):
            return False
        return not self._assigned(source, second, position(first.node), position(second.node))

    def _assigned(
        self, source: Source, event: Event, start: tuple[int, int], end: tuple[int, int]
    ) -> bool:
        name = dotted(event.loss)
        found = source.scope_of(event.node).definitions.get(name, [])
        return any(start < d.position < end for d in found)

    def _in_a_loop(self, source: Source, event: Event) -> bool:
        """Tell whether the loss of a backward in a loop is computed before the loop."""
        loop = next((n for n in source.around(event.node) if isinstance(n, LOOPS)), None)
        if loop is None or not isinstance(event.loss, ast.Name):
            return False
        found = source.scope_of(event.node).definitions.get(event.loss.id, [])
        plain = [d for d in found if d.how == "assign" and isinstance(d.value, ast.Call)]
        if not plain or len(plain) != len(found):
            return False
        inside = [d for d in found if any(n is loop for n in source.around(d.node))]
        leaves = any(isinstance(n, ast.Break | ast.Return) for n in ast.walk(loop))
        return not inside and not leaves and all(d.position < position(loop) for d in plain)

    def _finding(self, source: Source, event: Event, first: Event | None) -> Finding:
        name = dotted(event.loss)
        what = (
            f"{loss_called(name)} goes backward a second time, after line {first.node.lineno}"
            if first is not None
            else f"{loss_called(name)} goes backward in a loop, and is computed before it"
        )
        return self.at(
            source,
            event.node,
            what=what,
            cause=(
                "the first call frees the graph, so the second one fails, or adds the same "
                "gradient once more"
            ),
            fix="call backward() once for each forward pass",
        )
