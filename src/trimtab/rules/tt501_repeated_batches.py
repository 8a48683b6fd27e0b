"""TT501 repeated-batches: every step sees the same batch."""

import math
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
class RepeatedBatches(RunRule):
    """The same batch comes again and again.

    Why: the model learns one batch by heart, the loss looks splendid, and the rest of the data is
        never seen. An iterator that is made anew in each step does this, or a variable that keeps
        its first value.

    Measured: a fingerprint of the input in each record. From the start on it is advice, because
        full-batch training and the test of overfitting one batch look the same; where the batches
        differed before, or where the targets differ, it is a warning.

    Silent on: small data sets that come round: the records must lie so that no period but one step
        explains them.

    Fix: make the iterator once an epoch, outside of the step, and take the next batch from it;
        shuffle.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks"; Humbatova et al. 2020, "Taxonomy
        of Real Faults in Deep Learning Systems", ICSE.
    """

    code: ClassVar = "TT501"
    name: ClassVar = "repeated-batches"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar = 10
    leads_to: ClassVar = ("TT304",)
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 2)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trim = trimtab.attach(model, optimizer, out=None, watch=1)
for step in range(30):
    if step < 5:  # then the loader is stuck
        x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    records: int = 8
    """Records in a row with the same input."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the newest inputs are all the same."""
        prints = history.series("input.fingerprint").known()
        if len(prints.values) < self.records:
            return
        count = streak(prints.values == prints.values[-1])
        steps = prints.steps[-count:]
        if count < self.records or math.gcd(*np.diff(steps).tolist()) != 1:
            return
        targets = values_at(history.series("target.fingerprint"), steps)
        targets = targets[np.isfinite(targets)]
        differ = len(targets) > 1 and bool((targets != targets[0]).any())
        from_start = count == len(prints.values)
        known = "with different targets" if differ else "in every record so far"
        since = known if from_start or differ else f"in every record since step {steps[0]}"
        yield self.finding(
            severity=Severity.ADVICE if from_start and not differ else Severity.WARNING,
            step=int(steps[0]),
            what=f"the input was the same {since} ({count} of them)",
            evidence=(
                Evidence(name="records in a row with the same input", value=count,
                         normal=f"< {self.records}, unless all data are one batch"),
            ),
            cause="the loop does not take the next batch: the iterator is made anew in each step, "
            "or a variable keeps its first value",
            fix="make the iterator once an epoch, outside of the step; nothing needs to be done if "
            "all data are meant to be one batch",
            remedy=Fix(action="check_loader"),
        )  # fmt: skip
