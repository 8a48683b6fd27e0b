"""TT431 unusual-optimizer-settings: the same run is sound with the optimizer's usual settings."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class UnusualOptimizerSettings(Rule):
    """The run fails with unusual betas, epsilon or momentum, and does not with the usual ones.

    Why: a momentum of 0.999 averages over a thousand steps and overshoots; a second moment that
        forgets at once (beta2 of 0.5) makes every step a jump; a large epsilon shrinks all updates;
        `maximize=True` climbs.

    Measured: by trial. After a run that failed, and whose settings are far from any in common use,
        it is begun again from the same weights with torch's defaults.

    Silent on: betas, epsilon and momentum in common use.

    Fix: use the optimizer's defaults.

    Source: Kingma & Ba 2015, arXiv:1412.6980, section 2; Wortsman et al. 2023, arXiv:2304.13013.
    """

    code: ClassVar = "TT431"
    name: ClassVar = "unusual-optimizer-settings"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    scope: ClassVar[Scope] = "loop"
    leads_to: ClassVar = ("TT1", "TT2", "TT3", "TT40")
    rank: ClassVar = 30
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.999)
batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(20, 16, 8)]
findings = trimtab.diagnose(model, optimizer, torch.nn.MSELoss(), batches, steps=100).findings
"""
