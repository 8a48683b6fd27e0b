"""TT502: NaN or infinity in the batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._batch import find_tensors
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class NonfiniteBatch(LiveRule):
    """The batch holds NaN or infinite values.

    Why: one NaN in an input makes the loss NaN, its gradient all weights, and Adam's moments stay
    NaN for good.

    Measured: every floating tensor of the batch.

    Fix: find where the data gets them (a division by a standard deviation of zero, missing values,
    a log of zero) and drop or fill them.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults).
    """

    code: ClassVar[str] = "TT502"
    name: ClassVar[str] = "nonfinite-batch"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.NAN
    leads_to: ClassVar[tuple[str, ...]] = (
        "TT005", "TT006", "TT007", "TT012", "TT020", "TT024", "TT1", "TT2", "TT3", "TT4",
    )  # fmt: skip
    rank: ClassVar[int] = 10
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 3)
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
x[5, 2] = float("nan")
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield a finding for the inputs and one for the targets."""
        for where, part in (("inputs", subject.batch.inputs), ("targets", subject.batch.target)):
            if where == "targets" and part is subject.batch.inputs:
                continue
            for tensor in find_tensors(part):
                if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                    yield self._found(where, tensor)
                    break

    def _found(self, where: str, tensor: Tensor) -> Finding:
        bad = ~tensor.isfinite()
        row = int(bad.reshape(bad.shape[0], -1).any(1).nonzero()[0]) if bad.ndim else 0
        share = float(bad.float().mean())
        return self.finding(
            what=f"{int(bad.sum())} of {tensor.numel()} values of the {where} are NaN or infinite, "
            f"the first in row {row}",
            site=where,
            evidence=(Evidence(name="share that is not finite", value=share, normal="0"),),
            cause="One such value makes the loss NaN, and from there all weights.",
            fix="find the rows in the data (missing values, a division by a deviation of zero, the "
            "log of zero) and fill or drop them",
        )
