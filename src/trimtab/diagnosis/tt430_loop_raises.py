"""TT430 loop-raises: a training step ends in an exception."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class LoopRaises(Rule):
    """A training step raises an exception.

    Why: nothing is trained. The cause often stands beside it: labels out of range, a loss that is
        cut off from the model, shapes that do not fit.

    Measured: by running the loop.

    Fix: look at the line that is named.
    """

    code: ClassVar = "TT430"
    name: ClassVar = "loop-raises"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    scope: ClassVar[Scope] = "loop"
    rank: ClassVar = 70
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Linear(8, 3)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
batches = [(torch.randn(16, 9), torch.randint(3, (16,)))]
loss_fn = torch.nn.CrossEntropyLoss()
findings = trimtab.diagnose(model, optimizer, loss_fn, batches, steps=20).findings
"""
