"""Clipping of gradients that still hold the loss scale."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._edits import delete_line, edit_fix, insert_before, same_block
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, Trace, compatible


@register
@dataclass(frozen=True, kw_only=True)
class ClipBeforeUnscale(SourceRule):
    """Gradients are clipped while they are still multiplied by the loss scale.

    Why: `GradScaler` multiplies the loss by 65,536 at first, and the gradients with it. A threshold
    of 1.0 then acts as 1.0 / 65,536 on the true gradient: nearly every step is clipped to almost
    nothing, by an amount that changes whenever the scale does.
    Measured: a call of `clip_grad_norm_` or `clip_grad_value_` between `scaler.scale(loss)
    .backward()` and `scaler.step(optimizer)`, with no `scaler.unscale_(optimizer)` before it.
    Silent on: clipping by Accelerate or Fabric, which unscale by themselves, and code that divides
    by `get_scale()` itself.
    Fix: call `scaler.unscale_(optimizer)` once a step, right before clipping.
    Source: PyTorch, "Automatic Mixed Precision examples", section "Gradient clipping";
    Micikevicius et al. 2018, arXiv:1710.03740.
    """

    code: ClassVar = "TT701"
    name: ClassVar = "clip-before-unscale"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each clipping of scaled gradients."""
        if source.mentions("get_scale"):
            return
        for trace in source.traces:
            for clip in trace.of("clip"):
                if clip.via == "framework":
                    continue
                found = self._scaled(trace, clip)
                if found is not None:
                    yield self._finding(source, trace, clip, *found)

    def _scaled(self, trace: Trace, clip: Event) -> tuple[Event, Event] | None:
        """Return the scaled backward before and the step after, if nothing unscales between."""
        before = [e for e in trace.events if e.index < clip.index and compatible(e, clip)]
        after = [e for e in trace.events if e.index > clip.index and compatible(e, clip)]
        backwards = [e for e in before if e.kind == "backward"]
        if not backwards or backwards[-1].via != "scaler":
            return None
        if any(e.kind == "unscale" for e in before):
            return None
        steps = [e for e in after if e.kind == "step" and e.via == "scaler"]
        return (backwards[-1], steps[0]) if steps else None

    def _finding(
        self, source: Source, trace: Trace, clip: Event, backward: Event, step: Event
    ) -> Finding:
        scaler, optimizer = backward.key or "scaler", step.key or "optimizer"
        return self.at(
            source,
            clip.node,
            what=f"gradients are clipped before {scaler}.unscale_({optimizer})",
            cause=(
                "they are still multiplied by the loss scale, 65,536 at first, so the threshold "
                "acts as one that many times smaller and nearly every step is clipped to nothing"
            ),
            fix=f"call {scaler}.unscale_({optimizer}) right before clipping, once a step",
            remedy=self._remedy(source, trace, clip, backward, step),
        )

    def _remedy(
        self, source: Source, trace: Trace, clip: Event, backward: Event, step: Event
    ) -> Fix | None:
        if not same_block(source, clip.node, step.node) or backward.subject is None:
            return None
        if source.function(backward.node) is not source.function(step.node):
            return None
        if step.subject is None:
            return None
        scaler, optimizer = source.segment(backward.subject), source.segment(step.subject)
        line = f"{scaler}.unscale_({optimizer})"
        edits = [insert_before(source, source.statement(clip.node), line)]
        late = [e for e in trace.of("unscale") if clip.index < e.index < step.index]
        for each in late:
            if not same_block(source, each.node, clip.node):
                return None
            edits.append(delete_line(source, source.statement(each.node)))
        return edit_fix(*edits)
