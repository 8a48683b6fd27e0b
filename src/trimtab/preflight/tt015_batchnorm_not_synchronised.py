"""TT015: BatchNorm of several processes that each see their own batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class BatchnormNotSynchronised(LiveRule):
    """Several processes train together, but each normalises by its own share of the batch.

    Why: the replicas compute different functions of the same weights, and their running statistics
    drift apart; only those of one of them are saved. The smaller the share, the worse.

    Measured: BatchNorm modules in training mode that are no SyncBatchNorm, with more than one
    process, by `world_size` or the process group.

    Silent on: a single process; BatchNorm in eval mode.

    Fix: `torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)` before wrapping it, or GroupNorm.

    Source: Peng et al. 2018 (MegDet), arXiv:1711.07240.
    """

    code: ClassVar[str] = "TT015"
    name: ClassVar[str] = "batchnorm-not-synchronised"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 24
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(
    model, optimizer, nn.CrossEntropyLoss(), (x, y), world_size=4
).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all BatchNorm modules that are alone."""
        if subject.world_size < 2:
            return
        alone = [
            name
            for name, module in subject.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and not isinstance(module, nn.SyncBatchNorm)
            and module.training
        ]
        if not alone:
            return
        size = subject.settings.micro_batch or subject.batch.size
        yield self.finding(
            what=f"{len(alone)} BatchNorm modules are not synchronised across "
            f"{subject.world_size} processes",
            site=alone[0],
            also=tuple(alone[1:]),
            evidence=(
                Evidence(
                    name="processes", value=subject.world_size, normal="1 without SyncBatchNorm"
                ),
                Evidence(name="examples a process", value=size, normal=">= 32 if not synchronised"),
            ),
            cause="Each rank normalises by the statistics of its own batch, so the replicas "
            "compute different functions.",
            fix="call torch.nn.SyncBatchNorm.convert_sync_batchnorm(model) before DDP or FSDP "
            "wraps it, or use GroupNorm",
        )
