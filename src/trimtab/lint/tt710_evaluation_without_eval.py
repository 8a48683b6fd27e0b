"""Evaluation of a network that is still in training mode."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._evaluation import Evaluation, caller_is_known, evaluations, mode_before
from trimtab.lint._models import has_modes, layers_of
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source
from trimtab.lint._trace import compatible


@register
@dataclass(frozen=True, kw_only=True)
class EvaluationWithoutEval(SourceRule):
    """The network is evaluated in training mode: dropout is on and batch statistics are used.

    Why: in training mode dropout drops units, and BatchNorm normalises by the batch at hand and
    updates its running statistics with it. Scores are noisy and too low, depend on the batch size,
    and validation data leaks into the network.
    Measured: a network with dropout or BatchNorm is called on validation or test data after
    `train()`, or in a file that never calls `eval()`.
    Silent on: networks that compute the same in both modes, and functions that nothing in the file
    calls.
    Fix: call `model.eval()` before evaluation and `model.train()` after it.
    Source: torch.nn.Module.eval; Ioffe & Szegedy 2015, arXiv:1502.03167, section 3.1.
    """

    code: ClassVar = "TT710"
    name: ClassVar = "evaluation-without-eval"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    example: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2))
with torch.no_grad():
    for x, y in test_loader:
        correct += (model(x).argmax(dim=1) == y).sum().item()
"""
    good: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 2))
model.eval()
with torch.no_grad():
    for x, y in test_loader:
        correct += (model(x).argmax(dim=1) == y).sum().item()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each evaluation in training mode."""
        never = not source.mentions(
            ".eval(", ".train(False", ".train(mode", "set_eval"
        ) and not any(e.detail == "eval" for t in source.traces for e in t.of("mode"))
        seen: set[ast.AST] = set()
        for each in evaluations(source):
            place = each.loop or each.forward.node
            if place in seen or not self._in_training_mode(each, never):
                continue
            if not caller_is_known(source, each) or each.forward.subject is None:
                continue
            if has_modes(layers_of(source, each.forward.subject)):
                seen.add(place)
                yield self._finding(source, each)

    def _in_training_mode(self, each: Evaluation, never: bool) -> bool:  # noqa: FBT001
        if never:
            return True
        mode = mode_before(each)
        return (
            mode is not None
            and mode.detail == "train"
            and compatible(mode, each.forward)
            and not mode.context.branches
        )

    def _finding(self, source: Source, each: Evaluation) -> Finding:
        name = each.forward.key or "model"
        return self.at(
            source,
            each.forward.node,
            what=f"the network {name} is evaluated in training mode, without {name}.eval()",
            cause=(
                "dropout still drops units, and BatchNorm normalises by the batch and learns from "
                "held-out data, so the scores are not those of the trained network"
            ),
            fix=f"call {name}.eval() before evaluation, and {name}.train() before training goes on",
        )
