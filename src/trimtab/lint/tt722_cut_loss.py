"""A loss that is cut off from the network before it goes backward."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._graph import Graph
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source, is_constant
from trimtab.lint._trace import Event


@register
@dataclass(frozen=True, kw_only=True)
class CutLoss(SourceRule):
    """The loss is cut off from the network, so its backward pass reaches no parameter.

    Why: `.detach()`, `.item()`, `.data`, `torch.tensor(...)`, `argmax` and a forward pass under
    `no_grad` give values without a history. `backward()` on what is computed from them fails, and
    where `requires_grad_()` silences the error, it does nothing: the network never changes.
    Measured: the loss that goes backward, followed back through names and operations in its
    function, has passed one of them on every path; or `requires_grad` is set on a loss.
    Silent on: losses that reach a network on another path, and values that the source does not
    show.
    Fix: compute the loss from the network's own output, and detach copies for logging only.
    Source: Humbatova et al. 2020, arXiv:1910.11015; Jiang et al. 2025 (TrainCheck, OSDI 2025).
    """

    code: ClassVar = "TT722"
    name: ClassVar = "cut-loss"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    leads_to: ClassVar = ("TT4",)
    example: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    output = model(x).detach()
    loss = loss_fn(output, y)
    loss.requires_grad_()
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch

for x, y in loader:
    optimizer.zero_grad()
    output = model(x)
    loss = loss_fn(output, y)
    loss.backward()
    optimizer.step()
    history.append(loss.detach())
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loss that is cut off."""
        seen: set[ast.AST] = set()
        graph = Graph(source)
        for trace in source.traces:
            for backward in trace.of("backward"):
                if backward.loss is None or backward.node in seen:
                    continue
                seen.add(backward.node)
                if graph.of(backward.loss) == "cut" and graph.cuts:
                    yield self._finding(source, graph.cuts[0])
                elif (made := self._forced(source, backward)) is not None:
                    yield self._finding(source, made)

    def _forced(self, source: Source, backward: Event) -> ast.AST | None:
        """Return where `requires_grad` is set on the loss itself."""
        name = dotted(backward.loss)
        scope = source.scope_of(backward.node)
        if not name or not source.mentions("requires_grad"):
            return None
        if any(d.how == "param" for d in scope.find(name)):
            return None
        for call in source.all(ast.Call):
            func = call.func
            if isinstance(func, ast.Attribute) and func.attr == "requires_grad_":
                off = any(is_constant(a, False) for a in call.args)  # noqa: FBT003
                if dotted(func.value) == name and source.scope_of(call) is scope and not off:
                    return call
        for found in scope.definitions.get(f"{name}.requires_grad", ()):
            if is_constant(found.value, True):  # noqa: FBT003
                return found.node
        return None

    def _finding(self, source: Source, cut: ast.AST) -> Finding:
        return self.at(
            source,
            cut,
            what=f"the loss that goes backward is cut off from the network: {_words(source, cut)}",
            cause=(
                "what it returns has no history, so backward() reaches no parameter and the "
                "network never changes"
            ),
            fix="compute the loss from the network's own output, and detach only what is logged",
        )


def _words(source: Source, node: ast.AST) -> str:
    """Return in words what cuts."""
    if isinstance(node, ast.Call):
        if isinstance(node.func, ast.Attribute) and not source.called(node):
            if node.func.attr == "requires_grad_":
                return "requires_grad_(), which turns the loss into a leaf"
            if node.func.attr in {"detach", "detach_", "item", "numpy", "tolist", "argmax"}:
                return f".{node.func.attr}()"
        name = source.called(node)
        if name in {"max", "topk", "argmax"}:
            return f"{name}(), whose indices have no gradient"
        if name in {"tensor", "as_tensor", "from_numpy", "float"}:
            return f"{name}(), which copies the value alone"
        return "a forward pass under torch.no_grad()"
    if isinstance(node, ast.Attribute):
        return ".data"
    if isinstance(node, ast.Compare):
        return "a comparison, which has no gradient"
    if isinstance(node, ast.Subscript):
        return "the indices of a maximum, which have no gradient"
    return "requires_grad = True, which turns the loss into a leaf"
