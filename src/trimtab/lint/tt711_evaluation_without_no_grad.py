"""Evaluation that builds a graph nobody goes back through."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._evaluation import (
    Evaluation,
    caller_is_known,
    evaluations,
    in_evaluation_function,
    without_gradients,
)
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source

MAY_BE_OFF: Final = re.compile(r"(?i)eval|grad|inference|infer")
"""Contexts and decorators that may turn gradients off."""


@register
@dataclass(frozen=True, kw_only=True)
class EvaluationWithoutNoGrad(SourceRule):
    """The network is evaluated with gradients on.

    Why: every forward pass keeps its activations for a `backward()` that never comes. Memory is
    that of training, evaluation is slower, and losses that are added up keep all batches alive.
    Measured: a network is called in a loop over validation or test data in which nothing goes
    backward, outside `torch.no_grad()` and `torch.inference_mode()`.
    Silent on: code that asks for gradients of its inputs, and functions that nothing in the file
    calls.
    Fix: put the evaluation into `with torch.no_grad():`, or decorate its function with it.
    Source: torch.no_grad.
    """

    code: ClassVar = "TT711"
    name: ClassVar = "evaluation-without-no-grad"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch

model.eval()
for x, y in test_loader:
    correct += (model(x).argmax(dim=1) == y).sum().item()
"""
    good: ClassVar = """\
import torch

model.eval()
with torch.no_grad():
    for x, y in test_loader:
        correct += (model(x).argmax(dim=1) == y).sum().item()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each evaluation with gradients."""
        if source.mentions("autograd.grad", "requires_grad_(", ".requires_grad =", "enable_grad"):
            return
        if source.mentions("set_grad_enabled", "inference_mode(mode", "Fabric", "LightningModule"):
            return
        seen: set[ast.AST] = set()
        for each in evaluations(source):
            if each.loop is None or each.loop in seen or self._may_be_off(each):
                continue
            known = caller_is_known(source, each)
            if known or (in_evaluation_function(source, each.forward) and self._sets_eval(each)):
                seen.add(each.loop)
                yield self._finding(source, each)

    def _may_be_off(self, each: Evaluation) -> bool:
        """Tell whether gradients are off, or something is around that might turn them off."""
        call = each.forward.node
        if getattr(getattr(call, "func", None), "attr", "") == "generate":
            return True  # it turns gradients off by itself
        around = (ast.unparse(w) for w in each.forward.context.withs)
        return without_gradients(each.forward) or any(MAY_BE_OFF.search(w) for w in around)

    def _sets_eval(self, each: Evaluation) -> bool:
        return any(e.detail == "eval" for e in each.trace.of("mode"))

    def _finding(self, source: Source, each: Evaluation) -> Finding:
        name = each.forward.key or "model"
        return self.at(
            source,
            each.loop or each.forward.node,
            what=f"the network {name} is evaluated outside torch.no_grad()",
            cause=(
                "each batch keeps its activations for a backward() that never comes, which takes "
                "as much memory as training"
            ),
            fix="put the loop into `with torch.no_grad():`",
        )
