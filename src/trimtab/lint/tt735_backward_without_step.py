"""Gradients that are computed and never applied."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._cycles import Cycle, cycles
from trimtab.lint._edits import edit_fix, insert_after
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source, last_name
from trimtab.lint._trace import Event


@register
@dataclass(frozen=True, kw_only=True)
class BackwardWithoutStep(SourceRule):
    """Gradients are computed and cleared, and the optimizer never steps.

    Why: `backward()` only computes gradients. Without `optimizer.step()` no parameter changes and
    the loss stays where it was.
    Measured: a loop with `optimizer.zero_grad()` and `backward()`, and no `step()` of an optimizer
    anywhere in the file.
    Silent on: loops that call something the file does not show with the optimizer, and frameworks
    that step by themselves.
    Fix: call `optimizer.step()` after `backward()`.
    Source: torch.optim, "Taking an optimization step"; Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT735"
    name: ClassVar = "backward-without-step"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch

optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
"""
    good: ClassVar = """\
import torch

optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loop that never steps."""
        if source.mentions("step_and") or any(
            n.attr == "grad" or (n.attr == "step" and not source.origins.is_scheduler(n.value))
            for n in source.all(ast.Attribute)
        ):
            return  # something steps, or reads the gradients
        for cycle in cycles(source, "backward"):
            clears = [e for e in cycle.of("zero") if self._is_optimizer(source, e)]
            backwards = [e for e in cycle.of("backward") if len(e.loops) == cycle.depth]
            if not clears or not backwards or backwards[-1].via == "framework":
                continue
            if not self._passed_on(source, cycle, clears[0]):
                yield self._finding(source, backwards[-1], clears[0])

    def _is_optimizer(self, source: Source, event: Event) -> bool:
        return event.subject is not None and source.origins.is_optimizer(event.subject)

    def _passed_on(self, source: Source, cycle: Cycle, clear: Event) -> bool:
        """Tell whether something that is not seen gets the optimizer, or may step it."""
        for event in cycle.of("call"):
            call = event.node
            if isinstance(call, ast.Call):
                if source.origins.function_called(call) is not None:
                    continue
                if any(event.context.key(a) == clear.key for a in call.args):
                    return True
                name = last_name(dotted(call.func)) or getattr(call.func, "attr", "")
                if "step" in name or "update" in name or "optim" in name:
                    return True
        return False

    def _finding(self, source: Source, backward: Event, clear: Event) -> Finding:
        name = clear.key or "optimizer"
        return self.at(
            source,
            backward.node,
            what=f"the loop calls backward() at every pass, and {name}.step() never",
            cause="gradients are computed and thrown away, so no parameter ever changes",
            fix=f"call {name}.step() after backward()",
            remedy=self._remedy(source, backward, clear),
        )

    def _remedy(self, source: Source, backward: Event, clear: Event) -> Fix | None:
        if clear.subject is None or backward.via:
            return None
        if source.function(backward.node) is not source.function(clear.node):
            return None
        statement = source.statement(backward.node)
        return edit_fix(insert_after(source, statement, f"{source.segment(clear.subject)}.step()"))
