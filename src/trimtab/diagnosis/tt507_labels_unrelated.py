"""TT507 labels-unrelated: one batch can be learned, but nothing that holds for all of them."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class LabelsUnrelated(Rule):
    """The model learns one batch by heart, and nothing from all of them together.

    Why: network, loss and optimizer work, since one batch can be learned. Then targets have little
        to do with inputs: they were shuffled apart, shifted by one, drawn at random, or the task
        needs far more steps than it was given.

    Measured: by trial. A run whose answers are no better than one constant answer for all is begun
        again on its first batch alone.

    Silent on: runs that learn anything from their inputs.

    Fix: look at some examples beside their targets; check that both are shuffled together.

    Source: Zhang et al. 2017, arXiv:1611.03530; Karpathy 2019, "A Recipe for Training Neural
        Networks".
    """

    code: ClassVar = "TT507"
    name: ClassVar = "labels-unrelated"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.NO_LEARNING
    scope: ClassVar[Scope] = "loop"
    leads_to: ClassVar = ("TT1", "TT2", "TT3", "TT40")
    rank: ClassVar = 38
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
batches = [(torch.randn(16, 8), torch.randint(4, (16,))) for _ in range(200)]
findings = trimtab.diagnose(model, optimizer, torch.nn.CrossEntropyLoss(), batches).findings
"""
