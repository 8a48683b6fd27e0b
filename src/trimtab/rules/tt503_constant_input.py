"""TT503 constant-input: the model is fed with nothing but one number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import streak, values_at


@register
@dataclass(frozen=True, kw_only=True)
class ConstantInput(RunRule):
    """All values of the input are the same number.

    Why: nothing can be learnt from it but the mean of the targets. Images that were divided twice
        and rounded, a buffer that was never filled, or features that were masked away look so.

    Measured: standard deviation of the input against its mean, in several records in a row.

    Silent on: inputs of whole numbers (tokens), and single batches.

    Fix: look at what the loader returns; convert to float before dividing.

    Source: Humbatova et al. 2020, "Taxonomy of Real Faults in Deep Learning Systems", ICSE.
    """

    code: ClassVar = "TT503"
    name: ClassVar = "constant-input"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar = 10
    leads_to: ClassVar = ("TT10", "TT2", "TT304", "TT305", "TT501")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(30):
    x = torch.randint(0, 255, (32, 8)) // 255  # rounds all of it to 0
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x.float()), torch.arange(32) % 2)).backward()
    optimizer.step()
findings = trim.findings
"""

    smallest: float = 1e-6
    """Standard deviation over the magnitude of the mean, below which float32 sees one number."""
    records: int = 3
    """Records in a row."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the newest inputs are constant."""
        spread = history.series("input.std").known()
        if len(spread.values) < self.records:
            return
        means = np.abs(values_at(history.series("input.mean"), spread.steps))
        flat = spread.values <= self.smallest * np.nan_to_num(means)
        count = streak(flat)
        if count < self.records:
            return
        mean = float(values_at(history.series("input.mean"), spread.steps[-1:])[0])
        yield self.finding(
            step=int(spread.steps[-count]),
            what=f"all values of the input are {mean:.3g} in {count} records in a row",
            evidence=(
                Evidence(
                    name="standard deviation of the input",
                    value=float(spread.values[-1]),
                    normal="about 1",
                ),
            ),
            cause="the input is constant: it was rounded or masked away, or never filled",
            fix="look at what the data loader returns, and convert to float before dividing",
            remedy=Fix(action="check_loader"),
        )
