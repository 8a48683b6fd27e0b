"""Writes to a tensor's `.data`, behind autograd's back."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._graph import is_without_gradients
from trimtab.lint._names import OTHER_NETWORK_NAME
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import LOOPS, dotted, position
from trimtab.lint._source import Source, last_name

KEEP: Final = frozenset({"requires_grad_", "resize_", "share_memory_"})
"""Methods that change no value."""


@register
@dataclass(frozen=True, kw_only=True)
class DataWrite(SourceRule):
    """A tensor is changed through `.data` during training, where autograd cannot see it.

    Why: autograd counts every change in place, to refuse a backward pass through values that are
    not there any more. A write to `.data` is not counted: between forward and backward it gives
    wrong gradients without an error.
    Measured: an assignment to `x.data`, or a method that works in place on it, within `forward()`
    after x was used, or between a forward pass and its `backward()` (a warning), or elsewhere in a
    training loop (advice).
    Silent on: initialisation before training, gradients (`p.grad.data`), code under `no_grad`, and
    networks that follow another one (EMA, target networks).
    Fix: `with torch.no_grad(): x.copy_(...)`, which autograd does see.
    Source: torch.Tensor.detach, "Note"; PyTorch 0.4 migration guide, 2018: "What about .data?".
    """

    code: ClassVar = "TT717"
    name: ClassVar = "data-write"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    model.weight.data.clamp_(-1, 1)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    with torch.no_grad():
        model.weight.clamp_(-1, 1)
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each write during training."""
        if ".data" not in source.text:
            return
        loops = self._training_loops(source)
        for node, target in self._writes(source):
            key = dotted(target.value)
            if not key or key.endswith(".grad") or OTHER_NETWORK_NAME.search(ast.unparse(target)):
                continue
            if f'register_buffer("{last_name(key)}"' in source.text:
                continue
            function = source.function(node)
            owner = source.scope_of(node).owner
            in_forward = (
                function is not None
                and function.name == "forward"
                and owner is not None
                and source.origins.is_module(owner)
            )
            around = [n for n in source.around(node) if n in loops]
            if is_without_gradients(source, node):
                continue  # autograd is off: a moving average, or the like
            if in_forward and not self._is_used_before(source, node, target):
                continue  # the forward pass has not seen the old values
            if in_forward:
                yield self._harmful(source, node, target, "inside forward()")
            elif around and self._before_backward(source, node, around[0]):
                yield self._harmful(source, node, target, "between the forward pass and backward()")
            elif around:
                yield self._unseen(source, node, target)

    def _is_used_before(self, source: Source, node: ast.AST, target: ast.Attribute) -> bool:
        """Tell whether a tensor, or the layer it belongs to, is used above in the same function."""
        key = dotted(target.value)
        layer = key.rpartition(".")[0]
        keys = {key, layer} if layer.count(".") else {key}
        scope = source.scope_of(node)
        return any(
            dotted(n) in keys
            and position(n) < position(node)
            and source.scope_of(n) is scope
            and getattr(source.parent(n), "attr", "") not in {"data", "weight", "bias"}
            for n in [*source.all(ast.Name), *source.all(ast.Attribute)]
        )

    def _training_loops(self, source: Source) -> set[ast.AST]:
        """Return the loops in which an optimizer steps, or somebody does its work by hand."""
        found: set[ast.AST] = set()
        for trace in source.traces:
            loops = {n for e in trace.of("backward") for n in e.loops if isinstance(n, LOOPS)}
            stepping = {n for e in trace.of("step") for n in e.loops}
            found |= {n for n in loops if n in stepping or self._moves_by_hand(n)}
        return found

    def _moves_by_hand(self, loop: ast.AST) -> bool:
        """Tell whether a loop subtracts gradients itself: `p.data -= lr * p.grad`."""
        for node in ast.walk(loop):
            by_hand = isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Sub)
            if isinstance(node, ast.AugAssign) and by_hand and ".grad" in ast.unparse(node.value):
                return True
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                text = ast.unparse(node)
                if node.func.attr in {"add_", "sub_"} and ".grad" in text and "-" in text:
                    return True
        return False

    def _writes(self, source: Source) -> Iterator[tuple[ast.AST, ast.Attribute]]:
        """Yield each write with the `x.data` that it changes."""
        assigns: list[ast.Assign | ast.AugAssign]
        assigns = [*source.all(ast.Assign), *source.all(ast.AugAssign)]
        for assign in assigns:
            targets = [assign.target] if isinstance(assign, ast.AugAssign) else assign.targets
            for target in targets:
                inner = target.value if isinstance(target, ast.Subscript) else target
                is_data = isinstance(inner, ast.Attribute) and inner.attr == "data"
                if isinstance(inner, ast.Attribute) and is_data and dotted(inner.value) != "self":
                    yield assign, inner
        for call in source.all(ast.Call):
            func = call.func
            if not isinstance(func, ast.Attribute) or not func.attr.endswith("_"):
                continue
            inner = func.value.value if isinstance(func.value, ast.Subscript) else func.value
            plain = func.attr not in KEEP and not func.attr.startswith("_")
            if plain and isinstance(inner, ast.Attribute) and inner.attr == "data":
                yield call, inner

    def _before_backward(self, source: Source, node: ast.AST, loop: ast.AST) -> bool:
        """Tell whether a write comes after a forward pass of the loop and before its backward."""
        for trace in source.traces:
            inside = [e for e in trace.events if loop in e.loops and not e.context.calls]
            here = position(node)
            same = [e for e in inside if source.scope_of(e.node) is source.scope_of(node)]
            before = [e for e in same if position(e.node) < here]
            after = [e for e in same if position(e.node) > here and e.kind in {"backward", "step"}]
            relevant = [e for e in before if e.kind in {"forward", "backward", "step"}]
            last = relevant[-1].kind if relevant else ""
            if after and after[0].kind == "backward" and last == "forward":
                return True
        return False

    def _harmful(self, source: Source, node: ast.AST, target: ast.expr, where: str) -> Finding:
        return self.at(
            source,
            node,
            what=f"a write to {ast.unparse(target)} stands {where}",
            cause=(
                "autograd does not see it, so backward() uses the changed values as if they were "
                "those of the forward pass: the gradients are wrong, without an error"
            ),
            fix="change the tensor after backward(), within `with torch.no_grad():`",
        )

    def _unseen(self, source: Source, node: ast.AST, target: ast.expr) -> Finding:
        assert isinstance(target, ast.Attribute)
        return self.at(
            source,
            node,
            severity=Severity.ADVICE,
            what=f"a write to {ast.unparse(target)} stands in the training loop",
            cause="autograd does not see changes of .data, so it cannot refuse a wrong backward()",
            fix=f"change {ast.unparse(target.value)} within `with torch.no_grad():`",
        )
