"""TT412 learning-rate-too-low: the same run learns far more at a higher learning rate."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class LearningRateTooLow(Rule):
    """The run hardly moves, and the same run at ten times its learning rate or more learns well.

    Why: steps that are far too short look like a plateau. Nothing is broken; it would take
        thousands of times as long.

    Measured: by trial. After a run that has hardly learned, it is begun again from the same weights
        with the same batches, and the learning rate times 10 and 100.

    Silent on: a low learning rate that learns steadily: a run has to miss 95 % of what the trial
        learns in the same number of steps.

    Fix: raise the learning rate to that of the trial.

    Source: Smith 2017, arXiv:1506.01186 (learning-rate range test).
    """

    code: ClassVar = "TT412"
    name: ClassVar = "learning-rate-too-low"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    scope: ClassVar[Scope] = "loop"
    leads_to: ClassVar = ("TT1", "TT2", "TT3", "TT40")
    rank: ClassVar = 35
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(20, 16, 8)]
findings = trimtab.diagnose(model, optimizer, torch.nn.MSELoss(), batches, steps=60).findings
"""
