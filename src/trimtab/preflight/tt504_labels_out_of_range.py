"""TT504: labels that the loss cannot take."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._loss_calls import BINARY, CLASSIFICATION, LossCall
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class LabelsOutOfRange(LiveRule):
    """Labels lie outside of what the loss can take.

    Why: a class index below 0 or beyond the number of outputs raises on a CPU and kills the CUDA
    context on a GPU; a binary target outside 0 to 1 makes the loss negative without bound.

    Measured: the arguments of the loss function; `ignore_index` does not count.

    Silent on: probabilities as targets of cross-entropy.

    Fix: count classes from 0, and give the output as many units as there are classes.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults).
    """

    code: ClassVar[str] = "TT504"
    name: ClassVar[str] = "labels-out-of-range"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar[tuple[str, ...]] = ("TT007", "TT012", "TT024", "TT3")
    rank: ClassVar[int] = 11
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 3)
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(1, 4, (32,))  # counted from 1
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for each loss with such labels."""
        for call in subject.first.calls:
            if call.has_indices and call.input.ndim:
                yield from self._indices(call)
            elif call.name in CLASSIFICATION and call.input.shape != call.target.shape:
                yield self._floats(call)
            elif call.name in BINARY and call.target.is_floating_point():
                yield from self._binary(call)

    def _indices(self, call: LossCall) -> Iterator[Finding]:
        labels, num = call.labels, call.num_classes
        if not labels.numel():
            return
        low, high = int(labels.min()), int(labels.max())
        if low >= 0 and high < num:
            return
        shifted = low == 1 and high == num
        count = int(((labels < 0) | (labels >= num)).sum())
        yield self.finding(
            what=f"{count} of {labels.numel()} labels are out of range: they run from {low} to "
            f"{high}, and the output has {num} classes",
            site="targets",
            evidence=(Evidence(name="labels", value=f"{low} to {high}", normal=f"0 to {num - 1}"),),
            cause="They are counted from 1 instead of 0."
            if shifted
            else "The output has too few classes, or labels for padding or the unknown are not "
            "ignored.",
            fix="subtract 1 from the labels"
            if shifted
            else f"give the output {high + 1} classes, or pass ignore_index for labels that do not "
            "count",
        )

    def _floats(self, call: LossCall) -> Finding:
        return self.finding(
            what=f"{call.name} is given labels of dtype {str(call.target.dtype)[6:]} and shape "
            f"{tuple(call.target.shape)}",
            site="targets",
            evidence=(Evidence(name="dtype", value=str(call.target.dtype)[6:], normal="int64"),),
            cause="Class indices have to be integers; floats are taken for probabilities and need "
            "the shape of the output.",
            fix="call y.long() on class indices",
        )

    def _binary(self, call: LossCall) -> Iterator[Finding]:
        if not call.target.numel():
            return
        low, high = float(call.target.min()), float(call.target.max())
        if low >= 0 and high <= 1:
            return
        yield self.finding(
            what=f"the targets of a binary cross-entropy run from {low:.3g} to {high:.3g}",
            site="targets",
            evidence=(Evidence(name="targets", value=f"{low:.3g} to {high:.3g}", normal="0 to 1"),),
            cause="Binary cross-entropy takes them for probabilities; outside of 0 to 1 it has no "
            "lower bound and the loss runs away to minus infinity.",
            fix="map the labels to 0 and 1, (y + 1) / 2 for -1 and 1, or use CrossEntropyLoss for "
            "more than two classes",
        )
