"""A loss module that is given tensors when it is built."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._edits import edit_fix, insert_after_node
from trimtab.lint._names import LOSSES
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source


@register
@dataclass(frozen=True, kw_only=True)
class LossBuiltWithTensors(SourceRule):
    """A loss module is given prediction and target when it is built, and is never called.

    Why: `nn.MSELoss(output, target)` makes a module and takes the tensors for old settings. What
    comes back is no number: `backward()` on it fails, or the comparison of losses is one of
    modules.
    Measured: a loss class of torch.nn is built with two or more arguments without names.
    Silent on: settings that are constants, and calls of the module: `nn.MSELoss()(output, target)`.
    Fix: build it without them and call it: `nn.MSELoss()(output, target)`.
    Source: torch.nn.MSELoss; Islam et al. 2019, arXiv:1906.01388 (API misuse).
    """

    code: ClassVar = "TT730"
    name: ClassVar = "loss-built-with-tensors"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch
from torch import nn

for x, y in loader:
    optimizer.zero_grad()
    loss = nn.MSELoss(model(x), y)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch
from torch import nn

for x, y in loader:
    optimizer.zero_grad()
    loss = nn.MSELoss()(model(x), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loss that is built so."""
        for call in source.all(ast.Call):
            name = source.called(call)
            if name not in LOSSES or not name.endswith("Loss") or len(call.args) < 2:
                continue
            if not source.qualname(call.func).startswith("torch"):
                continue
            if any(isinstance(a, ast.Constant | ast.Starred) for a in call.args[:2]):
                continue
            given = ", ".join(ast.unparse(a) for a in call.args[:2])
            yield self.at(
                source,
                call,
                what=f"the loss {name} is built with {given}, and is not called",
                cause=(
                    "the class takes settings, not tensors: what comes back is a module and no loss"
                ),
                fix=f"build it first and call it: {name}()({given})",
                remedy=self._remedy(source, call),
            )

    def _remedy(self, source: Source, call: ast.Call) -> Fix | None:
        return edit_fix(insert_after_node(source, call.func, "()"))
