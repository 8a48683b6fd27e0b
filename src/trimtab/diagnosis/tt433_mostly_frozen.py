"""TT433 mostly-frozen: the run fails, and nearly nothing is allowed to train."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class MostlyFrozen(Rule):
    """The run learns nothing, and does once its frozen parameters are unfrozen.

    Why: parameters with `requires_grad=False` get no gradient. Freezing a backbone that has learned
        something is sound; freezing random weights leaves nothing to build on.

    Measured: by trial. After a run that failed, and whose parameters are mostly frozen, it is begun
        again with all of them trained.

    Silent on: fine-tuning with a frozen backbone that learns.

    Fix: call `model.requires_grad_(True)` before the optimizer is built.

    Source: Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT433"
    name: ClassVar = "mostly-frozen"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    scope: ClassVar[Scope] = "loop"
    leads_to: ClassVar = ("TT1", "TT2", "TT3", "TT40", "TT412")
    rank: ClassVar = 22
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))
model.requires_grad_(False)
model[2].bias.requires_grad_(True)
optimizer = torch.optim.SGD([model[2].bias], lr=0.01)
batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(20, 16, 8)]
findings = trimtab.diagnose(model, optimizer, torch.nn.MSELoss(), batches, steps=100).findings
"""
