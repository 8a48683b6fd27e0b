"""Clipping at a moment when it changes nothing."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._cycles import Cycle, cycles
from trimtab.lint._edits import delete_line, edit_fix, insert_before, same_block
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, compatible


@register
@dataclass(frozen=True, kw_only=True)
class ClipWithoutEffect(SourceRule):
    """Gradients are clipped before they are computed, or after the step that used them.

    Why: clipping works on the gradients that are there. After `step()` they have been used, and
    before `backward()` they are zero or those of the step before, so the step goes unclipped, and
    the first large gradient does its damage.
    Measured: a loop in which no clipping stands between `backward()` and `step()`, and one
    stands elsewhere.
    Silent on: loops in which gradients are clipped at the right place too, and calls in different
    branches.
    Fix: clip between `backward()` and `step()`.
    Source: Pascanu et al. 2013, arXiv:1211.5063; torch.nn.utils.clip_grad_norm_.
    """

    code: ClassVar = "TT736"
    name: ClassVar = "clip-without-effect"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar = ("TT1", "TT3")
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each clipping in the wrong place."""
        for cycle in cycles(source):
            clips = [e for e in cycle.of("clip") if len(e.loops) == cycle.depth]
            steps = [e for e in cycle.of("step") if len(e.loops) == cycle.depth]
            backwards = cycle.of("backward")
            if not clips or len(steps) != 1 or not backwards or len(cycle.of("clip")) != 1:
                continue
            clip, step = clips[0], steps[0]
            if not compatible(clip, step) or self._works(cycle, clip, step):
                continue
            yield self._finding(source, clip, step, backwards)

    def _works(self, cycle: Cycle, clip: Event, step: Event) -> bool:
        """Tell whether the clipped gradients are those that the step uses."""
        backwards = [e for e in cycle.of("backward") if compatible(e, step)]
        before = [e for e in backwards if e.index < step.index]
        if not before:
            return True  # the order of the others is at fault
        return before[0].index < clip.index < step.index

    def _finding(self, source: Source, clip: Event, step: Event, backwards: list[Event]) -> Finding:
        late = clip.index > step.index
        where = f"after {step.key or 'optimizer'}.step()" if late else "before backward()"
        cause = (
            "the step has already used the gradients as they were"
            if late
            else "the gradients that the step will use are not there yet"
        )
        return self.at(
            source,
            clip.node,
            what=f"gradients are clipped {where}",
            cause=f"{cause}, so clipping protects from nothing",
            fix="clip between backward() and the step",
            remedy=self._remedy(source, clip, step, backwards),
        )

    def _remedy(
        self, source: Source, clip: Event, step: Event, backwards: list[Event]
    ) -> Fix | None:
        statement, target = source.statement(clip.node), source.statement(step.node)
        if not isinstance(statement, ast.Expr) or not same_block(source, statement, target):
            return None
        if step.via or any(e.via for e in backwards):
            return None
        return edit_fix(
            delete_line(source, statement),
            insert_before(source, target, source.segment(statement.value)),
        )
