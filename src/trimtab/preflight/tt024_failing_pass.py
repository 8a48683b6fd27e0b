"""TT024: a forward or backward pass that raises."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class FailingPass(LiveRule):
    """The model, the loss or the backward pass raised an error on this batch.

    Why: training cannot begin. Checks that need a pass were left out.

    Measured: one forward and backward pass in the model's own mode.

    Fix: see the error, and the other findings, of which one may be its cause.
    """

    code: ClassVar[str] = "TT024"
    name: ClassVar[str] = "failing-pass"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.NO_LEARNING
    rank: ClassVar[int] = 90
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(17, 3))
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding with the error."""
        error = subject.first.error
        if error is None:
            return
        text = " ".join(str(error).split())
        site = subject.first.records[-1].name if subject.first.records else ""
        yield self.finding(
            what=f"{type(error).__name__}: {text[:300]}",
            site=f"after {site}" if site else "",
            evidence=(
                Evidence(name="modules that ran", value=len(subject.first.records), normal="all"),
            ),
            cause=_cause(text),
            fix="run one batch by hand and follow the traceback",
        )


def _cause(text: str) -> str:
    if "index out of range" in text:
        return "An embedding was asked for a token beyond its size: a token is out of range."
    if "shapes" in text or "size" in text:
        return "Two shapes do not match: of a layer and its input, or of output and target."
    if "dtype" in text or "scalar type" in text:
        return "Two dtypes do not match, often float64 or integer inputs or targets."
    return "The forward or backward pass cannot run on this batch as it is."
