"""TT014: BatchNorm that normalises over a single example."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class BatchnormBatchOfOne(LiveRule):
    """BatchNorm takes its statistics from one example, or from very few.

    Why: with one value a channel the output is always the bias, whatever the input, and PyTorch
    refuses it; with one image the statistics are that image's own. Training and evaluation then
    differ, and accuracy falls at the moment of `eval()`.

    Measured: the micro-batch against the BatchNorm modules in training mode.

    Silent on: SyncBatchNorm over several processes, BatchNorm in eval mode.

    Fix: larger micro-batches, `drop_last=True` in the data loader, or GroupNorm or LayerNorm.

    Source: Wu & He 2018, arXiv:1803.08494 (figure 1: error by batch size).
    """

    code: ClassVar[str] = "TT014"
    name: ClassVar[str] = "batchnorm-batch-of-one"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SLOW_CONVERGENCE
    leads_to: ClassVar[tuple[str, ...]] = ("TT012", "TT024", "TT3")
    rank: ClassVar[int] = 23
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten())
model.append(nn.Linear(8 * 6 * 6, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(1, 3, 8, 8), torch.randint(3, (1,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    few: int = 4
    """Examples up to which it is worth knowing."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all BatchNorm modules."""
        synced = subject.world_size > 1
        found = [
            (name, module)
            for name, module in subject.model.named_modules()
            if isinstance(module, nn.modules.batchnorm._BatchNorm)
            and (module.training or module.running_mean is None)
            and not (synced and isinstance(module, nn.SyncBatchNorm))
        ]
        size = subject.settings.micro_batch or subject.batch.size
        if not found or not 1 <= size <= self.few:
            return
        flat = [name for name, module in found if isinstance(module, nn.BatchNorm1d)]
        refused = size == 1 and bool(flat)
        yield self.finding(
            what=f"{len(found)} BatchNorm modules take their statistics from "
            f"{size} example{'s' if size > 1 else ''} at a time",
            severity=Severity.ERROR
            if refused
            else Severity.WARNING
            if size == 1
            else Severity.ADVICE,
            site=flat[0] if refused else found[0][0],
            also=tuple(n for n, _ in found if n != (flat[0] if refused else found[0][0])),
            evidence=(Evidence(name="batch size", value=size, normal=">= 16"),),
            cause="The statistics of so small a batch are noise, or the example's own, and differ "
            "from the running ones that evaluation uses.",
            fix="use a larger batch (drop_last=True if only the last one is short), or GroupNorm "
            "or LayerNorm, which need none",
        )
