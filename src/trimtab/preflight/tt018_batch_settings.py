"""TT018: batch settings that do not multiply out."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class BatchSettings(LiveRule):
    """Micro-batch, accumulation and processes do not give the batch that is meant.

    Why: the learning rate belongs to a batch size. If a step sees more or fewer examples than
    planned, it is too high or too low for it, and nobody is told.

    Measured: micro-batch times accumulation times processes, against `global_batch` and
    `dataset_size`.

    Fix: choose factors whose product is the global batch.

    Source: Goyal et al. 2017, arXiv:1706.02677 (learning rate and batch size go together).
    """

    code: ClassVar[str] = "TT018"
    name: ClassVar[str] = "batch-settings"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 23
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 3)
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(
    model, optimizer, nn.CrossEntropyLoss(), (x, y), accumulate=3, global_batch=128
).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield a finding for a wrong product, and one for too little data."""
        s = subject.settings
        micro = s.micro_batch or subject.batch.size
        product = micro * s.accumulate * subject.world_size
        how = (
            f"micro-batch {micro} x accumulation {s.accumulate} x {subject.world_size} "
            f"process{'' if subject.world_size == 1 else 'es'} = {product} examples a step"
        )
        if s.global_batch is not None and s.global_batch != product:
            per_micro_step = micro * subject.world_size
            whole = s.global_batch % per_micro_step == 0
            wanted = s.global_batch // per_micro_step
            yield self.finding(
                what=f"{how}, but the global batch is {s.global_batch}",
                evidence=(
                    Evidence(name="examples a step", value=product, normal=str(s.global_batch)),
                ),
                cause="The settings do not multiply out, so the learning rate meets another batch "
                "size than the one that it was chosen for.",
                fix=f"set accumulate={wanted}"
                if whole
                else f"choose a micro-batch that divides {s.global_batch} by "
                f"{subject.world_size} processes",
            )
        if s.dataset_size is not None and product > s.dataset_size:
            yield self.finding(
                what=f"{how}, but the data has {s.dataset_size}",
                severity=Severity.WARNING,
                evidence=(
                    Evidence(name="examples a step", value=product, normal=f"<= {s.dataset_size}"),
                ),
                cause="No epoch holds a whole step: accumulation runs across epochs, or the step "
                "never comes.",
                fix="lower the batch or the accumulation",
            )
