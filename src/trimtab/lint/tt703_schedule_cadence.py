"""Learning-rate schedules that step once an epoch and are built for steps, or the other way."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._rule import SourceRule
from trimtab.lint._schedules import Unit, constructors, drives, unit_of
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, Trace


@register
@dataclass(frozen=True, kw_only=True)
class ScheduleCadence(SourceRule):
    """The schedule counts steps and moves once an epoch, or counts epochs and moves every step.

    Why: a schedule of 10,000 steps that moves once an epoch stays in its warm-up for ever, so the
    learning rate never leaves its first values. A schedule of 30 epochs that moves at every batch
    is over within the first epoch, and what is left of the learning rate trains nothing.
    Measured: what the schedule is built from (`len(loader)`, `total_steps`, `num_epochs`,
    milestones such as 30, 60, 90) against the loop in which its `step()` stands: the one of the
    optimizer's steps, or the one around it.
    Silent on: calls under a condition, calls with the epoch as argument, and lengths whose meaning
    the source does not show.
    Fix: move `scheduler.step()` into the loop it is built for, or build it for the loop it is in.
    Source: torch.optim, "How to adjust learning rate"; OneCycleLR's documentation: "changes the
    learning rate after every batch".
    """

    code: ClassVar = "TT703"
    name: ClassVar = "schedule-cadence"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    example: ClassVar = """\
import torch
from torch.optim.lr_scheduler import OneCycleLR

scheduler = OneCycleLR(optimizer, max_lr=0.1, steps_per_epoch=len(loader), epochs=10)
for epoch in range(10):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    scheduler.step()
"""
    good: ClassVar = """\
import torch
from torch.optim.lr_scheduler import OneCycleLR

scheduler = OneCycleLR(optimizer, max_lr=0.1, steps_per_epoch=len(loader), epochs=10)
for epoch in range(10):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
        scheduler.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each schedule in the wrong loop."""
        for trace in source.traces:
            for event in trace.of("schedule"):
                made = constructors(source, event.subject)
                units = {unit_of(source, c) for c in made}
                if len(units) != 1:
                    continue
                unit = units.pop()
                if unit is not None and self._stands_in(source, trace, event) not in {unit, None}:
                    yield self._finding(source, event, source.called(made[0]), unit)

    def _stands_in(self, source: Source, trace: Trace, event: Event) -> Unit | None:
        """Return which loop the call stands in; None if that is not certain."""
        call = event.node
        if not isinstance(call, ast.Call):
            return None
        metric = any(
            source.called(c) == "ReduceLROnPlateau" for c in constructors(source, event.subject)
        )
        if (call.args or call.keywords) and not metric:
            return None
        loops = [n for n in event.loops if isinstance(n, ast.For | ast.AsyncFor | ast.While)]
        if not loops:
            return None
        steps = [e for e in trace.of("step") if drives(source, event, e)]
        steps = [e for e in steps if set(event.loops) & set(e.loops)]
        if not steps or any(e.loops[: len(event.loops)] != event.loops for e in steps):
            return None
        extra = {(b.node, b.arm) for b in event.context.branches}
        if any(len(e.loops) > len(event.loops) for e in steps):
            return "epoch" if all(len(e.loops) > len(event.loops) for e in steps) else None
        common = {(b.node, b.arm) for b in steps[0].context.branches}
        if not extra <= common or common - extra:
            return None
        return "step" if len(loops) > 1 else None

    def _finding(self, source: Source, event: Event, name: str, unit: Unit) -> Finding:
        call = f"{event.key or 'scheduler'}.step()"
        if unit == "step":
            return self.at(
                source,
                event.node,
                what=f"the schedule {name} is built for steps, and {call} is called once an epoch",
                cause=(
                    "the learning rate covers only the first few values of its schedule, so it "
                    "stays in the warm-up or never decays"
                ),
                fix=f"call {call} right after optimizer.step(), inside the loop over batches",
            )
        return self.at(
            source,
            event.node,
            what=f"the schedule {name} is built for epochs, and {call} is called at every batch",
            cause=(
                "the schedule is over within the first epoch or two: the learning rate decays to "
                "almost nothing, or swings up and down, long before training is done"
            ),
            fix=(
                f"call {call} once an epoch, behind the loop over batches, or give {name} its "
                "lengths in steps: epochs * len(loader)"
            ),
        )
