"""TT436 dropout-too-strong: the same run is sound with less dropout."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class DropoutTooStrong(Rule):
    """The run fails with dropout that drops most of its units, and does not with little of it.

    Why: with nine units in ten dropped hardly any signal reaches the output, and what does is
        scaled up tenfold: noise drowns what is to be learned.

    Measured: by trial. After a run that failed, and that drops 70 % or more somewhere, it is begun
        again with a tenth dropped there.

    Silent on: dropout up to 0.5, and strong dropout in runs that learn.

    Fix: lower `p` to 0.1 to 0.5. In PyTorch `p` is the share that is dropped, not that is kept.

    Source: Srivastava et al. 2014, JMLR 15, section 7.3; Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT436"
    name: ClassVar = "dropout-too-strong"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    scope: ClassVar[Scope] = "loop"
    leads_to: ClassVar = ("TT1", "TT2", "TT3", "TT40")
    rank: ClassVar = 30
    example: ClassVar = """\
import torch
import trimtab

model = torch.nn.Sequential(
    torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Dropout(0.98), torch.nn.Linear(32, 1)
)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
batches = [(x, x.sum(1, keepdim=True)) for x in torch.randn(20, 16, 8)]
findings = trimtab.diagnose(model, optimizer, torch.nn.MSELoss(), batches, steps=100).findings
"""
