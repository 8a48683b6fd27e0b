"""A learning-rate schedule that moves before the optimizer does."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._edits import delete_line, edit_fix, insert_after, same_block
from trimtab.lint._names import SCHEDULERS
from trimtab.lint._rule import SourceRule
from trimtab.lint._schedules import drives
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, Trace, compatible


@register
@dataclass(frozen=True, kw_only=True)
class SchedulerBeforeOptimizer(SourceRule):
    """The learning-rate scheduler steps before the optimizer does.

    Why: the first value of the schedule is skipped, and every later one comes a step, or an epoch,
    too early. With a warm-up from zero it is the safest step that is lost. Before PyTorch 1.1 this
    was the right order, so old code has it.
    Measured: in one pass of a loop, `scheduler.step()` comes before any `optimizer.step()` of the
    optimizer that it drives, also where the optimizer steps in an inner loop.
    Silent on: calls under a condition of their own, calls with the epoch as argument, and schedules
    of other libraries.
    Fix: call `scheduler.step()` after `optimizer.step()`.
    Source: PyTorch 1.1 release notes, 2019; torch.optim, "How to adjust learning rate".
    """

    code: ClassVar = "TT702"
    name: ClassVar = "scheduler-before-optimizer"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    scheduler.step()
    optimizer.step()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss_fn(model(x), y).backward()
    optimizer.step()
    scheduler.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each schedule that moves first."""
        if source.mentions(".last_epoch ="):  # the schedule is set by hand
            return
        for trace in source.traces:
            for schedule in trace.of("schedule"):
                step = self._late_step(source, trace, schedule)
                if step is not None:
                    yield self._finding(source, schedule, step)

    def _late_step(self, source: Source, trace: Trace, schedule: Event) -> Event | None:
        """Return the optimizer's step that comes after, if none comes before."""
        call = schedule.node
        if not schedule.loops and not (source.fragment and trace.root is not source.module.node):
            return None
        if not isinstance(call, ast.Call) or call.args or call.keywords:
            return None
        assert schedule.subject is not None
        known = source.origins.class_names(schedule.subject)
        if known and not known & SCHEDULERS:
            return None
        steps = [e for e in trace.of("step") if drives(source, schedule, e)]
        if any(e.index < schedule.index and compatible(e, schedule) for e in steps):
            return None
        inside = [
            e
            for e in steps
            if e.index > schedule.index and e.loops[: len(schedule.loops)] == schedule.loops
        ]
        if not inside:
            return None
        mine = {(b.node, b.arm) for b in schedule.context.branches}
        theirs = {(b.node, b.arm) for b in inside[0].context.branches}
        return inside[0] if mine <= theirs else None

    def _finding(self, source: Source, schedule: Event, step: Event) -> Finding:
        name, optimizer = schedule.key or "scheduler", step.key or "optimizer"
        nested = len(step.loops) > len(schedule.loops)
        when = "before the epoch's first" if nested else "before"
        lost = "epoch" if nested else "step"
        return self.at(
            source,
            schedule.node,
            what=f"the learning rate schedule moves {when} {optimizer}.step()",
            cause=(
                f"the schedule's first learning rate is never used, and every later one comes one "
                f"{lost} early"
            ),
            fix=f"move {name}.step() behind {optimizer}.step()"
            + (", to the end of the epoch" if nested else ""),
            remedy=self._remedy(source, schedule, step),
        )

    def _remedy(self, source: Source, schedule: Event, step: Event) -> Fix | None:
        first, last = source.statement(schedule.node), source.statement(step.node)
        if not same_block(source, first, last) or not isinstance(first, ast.Expr):
            return None
        block = next(
            b
            for name in ("body", "orelse", "finalbody")
            if isinstance(b := getattr(source.parent(first), name, None), list) and first in b
        )
        after = block[block.index(last) + 1 :]
        if after and step.via == "scaler" and ast.unparse(after[0]).endswith(".update()"):
            last = after[0]
        return edit_fix(
            delete_line(source, first), insert_after(source, last, source.segment(first.value))
        )
