"""TT809 run-not-repeatable: the same seed gives another run, so that resuming cannot be judged."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule
from trimtab.audit._comparison import Comparison
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class RunNotRepeatable(ResumeRule):
    """Two runs from the same seed differ before anything was interrupted.

    Why: what differs after resuming cannot be told from what differs anyway, so nothing further is
        judged. And a run that cannot be repeated cannot be debugged.

    Measured: the first steps are made twice, from the same seed, and compared bit for bit: batches,
        losses and weights.

    Fix: draw the weights, the order of the data and all else from the seed that the build function
        is given; on a GPU switch to deterministic kernels with
        `torch.use_deterministic_algorithms(True)`.

    Source: PyTorch documentation 2025, "Reproducibility".
    """

    code: ClassVar = "TT809"
    name: ClassVar = "run-not-repeatable"
    rank: ClassVar = 5
    leads_to: ClassVar = ("TT80", "TT811")
    example: ClassVar = """\
import torch
from trimtab.audit import audit_resume
from trimtab.engine import TrainingSetup

generator = torch.Generator().manual_seed(0)


def build(seed):
    model = torch.nn.Linear(8, 1)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(torch.ones(4, 8), torch.ones(4, 1))]
    return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches)


findings = audit_resume(build).findings
"""

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if the first steps differ."""
        step = runs.unrepeated
        if step is None:
            return
        one, other = runs.whole.steps[step - 1 : step], runs.first.steps[step - 1 : step]
        data = one and other and one[0].batch != other[0].batch
        yield self.finding(
            what=f"two runs from the same seed differ from step {step} on, before anything was "
            f"interrupted: other {'batches' if data else 'losses and weights'}",
            step=step,
            evidence=(
                Evidence(name="first step that differs", value=step, normal="none"),
            ),
            cause="something does not follow the seed, such as a generator outside of the build "
            "function, or the kernels are not deterministic, as many on a GPU",
            fix="draw weights and the order of the data from the seed that build() is given, and "
            "switch on torch.use_deterministic_algorithms(True)",
        )  # fmt: skip
