"""Graphs that are kept for a second backward pass that does not come."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._cycles import cycles
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source, is_constant, keyword
from trimtab.lint._trace import Event, compatible


@register
@dataclass(frozen=True, kw_only=True)
class RetainedGraph(SourceRule):
    """backward() keeps its graph in every pass of the loop, and nothing uses it again.

    Why: `retain_graph=True` keeps all activations of a step until the next one replaces them, so
    memory doubles. Often it is there to silence "Trying to backward through the graph a second
    time": then a hidden state or a sum of losses links the steps, each backward goes through
    all steps before it, and training becomes slower and slower.
    Measured: the last `backward()` of a training loop's pass has `retain_graph=True`.
    Silent on: earlier ones, whose graph the last one uses, and `create_graph`.
    Fix: remove `retain_graph=True`; if that raises an error, `detach()` what is carried from step
    to step.
    Source: torch.Tensor.backward: "in nearly all cases setting this option to True is not needed".
    """

    code: ClassVar = "TT726"
    name: ClassVar = "retained-graph"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward(retain_graph=True)
    optimizer.step()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    output = model(x)
    loss_fn(output, y).backward(retain_graph=True)
    penalty(output).backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each graph that is kept in vain."""
        if not source.mentions("retain_graph") or source.mentions("autograd.grad"):
            return
        for cycle in cycles(source):
            backwards = [e for e in cycle.of("backward") if e.via != "framework"]
            if any(self._names_it(e) for e in cycle.of("call")) or not cycle.of("forward"):
                continue
            for event in backwards:
                later = [e for e in backwards if e.index > event.index and compatible(e, event)]
                if not later and len(event.loops) == cycle.depth and self._retains(event):
                    yield self._finding(source, event)

    def _names_it(self, event: Event) -> bool:
        """Tell whether something else asks for gradients."""
        return isinstance(event.node, ast.Call) and ast.unparse(event.node.func) == "grad"

    def _retains(self, event: Event) -> bool:
        call = event.node
        return isinstance(call, ast.Call) and is_constant(
            keyword(call, "retain_graph"),
            True,  # noqa: FBT003
        )

    def _finding(self, source: Source, event: Event) -> Finding:
        return self.at(
            source,
            event.node,
            what="each step ends with backward(retain_graph=True), and nothing goes back again",
            cause=(
                "the graph of each step stays in memory; if it is there to silence an error, a "
                "state that is carried on links all steps, and each one gets slower"
            ),
            fix=(
                "remove retain_graph=True, and detach() the hidden state or the sum that is "
                "carried from step to step"
            ),
        )
