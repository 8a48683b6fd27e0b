"""Gradients that are cleared between the backward pass and the step."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._cycles import cycles, is_wildcard
from trimtab.lint._edits import delete_line, edit_fix, insert_before, same_block
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, compatible


@register
@dataclass(frozen=True, kw_only=True)
class GradientsClearedBeforeStep(SourceRule):
    """The gradients are set to zero after backward() and before the step that would use them.

    Why: `zero_grad()` throws away what `backward()` has just computed. The step then finds no
    gradients and changes nothing, or applies momentum and weight decay alone.
    Measured: within one pass of a loop the order is `backward()`, `zero_grad()`, `step()` for one
    optimizer, with no further `backward()` between the last two.
    Silent on: calls in different branches, and other optimizers and networks (GANs).
    Fix: call `zero_grad()` before `backward()` or after `step()`.
    Source: Jiang et al. 2025 (TrainCheck, OSDI 2025); torch.optim, "Taking an optimization step".
    """

    code: ClassVar = "TT724"
    name: ClassVar = "gradients-cleared-before-step"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch

for x, y in loader:
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    loss = loss_fn(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each clearing that comes too early."""
        for cycle in cycles(source):
            for step in cycle.of("step"):
                events = [e for e in cycle.events if e.index < step.index and compatible(e, step)]
                backwards = [e for e in events if e.kind == "backward"]
                if not backwards:
                    continue
                last = backwards[-1]
                for clear in events:
                    if clear.kind != "zero" or clear.index < last.index:
                        continue
                    if self._throws_away(cycle.of("step"), last, clear, step):
                        yield self._finding(source, clear, step, last)
                        break

    def _throws_away(self, steps: list[Event], backward: Event, clear: Event, step: Event) -> bool:
        """Tell whether what is cleared are certainly the gradients of this step."""
        if any(backward.index < e.index < clear.index for e in steps):
            return False
        if clear.loops != step.loops or clear.context.branches != step.context.branches:
            return False
        if is_wildcard(clear) or is_wildcard(step):
            return False
        return clear.key == step.key or len({e.key for e in steps}) == 1

    def _finding(self, source: Source, clear: Event, step: Event, backward: Event) -> Finding:
        name = step.key or "optimizer"
        cleared = f"{clear.key}.zero_grad()" if clear.key else "hand"
        return self.at(
            source,
            clear.node,
            what=f"the gradients are cleared, by {cleared}, between backward() and {name}.step()",
            cause=(
                "the gradients that backward() has just computed are thrown away, so the step "
                "changes nothing"
            ),
            fix="call zero_grad() before backward(), or after the step",
            remedy=self._remedy(source, clear, backward),
        )

    def _remedy(self, source: Source, clear: Event, backward: Event) -> Fix | None:
        statement, first = source.statement(clear.node), source.statement(backward.node)
        if not isinstance(statement, ast.Expr) or not same_block(source, statement, first):
            return None
        return edit_fix(
            delete_line(source, statement),
            insert_before(source, first, source.segment(statement.value)),
        )
