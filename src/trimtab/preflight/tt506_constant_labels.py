"""TT506: a batch in which all labels are the same."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._loss_calls import BINARY, REGRESSION
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class ConstantLabels(LiveRule):
    """Every example of a large batch has the same label.

    Why: the data is sorted by class and not shuffled, or a bug in its preparation gives all the
    same label. The model learns to say one thing, then the next.

    Measured: the targets of the loss function in this batch.

    Silent on: small batches, and labels per position. Two classes only, as in a GAN's or a rare
    event's batch, are advice.

    Fix: `shuffle=True` in the data loader; look at how labels are made.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults).
    """

    code: ClassVar[str] = "TT506"
    name: ClassVar[str] = "constant-labels"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar[tuple[str, ...]] = ("TT3",)
    rank: ClassVar[int] = 13
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 10)
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.zeros(32, dtype=torch.long)
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    min_labels: int = 16
    """Labels from which on it is no chance: ten equal classes give it once in 10^15."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding if the only loss has one label."""
        call = subject.first.call
        if call is None or (call.has_indices and call.num_classes < 2):
            return
        if call.target.ndim > 2 or not subject.finite_batch:
            return
        if call.target.ndim == 2 and call.target.shape[-1] != 1:
            return
        labels = call.labels if call.has_indices else call.target.reshape(-1)
        if labels.numel() < self.min_labels or bool((labels != labels[0]).any()):
            return
        two = call.name in BINARY or (call.has_indices and call.num_classes == 2)
        if not (two or call.has_indices or call.name in REGRESSION):
            return
        yield self.finding(
            what=f"all {labels.numel()} labels of the batch are {float(labels[0]):g}",
            severity=Severity.ADVICE if two else Severity.WARNING,
            site="targets",
            evidence=(Evidence(name="different labels", value=1, normal=">= 2"),),
            cause="The data is sorted by label and not shuffled, the class is rare, or the labels "
            "are made wrongly.",
            fix="set shuffle=True in the data loader, and look at a few labels beside their inputs",
        )
