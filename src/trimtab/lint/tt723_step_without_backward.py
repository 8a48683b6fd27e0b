"""A step of the optimizer on gradients that are not there."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._cycles import Cycle, concerns, cycles
from trimtab.lint._edits import delete_line, edit_fix, insert_after, same_block
from trimtab.lint._names import LOSS_FUNCTION_NAME, LOSS_NAME, words
from trimtab.lint._outputs import loss_names
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source, last_name, names_in
from trimtab.lint._trace import Event, compatible

READING = words(
    "print item append float len str format round write add_scalar log info update "
    "set_postfix set_description mean sum cpu detach numpy isnan isfinite tolist max "
    "min range enumerate tqdm zip size eq argmax add_"
)
"""Calls that only read a loss."""


@register
@dataclass(frozen=True, kw_only=True)
class StepWithoutBackward(SourceRule):
    """The optimizer steps before any gradient is computed.

    Why: a step applies the gradients that are there. If `backward()` is missing, there are none and
    nothing is learnt. If it comes after the step and `zero_grad()` before, every gradient is
    cleared before a step could use it.
    Measured: a loop that computes a loss and calls `optimizer.step()`, and nothing in it goes
    backward; or one in which the order is `zero_grad()`, `step()`, `backward()`.
    Silent on: loops that call something with the loss or the optimizer that the file does not
    show, and closures.
    Fix: call `loss.backward()` before `optimizer.step()`.
    Source: torch.optim, "Taking an optimization step"; Islam et al. 2019, arXiv:1906.01388.
    """

    code: ClassVar = "TT723"
    name: ClassVar = "step-without-backward"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    optimizer.step()
    print(loss.item())
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    print(loss.item())
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each step that has no gradients."""
        for cycle in cycles(source):
            steps = [e for e in cycle.of("step") if len(e.loops) == cycle.depth]
            for step in steps[:1]:
                call = step.node
                if step.via == "framework" or not isinstance(call, ast.Call):
                    continue
                if not step.via and (call.args or call.keywords):
                    continue  # a closure
                if cycle.of("backward"):
                    yield from self._too_late(source, cycle, step)
                elif self._is_certain(source, cycle, step):
                    yield self._missing(source, step)

    def _is_certain(self, source: Source, cycle: Cycle, step: Event) -> bool:
        """Tell whether a loss is computed in the loop, and nothing hidden can send it backward."""
        if source.mentions("autograd.grad", ".grad ="):
            return False
        losses = self._losses(source, cycle, step)
        return bool(losses) and not any(
            self._may_go_backward(source, event, losses | {step.key}) for event in cycle.of("call")
        )

    def _losses(self, source: Source, cycle: Cycle, step: Event) -> set[str]:
        """Return the names of the losses that are computed before the step."""
        losses: set[str] = set()
        for event in cycle.of("call", "forward"):
            call = event.node
            if not isinstance(call, ast.Call) or call.lineno > step.node.lineno:
                continue
            name = last_name(dotted(call.func))
            known = loss_names(source, call) or LOSS_FUNCTION_NAME.search(name)
            statement = source.statement(call)
            same = source.function(call) is source.function(step.node)
            if known and same and isinstance(statement, ast.Assign):
                losses |= {dotted(t) for t in statement.targets} - {""}
        return losses

    def _may_go_backward(self, source: Source, event: Event, names: set[str]) -> bool:
        """Tell whether a call that the file does not show gets a loss or the optimizer."""
        call = event.node
        if not isinstance(call, ast.Call):
            return False
        name = last_name(dotted(call.func)) or getattr(call.func, "attr", "")
        if name in READING or loss_names(source, call) or LOSS_FUNCTION_NAME.search(name):
            return False
        given = [*call.args, *(k.value for k in call.keywords)]
        if isinstance(call.func, ast.Attribute):
            given.append(call.func.value)
        read = {n for g in given for n in names_in(g)}
        return bool(read & names or "backward" in name or LOSS_NAME.search(name))

    def _missing(self, source: Source, step: Event) -> Finding:
        name = step.key or "optimizer"
        return self.at(
            source,
            step.node,
            what=f"the loop computes a loss and calls {name}.step(), and never backward()",
            cause="without backward() there are no gradients, so the step changes nothing",
            fix=f"call loss.backward() before {name}.step()",
        )

    def _too_late(self, source: Source, cycle: Cycle, step: Event) -> Iterator[Finding]:
        """Find the order zero_grad, step, backward."""
        backwards = [e for e in cycle.of("backward") if compatible(e, step)]
        if not backwards or any(e.index < step.index for e in backwards):
            return
        optimizers = {e.key for e in cycle.of("step")}
        clears = [e for e in cycle.of("zero") if concerns(e, step, optimizers)]
        first = backwards[0]
        if not any(e in clears for e in cycle.between(backwards[-1], step)):
            return
        if any(not compatible(e, step) or len(e.loops) > len(step.loops) for e in clears):
            return
        if first.loops != step.loops or len(optimizers) > 1:
            return
        name = step.key or "optimizer"
        yield self.at(
            source,
            step.node,
            what=f"{name}.step() comes before backward(), and zero_grad() before both",
            cause=(
                "every gradient that backward() computes is cleared before a step uses it, so "
                "nothing is learnt"
            ),
            fix=f"move {name}.step() behind backward()",
            remedy=self._remedy(source, first, step),
        )

    def _remedy(self, source: Source, backward: Event, step: Event) -> Fix | None:
        first, last = source.statement(step.node), source.statement(backward.node)
        if not same_block(source, first, last) or not isinstance(first, ast.Expr):
            return None
        if step.via:
            return None
        text = source.segment(first.value)
        return edit_fix(delete_line(source, first), insert_after(source, last, text))
