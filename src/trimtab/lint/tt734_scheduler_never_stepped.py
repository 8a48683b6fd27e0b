"""A learning-rate schedule that is built and never moved."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._names import SCHEDULERS
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import FUNCTIONS, dotted
from trimtab.lint._source import Source


@register
@dataclass(frozen=True, kw_only=True)
class SchedulerNeverStepped(SourceRule):
    """A learning-rate scheduler is built and never used.

    Why: a schedule changes the learning rate when its `step()` is called. Without it the rate stays
    at its first value: with a warm-up, at almost nothing.
    Measured: a scheduler of torch or transformers is assigned to a name, an optimizer steps in the
    same file, and the name is never read again.
    Silent on: schedulers that are passed on, returned or kept in an attribute that something reads.
    Fix: call `scheduler.step()` where it is built for: after each step, or each epoch.
    Source: torch.optim, "How to adjust learning rate".
    """

    code: ClassVar = "TT734"
    name: ClassVar = "scheduler-never-stepped"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    rank: ClassVar[int] = 20
    example: ClassVar = """\
import torch

scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
for epoch in range(90):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
"""
    good: ClassVar = """\
import torch

scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=30)
for epoch in range(90):
    for x, y in loader:
        optimizer.zero_grad()
        loss_fn(model(x), y).backward()
        optimizer.step()
    scheduler.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each schedule that nothing uses."""
        for assign in source.all(ast.Assign):
            value = assign.value
            if not isinstance(value, ast.Call) or source.called(value) not in SCHEDULERS:
                continue
            if not source.qualname(value.func).startswith(("torch.", "transformers.")):
                continue
            names = {dotted(t) for t in assign.targets}
            if len(names) != 1 or "" in names or not self._is_unread(source, assign, names.pop()):
                continue
            if self._steps(source, assign):
                yield self.at(
                    source,
                    assign,
                    what=f"the schedule {source.called(value)} is built, and is never stepped",
                    cause="the learning rate stays at the schedule's first value for the whole run",
                    fix="call scheduler.step() after each epoch, or each step if it counts steps",
                )

    def _is_unread(self, source: Source, assign: ast.Assign, name: str) -> bool:
        if "." in name or "[" in name:
            last = name.rpartition(".")[2]
            reads = [
                n
                for n in source.all(ast.Attribute)
                if n.attr == last
                and isinstance(n.ctx, ast.Load)
                and not dotted(n).startswith("torch")
            ]
            return not reads and f'"{last}"' not in source.text
        scope = source.scope_of(assign)
        for node in source.all(ast.Name):
            read = node.id == name and isinstance(node.ctx, ast.Load)
            if read and scope in source.scope_of(node).chain():
                return False
        return f'"{name}"' not in source.text and f"'{name}'" not in source.text

    def _steps(self, source: Source, assign: ast.Assign) -> bool:
        """Tell whether an optimizer steps where the schedule is seen."""
        scope = source.scope_of(assign).node
        if isinstance(scope, FUNCTIONS):
            return any(
                source.scope_of(e.node).node is scope or scope in t.functions or t.root is scope
                for t in source.traces
                for e in t.of("step")
            )
        return any(t.of("step") for t in source.traces)
