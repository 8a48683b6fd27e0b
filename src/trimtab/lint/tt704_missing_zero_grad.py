"""Gradients that are never cleared between two steps."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._cycles import Cycle, concerns, cycles
from trimtab.lint._edits import edit_fix, insert_after, insert_before, same_block
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source, last_name
from trimtab.lint._trace import Event, compatible

MAY_CLEAR: Final = re.compile(r"(?i)zero|clear|reset|optim|grad|step|update|backward|closure")
"""Names of calls that are not seen and might clear gradients."""


@register
@dataclass(frozen=True, kw_only=True)
class MissingZeroGrad(SourceRule):
    """Gradients are never set to zero between two steps of the optimizer.

    Why: `backward()` adds to `.grad`. Without `zero_grad()` each step follows the sum of all
    gradients since the start, which grows and points to where the loss was high long ago: the
    loss swings or diverges.
    Measured: a loop with `backward()` and `optimizer.step()` in which neither the optimizer nor the
    model is told to `zero_grad()`, no `.grad` is set, and nothing is called that could do so
    elsewhere.
    Silent on: DeepSpeed and Lightning, which clear by themselves, and gradients that are computed
    by `torch.autograd.grad`.
    Fix: call `optimizer.zero_grad()` once a step, before `backward()`.
    Source: Humbatova et al. 2020, arXiv:1910.11015 (missing gradient reset); torch.optim, "Taking
    an optimization step".
    """

    code: ClassVar = "TT704"
    name: ClassVar = "missing-zero-grad"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.DIVERGENCE
    leads_to: ClassVar = ("TT1", "TT3", "TT4")
    example: ClassVar = """\
import torch

for x, y in loader:
    loss = loss_fn(model(x), y)
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
        """Yield one finding for each optimizer that steps on uncleared gradients."""
        for cycle in cycles(source):
            for step in self._first_steps(cycle):
                finding = self._judge(source, cycle, step)
                if finding is not None:
                    yield finding

    def _first_steps(self, cycle: Cycle) -> list[Event]:
        steps: dict[str, Event] = {}
        for event in cycle.of("step"):
            if len(event.loops) == cycle.depth and event.via != "framework":
                steps.setdefault(event.key, event)
        return list(steps.values())

    def _judge(self, source: Source, cycle: Cycle, step: Event) -> Finding | None:
        backwards = [e for e in cycle.of("backward") if compatible(e, step)]
        if not backwards or self._owned(source, cycle):
            return None
        optimizers = {e.key for e in cycle.trace.of("step")}
        clears = [e for e in cycle.trace.of("zero") if concerns(e, step, optimizers)]
        if any(e in cycle.events for e in clears) or self._unseen(source, cycle, step):
            return None
        return self._finding(
            source, backwards[0], step, single=len(backwards) == 1, outside=bool(clears)
        )

    def _owned(self, source: Source, cycle: Cycle) -> bool:
        """Tell whether a framework owns the step, and clears by itself."""
        for event in cycle.of("backward"):
            receiver = event.key.lower()
            if event.via == "framework" and not any(
                n in receiver for n in ("accelerator", "fabric")
            ):
                return True
        return source.mentions("deepspeed.initialize", "foreach_grad_hook")

    def _unseen(self, source: Source, cycle: Cycle, step: Event) -> bool:
        """Tell whether something is called that the file does not show and that could clear."""
        for event in cycle.of("call"):
            call = event.node
            if not isinstance(call, ast.Call):
                continue
            if source.qualname(call.func).startswith(("torch.", "print")):
                continue
            arguments = [*call.args, *(k.value for k in call.keywords)]
            if any(event.context.key(a) == step.key for a in arguments):
                return True
            name = last_name(dotted(call.func)) or getattr(call.func, "attr", "")
            if MAY_CLEAR.search(name):
                return True
        return False

    def _finding(
        self, source: Source, backward: Event, step: Event, *, single: bool, outside: bool
    ) -> Finding:
        name = step.key or "optimizer"
        where = (
            "is called outside of it, once for many steps" if outside else "is never called in it"
        )
        return self.at(
            source,
            step.node,
            what=f"the loop calls {name}.step() at every pass, and {name}.zero_grad() {where}",
            cause=(
                "backward() adds to the gradients that are there, so each step follows the sum of "
                "all gradients so far, and the loss swings or diverges"
            ),
            fix=f"call {name}.zero_grad() before backward()",
            remedy=self._remedy(source, backward, step) if single else None,
        )

    def _remedy(self, source: Source, backward: Event, step: Event) -> Fix | None:
        if step.subject is None or source.function(backward.node) is not source.function(step.node):
            return None
        line = f"{source.segment(step.subject)}.zero_grad()"
        if same_block(source, backward.node, step.node):
            return edit_fix(insert_before(source, source.statement(backward.node), line))
        return edit_fix(insert_after(source, source.statement(step.node), line))
