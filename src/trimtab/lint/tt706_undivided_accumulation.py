"""Gradient accumulation that adds losses up without dividing them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._accumulation import COUNTS, counted
from trimtab.lint._cycles import Cycle, cycles, is_wildcard
from trimtab.lint._edits import edit_fix, replace_node
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import Definition, dotted
from trimtab.lint._source import Source, names_in
from trimtab.lint._trace import Event, Trace, compatible


@register
@dataclass(frozen=True, kw_only=True)
class UndividedAccumulation(SourceRule):
    """Gradients of several micro-batches are added up, and the loss is not divided by their number.

    Why: the gradient is k times that of one large batch, so the learning rate acts k times as
    large, and a clip threshold k times as small. Adam hides the first and not the second.
    Measured: `optimizer.step()` under a condition such as `(i + 1) % k == 0`, or behind a loop over
    micro-batches, with a `backward()` at every pass whose loss is divided or weighted by nothing.
    Silent on: losses that are divided, multiplied or computed with the number; gradients that are
    divided before the step; Accelerate and DeepSpeed, which divide by themselves.
    Fix: `(loss / k).backward()`; where micro-batches differ in tokens or samples, divide the sum of
    their losses by the number of all of them.
    Source: Hugging Face, "Fixing gradient accumulation", 2024; trimtab's Stepper divides by the
    true number of samples.
    """

    code: ClassVar = "TT706"
    name: ClassVar = "undivided-accumulation"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar = ("TT1", "TT3")
    example: ClassVar = """\
import torch

for i, (x, y) in enumerate(loader):
    loss = loss_fn(model(x), y)
    loss.backward()
    if (i + 1) % 4 == 0:
        optimizer.step()
        optimizer.zero_grad()
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
        """Yield one finding for each backward that adds up undivided losses."""
        for cycle in cycles(source):
            for step in cycle.of("step"):
                if step.via == "framework":
                    continue
                for count, backward in self._accumulated(source, cycle, step):
                    if not self._is_divided(source, cycle.trace, backward, count):
                        yield self._finding(source, backward, count)

    def _accumulated(
        self, source: Source, cycle: Cycle, step: Event
    ) -> Iterator[tuple[ast.expr, Event]]:
        """Yield the number of micro-batches and the backward of each accumulation."""
        backwards = [e for e in cycle.of("backward") if e.via != "framework"]
        for event in backwards:
            if event.loops == step.loops and compatible(event, step) and event.index < step.index:
                counts = counted(source, step, event)
                if counts is not None and not self._cleared_each_time(cycle, step, event):
                    yield counts, event
            elif len(event.loops) == len(step.loops) + 1 and event.index < step.index:
                number = _repetitions(source, event.loops[-1])
                inside = [e for e in cycle.of("zero") if event.loops[-1] in e.loops]
                if number is not None and not [e for e in inside if not is_wildcard(e)]:
                    yield number, event

    def _cleared_each_time(self, cycle: Cycle, step: Event, backward: Event) -> bool:
        """Tell whether gradients are cleared at every pass, so that nothing adds up."""
        theirs = {(b.node, b.arm) for b in backward.context.branches}
        clears = [e for e in cycle.of("zero") if e.loops[: len(step.loops)] == step.loops]
        return not clears or any(
            {(b.node, b.arm) for b in e.context.branches} <= theirs for e in clears
        )

    def _is_divided(self, source: Source, trace: Trace, backward: Event, count: ast.expr) -> bool:
        if backward.loss is None or _is_scaled(source, backward.loss, set()):
            return True
        if isinstance(count, ast.Constant) and count.value == 1:
            return True
        if source.mentions('reduction="sum"', "reduction='sum'", "get_grad_norm_scale"):
            return True
        number = dotted(count)
        if number and self._used_elsewhere(source, backward, number):
            return True
        return any(_divides_gradients(e.node) for e in trace.of("call", "zero")) or (
            _divides_anywhere(source)
        )

    def _used_elsewhere(self, source: Source, backward: Event, number: str) -> bool:
        """Tell whether the number enters the loss, or the optimizer's learning rate."""
        last = number.rpartition(".")[2]
        for call in source.all(ast.Call):
            given = [*call.args, *(k.value for k in call.keywords)]
            if any(last in {n.rpartition(".")[2] for n in names_in(g)} for g in given):
                name = source.called(call) or ast.unparse(call.func)
                if re.search(
                    r"(?i)loss|optim|adam|sgd|backward|forward|model|criterion|step$", name
                ):
                    return source.function(call) is not None or call is not backward.node
        return False

    def _finding(self, source: Source, backward: Event, count: ast.expr) -> Finding:
        number = ast.unparse(count)
        return self.at(
            source,
            backward.node,
            what=f"gradients of {number} micro-batches are added up, and no loss is divided",
            cause=(
                f"the gradient is {number} times that of one batch, so the learning rate acts that "
                "many times larger, and a clip threshold that many times smaller"
            ),
            fix=f"divide the loss: (loss / {number}).backward()",
            remedy=self._remedy(source, backward, count),
        )

    def _remedy(self, source: Source, backward: Event, count: ast.expr) -> Fix | None:
        if backward.loss is None or backward.context.calls:
            return None
        if not isinstance(count, ast.Constant | ast.Name | ast.Attribute):
            return None
        if source.scope_of(count) is not source.scope_of(backward.node):
            return None
        loss, number = source.segment(backward.loss), source.segment(count)
        if "\n" in loss:
            return None
        bare = isinstance(backward.loss, ast.Name | ast.Attribute | ast.Call)
        text = f"{loss} / {number}" if bare else f"({loss}) / {number}"
        if backward.via != "scaler":
            text = f"({text})"
        return edit_fix(replace_node(source, backward.loss, text))


def _repetitions(source: Source, loop: ast.AST) -> ast.expr | None:
    """Return k of `for _ in range(k)`, where its name says that it counts micro-batches."""
    if not isinstance(loop, ast.For) or not isinstance(loop.iter, ast.Call):
        return None
    if any(source.called(n) in {"cat", "concat"} for n in ast.walk(loop)):
        return None  # each pass computes the loss of the whole batch: contrastive learning
    call = loop.iter
    if dotted(call.func) == "range" and len(call.args) == 1 and COUNTS.search(dotted(call.args[0])):
        return call.args[0]
    return None


def _is_scaled(source: Source, node: ast.expr, seen: set[ast.AST]) -> bool:
    """Tell whether a loss is divided or multiplied on its way, other than in a loss's arguments."""
    if node in seen:
        return False
    seen.add(node)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div | ast.Mult):
        return True
    return any(_is_scaled(source, part, seen) for part in _sources(source, node)) or any(
        found.how == "augment" and isinstance(getattr(found.node, "op", None), ast.Div | ast.Mult)
        for found in _definitions(source, node)
    )


def _sources(source: Source, node: ast.expr) -> list[ast.expr]:
    """Return what a loss is taken from as it is; a division by `div()` counts as one by `/`."""
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.IfExp):
        return [node.body, node.orelse]
    if isinstance(node, ast.Tuple):
        return node.elts
    if isinstance(node, ast.Call):
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Attribute) and method in {"div", "div_", "mul"}:
            return [ast.BinOp(node.func.value, ast.Div(), node.func.value)]
        if isinstance(node.func, ast.Attribute) and method in {"scale", "mean", "sum"}:
            return [node.args[0] if node.args else node.func.value]
        function = source.origins.function_called(node)
        return source.origins.returned(function) if function else []
    found = _definitions(source, node)
    return [d.value for d in found if d.how != "augment" and d.value is not None]


def _definitions(source: Source, node: ast.expr) -> list[Definition]:
    key = dotted(node)
    return source.scope_of(node).find(key) if key else []


def _divides_gradients(node: ast.AST) -> bool:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        text = dotted(node.func.value)
        return node.func.attr in {"div_", "mul_"} and text.endswith((".grad", ".grad.data"))
    return False


def _divides_anywhere(source: Source) -> bool:
    """Tell whether any gradient of the file is divided: `p.grad /= k`."""
    for node in source.all(ast.AugAssign):
        if isinstance(node.op, ast.Div | ast.Mult) and ".grad" in ast.unparse(node.target):
            return True
    return any(_divides_gradients(call) for call in source.all(ast.Call))
