"""TT411 learning-rate-too-high: the same run is sound at a lower learning rate."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class LearningRateTooHigh(Rule):
    """The run fails, and the same run at a tenth of its learning rate or less does not.

    Why: steps that are too long for the curvature of the loss overshoot. The loss oscillates or
        grows, units die, activations saturate, and in the end there is NaN.

    Measured: by trial. After a run that failed, it is begun again from the same weights with the
        same batches, and the learning rate times 0.1 and 0.01.

    Silent on: runs that learn, however rough their loss is.

    Fix: lower the learning rate to where the trial was sound, or warm it up.

    Source: Cohen et al. 2021, arXiv:2103.00065; Gilmer et al. 2021, arXiv:2110.04369.
    """

    code: ClassVar = "TT411"
    name: ClassVar = "learning-rate-too-high"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.DIVERGENCE
    scope: ClassVar[Scope] = "loop"
    leads_to: ClassVar = ("TT1", "TT2", "TT3", "TT40", "TT410")
    rank: ClassVar = 35
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=30.0)
batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(20, 16, 8)]
findings = trimtab.diagnose(model, optimizer, torch.nn.MSELoss(), batches, steps=60).findings
"""
