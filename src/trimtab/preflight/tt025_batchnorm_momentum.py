"""TT025: BatchNorm whose running statistics do not run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class BatchnormMomentum(LiveRule):
    """BatchNorm's running statistics never move, or are those of the last batch alone.

    Why: evaluation uses the running statistics. With a momentum of 0 they stay at mean 0 and
    variance 1 whatever the data are; with 1 they are the last batch's. Training looks sound, and
    evaluation is at chance. PyTorch's momentum is the share of the new batch: what other libraries
    call 0.9 is 0.1 here.

    Measured: `momentum` of BatchNorm modules in training mode that keep statistics.

    Silent on: `momentum=None`, the plain average of all batches; frozen BatchNorm.

    Fix: leave `momentum` at PyTorch's default of 0.1.

    Source: PyTorch, `nn.BatchNorm2d`, note on momentum; Ioffe & Szegedy 2015, arXiv:1502.03167.
    """

    code: ClassVar[str] = "TT025"
    name: ClassVar[str] = "batchnorm-momentum"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 23
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16, momentum=0.0), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    lowest: float = 1e-4
    """Momentum up to which statistics do not follow the data within a run of thousands of steps;
    this one is TensorFlow's 0.9999, taken over as the share of the new batch."""
    highest: float = 0.9
    """Largest momentum at which they are more than those of the last batch; 0.9 itself is often
    meant as the share that is kept."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all modules whose statistics are of no use."""
        norms = [
            (name, module)
            for name, module in subject.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.training
            and module.track_running_stats
        ]
        found = [
            (name, float(m.momentum))
            for name, m in norms
            if m.momentum is not None and not self.lowest < m.momentum < self.highest
        ]
        if not found:
            return
        site, momentum = found[0]
        never = momentum <= self.lowest
        yield self.finding(
            what=f"{len(found)} BatchNorm modules have a momentum of {momentum:g}",
            site=site,
            also=tuple(name for name, _ in found[1:]),
            evidence=(Evidence(name="momentum", value=momentum, normal="about 0.1"),),
            cause="The running statistics that evaluation uses "
            + ("hardly move from where they began." if never else "are those of the last batch."),
            fix="leave momentum at PyTorch's default of 0.1: it is the share of the new batch, not "
            "the share that is kept",
        )
