"""Half precision without a scaled loss, or with one that is scaled on one side only."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._autocast import SCALING_WORDS, half_precision
from trimtab.lint._edits import edit_fix, replace_node
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import Event, Trace, compatible


@register
@dataclass(frozen=True, kw_only=True)
class UnscaledBackward(SourceRule):
    """The loss of a float16 forward pass goes backward without loss scaling.

    Why: float16 holds nothing below 6e-8. Gradients of a trained network are often smaller, so they
    become zero, and layers stop learning without a word. A gradient scaler lifts them; it has to be
    on both sides, at `backward()` and at `step()`.
    Measured: `backward()` on a loss from an autocast to float16 (CUDA's default) in a file without
    any gradient scaler; `scaler.step(optimizer)` after a plain `loss.backward()`; a plain
    `optimizer.step()` after `scaler.scale(loss).backward()`.
    Silent on: bfloat16, which has the range of float32; types that the source does not show; and
    Accelerate, Fabric, DeepSpeed and Lightning.
    Fix: `scaler.scale(loss).backward(); scaler.step(optimizer); scaler.update()`, or bfloat16.
    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2; torch.amp, "Gradient scaling".
    """

    code: ClassVar = "TT705"
    name: ClassVar = "unscaled-backward"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar = ("TT101", "TT4")
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.float16):
        loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each backward or step that is not scaled."""
        unscaled = not any(word in source.text for word in SCALING_WORDS)
        for trace in source.traces:
            if unscaled:
                yield from self._without_scaler(source, trace)
            else:
                yield from self._plain_backward(source, trace)
                yield from self._plain_step(source, trace)

    def _without_scaler(self, source: Source, trace: Trace) -> Iterator[Finding]:
        for backward in trace.of("backward"):
            if backward.via:
                continue
            forward = [
                e
                for e in trace.of("forward", "call")
                if e.index <= backward.index
                and e.loops == backward.loops
                and compatible(e, backward)
                and half_precision(source, e) is not None
            ]
            inside = half_precision(source, backward)
            if not inside and not any(e.kind == "forward" for e in forward):
                continue
            yield self.at(
                source,
                backward.node,
                what="the forward pass runs in float16, and backward() has no loss scaling",
                cause=(
                    "float16 holds no gradient below 6e-8: small gradients become zero and their "
                    "layers stop learning"
                ),
                fix=(
                    'use a torch.amp.GradScaler("cuda"): scaler.scale(loss).backward(), '
                    "scaler.step(optimizer), scaler.update(); or autocast to torch.bfloat16"
                ),
            )

    def _plain_backward(self, source: Source, trace: Trace) -> Iterator[Finding]:
        """Find `loss.backward()` before `scaler.step(optimizer)`."""
        for backward in trace.of("backward"):
            if backward.via:
                continue
            others = [e for e in trace.of("backward") if e.via and _together(e, backward)]
            steps = [e for e in trace.of("step") if e.index > backward.index]
            steps = [e for e in steps if _together(e, backward)]
            if others or not steps or steps[0].via != "scaler":
                continue
            scaler = self._scaler_text(steps[0], source)
            yield self.at(
                source,
                backward.node,
                what=f"{scaler}.step() is given gradients of a loss that was never scaled",
                cause=(
                    "the scaler divides gradients by its scale, 65,536 at first, which nothing "
                    "multiplied them by: the steps are that many times too small"
                ),
                fix=f"call {scaler}.scale(loss).backward() in place of loss.backward()",
                remedy=self._scale(source, backward, scaler),
            )

    def _scaler_text(self, step: Event, source: Source) -> str:
        node = step.node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return source.segment(node.func.value)
        return "scaler"

    def _scale(self, source: Source, backward: Event, scaler: str) -> Fix | None:
        if backward.loss is None or backward.context.calls:
            return None
        loss = source.segment(backward.loss)
        return edit_fix(replace_node(source, backward.loss, f"{scaler}.scale({loss})"))

    def _plain_step(self, source: Source, trace: Trace) -> Iterator[Finding]:
        """Find `optimizer.step()` after `scaler.scale(loss).backward()`."""
        for step in trace.of("step"):
            if step.via:
                continue
            before = [e for e in trace.events if e.index < step.index and _together(e, step)]
            backwards = [e for e in before if e.kind == "backward"]
            if not backwards or backwards[-1].via != "scaler":
                continue
            if any(e.kind == "unscale" for e in before) or source.mentions("get_scale"):
                continue
            scaler, name = backwards[-1].key or "scaler", step.key or "optimizer"
            yield self.at(
                source,
                step.node,
                what=f"the loss is scaled by {scaler}, and {name}.step() is called without it",
                cause=(
                    "the gradients are still multiplied by the loss scale, 65,536 at first, and a "
                    "step with an overflow is not skipped"
                ),
                fix=f"call {scaler}.step({name}) and {scaler}.update() in place of {name}.step()",
            )


def _together(first: Event, second: Event) -> bool:
    """Tell whether two events are in one loop and can happen in one pass of it."""
    return first.loops == second.loops and compatible(first, second)
