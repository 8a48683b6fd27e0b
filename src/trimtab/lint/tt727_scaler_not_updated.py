"""A gradient scaler whose scale never changes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._cycles import cycles
from trimtab.lint._edits import edit_fix, insert_after
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import Event


@register
@dataclass(frozen=True, kw_only=True)
class ScalerNotUpdated(SourceRule):
    """The gradient scaler steps and is never updated.

    Why: `scaler.update()` lowers the scale after an overflow and raises it after 2,000 good steps.
    Without it the second `scaler.step()` of an optimizer fails, and a scale that is too large
    would stay so for ever.
    Measured: a loop with `scaler.step(optimizer)` and no `update()` of a scaler.
    Silent on: loops that call what the file does not show with the scaler.
    Fix: call `scaler.update()` once a step, after all `scaler.step(...)`.
    Source: torch.amp.GradScaler; Micikevicius et al. 2018, arXiv:1710.03740.
    """

    code: ClassVar = "TT727"
    name: ClassVar = "scaler-not-updated"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loop that never updates its scaler."""
        for cycle in cycles(source):
            steps = cycle.of("step", via="scaler")
            scaled = [e for e in cycle.of("backward") if e.via == "scaler" and e.subject]
            if not steps or not scaled or cycle.trace.of("update"):
                continue
            if source.mentions(f"{scaled[0].key}.update("):
                continue
            if not any(self._takes(e, scaled[0]) for e in cycle.of("call")):
                yield self._finding(source, steps[-1], scaled[0])

    def _takes(self, event: Event, scaled: Event) -> bool:
        """Tell whether a call is given the scaler."""
        given = getattr(event.node, "args", [])
        return any(event.context.key(a) == scaled.key for a in given)

    def _finding(self, source: Source, step: Event, scaled: Event) -> Finding:
        name = scaled.key or "scaler"
        return self.at(
            source,
            step.node,
            what=f"the loop calls {name}.step(), and never {name}.update()",
            cause=(
                "the loss scale is never lowered after an overflow, and the next step of the "
                "optimizer fails since the scaler still thinks it has stepped"
            ),
            fix=f"call {name}.update() after {name}.step()",
            remedy=self._remedy(source, step, scaled),
        )

    def _remedy(self, source: Source, step: Event, scaled: Event) -> Fix | None:
        if scaled.subject is None:
            return None
        if source.function(scaled.node) is not source.function(step.node):
            return None
        line = f"{source.segment(scaled.subject)}.update()"
        return edit_fix(insert_after(source, source.statement(step.node), line))
