"""Gradients that are meant to add up and are cleared at every micro-batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._accumulation import steps_every
from trimtab.lint._cycles import Cycle, cycles
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, compatible


@register
@dataclass(frozen=True, kw_only=True)
class AccumulationCleared(SourceRule):
    """The optimizer steps at every k-th micro-batch, and gradients are cleared at each one.

    Why: only the last micro-batch before the step counts, and the work of all others is thrown
    away: the run costs k times what it uses, and the batch is as small as one micro-batch.
    Measured: `optimizer.step()` under a condition such as `(i + 1) % k == 0`, with `backward()` and
    `zero_grad()` at every pass of the same loop.
    Silent on: loops with several optimizers, whose gradients the source does not tell apart.
    Fix: call `zero_grad()` under the same condition, after `optimizer.step()`.
    Source: PyTorch, "Automatic Mixed Precision examples", section "Gradient accumulation".
    """

    code: ClassVar = "TT737"
    name: ClassVar = "accumulation-cleared"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    example: ClassVar = """\
import torch

for i, (x, y) in enumerate(loader):
    optimizer.zero_grad()
    loss = loss_fn(model(x), y) / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
"""
    good: ClassVar = """\
import torch

for i, (x, y) in enumerate(loader):
    loss = loss_fn(model(x), y) / 4
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each accumulation that is cleared."""
        for cycle in cycles(source):
            steps = [e for e in cycle.of("step") if len(e.loops) == cycle.depth]
            if len({e.key for e in cycle.trace.of("step")}) > 1:
                continue
            for step in steps[:1]:
                for backward in cycle.of("backward"):
                    count = steps_every(source, step, backward)
                    clear = self._clears(cycle, step, backward)
                    if count is not None and clear is not None and backward.via != "framework":
                        yield self._finding(source, clear, step, count)
                        break

    def _clears(self, cycle: Cycle, step: Event, backward: Event) -> Event | None:
        """Return what clears the gradients whenever there is a backward."""
        if backward.loops != step.loops or not compatible(backward, step):
            return None
        theirs = {(b.node, b.arm) for b in backward.context.branches}
        for event in cycle.of("zero"):
            always = {(b.node, b.arm) for b in event.context.branches} <= theirs
            if always and event.loops == step.loops:
                return event
        return None

    def _finding(self, source: Source, clear: Event, step: Event, count: str) -> Finding:
        name = step.key or "optimizer"
        return self.at(
            source,
            clear.node,
            what=f"gradients are cleared at every pass, and {name}.step() comes once in {count}",
            cause=(
                "what the other passes have computed is thrown away, so nothing accumulates and "
                "the batch is that of one pass"
            ),
            fix=f"call zero_grad() right after {name}.step(), under the same condition",
        )
