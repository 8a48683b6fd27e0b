"""A loss that is given the target first and the prediction second."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._edits import edit_fix, replace_node
from trimtab.lint._names import ORDERED_LOSSES, TARGET_NAME
from trimtab.lint._origins import reaching
from trimtab.lint._outputs import loss_arguments, loss_names
from trimtab.lint._rule import SourceRule
from trimtab.lint._scopes import dotted
from trimtab.lint._source import Source, last_name


@register
@dataclass(frozen=True, kw_only=True)
class SwappedLossArguments(SourceRule):
    """The loss is given the target first and the prediction second.

    Why: PyTorch's losses take (prediction, target). Swapped, the cross-entropy takes labels for
    logits: it raises an error about types or sizes, or trains on something else where they fit.
    Measured: the first argument of a loss that is not symmetric bears the name of a target, and the
    second one is what a network returned.
    Silent on: symmetric losses such as MSELoss, and values that the source does not show.
    Fix: `criterion(output, target)`.
    Source: torch.nn.CrossEntropyLoss; Islam et al. 2019, arXiv:1906.01388 (argument order).
    """

    code: ClassVar = "TT729"
    name: ClassVar = "swapped-loss-arguments"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar = ("TT3",)
    example: ClassVar = """\
import torch
import torch.nn.functional as F

for x, y in loader:
    optimizer.zero_grad()
    output = model(x)
    loss = F.binary_cross_entropy_with_logits(y, output)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch
import torch.nn.functional as F

for x, y in loader:
    optimizer.zero_grad()
    output = model(x)
    loss = F.binary_cross_entropy_with_logits(output, y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loss with its arguments swapped."""
        for call in source.all(ast.Call):
            names = loss_names(source, call)
            if not names or not names <= ORDERED_LOSSES or call.keywords or len(call.args) < 2:
                continue
            first, second = loss_arguments(call)
            if first is None or second is None:
                continue
            if self._is_target(source, first) and self._is_output(source, second):
                yield self._finding(source, call, min(names), first, second)

    def _is_target(self, source: Source, node: ast.expr) -> bool:
        if not TARGET_NAME.search(last_name(dotted(node))):
            return False
        return all(d.how in {"loop", "param"} or _is_moved(d.value) for d in reaching(source, node))

    def _is_output(self, source: Source, node: ast.expr) -> bool:
        """Tell whether a value is what a network returned."""
        if isinstance(node, ast.Call):
            return source.origins.is_model(node.func) and not source.called(node)
        if isinstance(node, ast.Name):
            if TARGET_NAME.search(node.id):
                return False
            found = reaching(source, node)
            return len(found) == 1 and (
                found[0].how == "assign"
                and isinstance(found[0].value, ast.Call)
                and self._is_output(source, found[0].value)
            )
        return False

    def _finding(
        self, source: Source, call: ast.Call, name: str, first: ast.expr, second: ast.expr
    ) -> Finding:
        return self.at(
            source,
            call,
            what=f"the loss {name} is given the target {ast.unparse(first)} before the prediction",
            cause="PyTorch's losses take the prediction first, so the target is taken for it",
            fix=f"swap them: ({ast.unparse(second)}, {ast.unparse(first)})",
            remedy=self._remedy(source, first, second),
        )

    def _remedy(self, source: Source, first: ast.expr, second: ast.expr) -> Fix | None:
        one, two = source.segment(first), source.segment(second)
        if "\n" in one + two:
            return None
        return edit_fix(replace_node(source, first, two), replace_node(source, second, one))


def _is_moved(value: ast.expr | None) -> bool:
    """Tell whether a value is `y.to(device)`, alone or in a tuple, or a part of the batch."""
    if isinstance(value, ast.Tuple):
        return all(_is_moved(e) for e in value.elts)
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
        return value.func.attr in {"to", "cuda", "float", "long", "squeeze", "unsqueeze", "view"}
    return isinstance(value, ast.Subscript)
