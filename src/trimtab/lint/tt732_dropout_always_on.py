"""Dropout that evaluation mode does not turn off."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Fix, Severity, Symptom, register
from trimtab.lint._edits import edit_fix, insert_after_node
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source, keyword

FUNCTIONS = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"})


@register
@dataclass(frozen=True, kw_only=True)
class DropoutAlwaysOn(SourceRule):
    """Functional dropout is used without the module's mode, so eval() does not turn it off.

    Why: `F.dropout(x, p)` drops units whenever it is called: its `training` is true unless told
    otherwise. Evaluation and deployment then run with dropout on, and scores are noisy and too
    low.
    Measured: in the `forward` of a module, `F.dropout` is called without `training`.
    Silent on: calls that say `training=...`, whatever they say.
    Fix: `F.dropout(x, p, training=self.training)`, or the layer `nn.Dropout(p)`.
    Source: torch.nn.functional.dropout.
    """

    code: ClassVar = "TT732"
    name: ClassVar = "dropout-always-on"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5)
"""
    good: ClassVar = """\
import torch.nn.functional as F
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return F.dropout(x, 0.5, training=self.training)
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each dropout that is always on."""
        if "dropout" not in source.text:
            return
        for call in source.all(ast.Call):
            path = source.qualname(call.func)
            if not path.startswith("torch.nn.functional.") or source.called(call) not in FUNCTIONS:
                continue
            scope = source.scope_of(call)
            if scope.owner is None or scope.name != "forward":
                continue
            if not source.origins.is_module(scope.owner) or self._is_told(call):
                continue
            yield self.at(
                source,
                call,
                what=f"the call of {source.called(call)}() lacks training=self.training",
                cause=(
                    "functional dropout is on unless it is told otherwise, so eval() does not turn "
                    "it off and evaluation is noisy"
                ),
                fix="pass training=self.training, or use the layer nn.Dropout",
                remedy=self._remedy(source, call, scope.self_name),
            )

    def _is_told(self, call: ast.Call) -> bool:
        given = any(k.arg is None for k in call.keywords)
        starred = any(isinstance(a, ast.Starred) for a in call.args)
        return given or starred or keyword(call, "training", 2) is not None

    def _remedy(self, source: Source, call: ast.Call, this: str) -> Fix | None:
        last = [*call.args, *(k.value for k in call.keywords)][-1:]
        if not last:
            return None
        return edit_fix(insert_after_node(source, last[0], f", training={this}.training"))
