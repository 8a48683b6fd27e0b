"""TT508 nonfinite-input: a batch holds NaN or infinite values."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class NonfiniteInput(RunRule):
    """A batch holds NaN or infinite values.

    Why: one NaN in the input makes the loss NaN, the gradient of every weight with it, and with one
        update the whole model.

    Measured: the share of values in the input, and in the target where it is seen, that are not
        finite, in each record.

    Silent on: nothing: a model that masks such values should get zeros in their place.

    Fix: find the rows in the data (missing values, division by a standard deviation of zero, a
        logarithm of zero), and drop or fill them before training.

    Source: Humbatova et al. 2020, "Taxonomy of Real Faults in Deep Learning Systems", ICSE.
    """

    code: ClassVar = "TT508"
    name: ClassVar = "nonfinite-input"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NAN
    rank: ClassVar = 5
    leads_to: ClassVar = ("TT10", "TT2", "TT302", "TT303", "TT404", "TT408")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trim = trimtab.attach(model, optimizer, out=None, watch=1)
for step in range(20):
    x = torch.randn(32, 8)
    if step == 10:
        x[:, 3] = float("nan")  # a column that is missing
    optimizer.zero_grad()
    trim.loss((model(x) - 1).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    largest: float = 0.0
    """Share of values that are not finite."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding with the first batch that was not finite."""
        found = []
        for what in ("input", "target"):
            known = history.series(f"{what}.nonfinite_fraction").known()
            bad = np.flatnonzero(known.values > self.largest)
            if len(bad):
                share = float(known.values[bad[0]])
                found.append((int(known.steps[bad[0]]), what, share, len(bad), len(known.values)))
        if not found:
            return
        step, what, share, count, total = min(found)
        yield self.finding(
            step=step,
            what=f"{share:.3g} of the {what} was NaN or infinite, and so in {count} of {total} "
            "records",
            evidence=(
                Evidence(name=f"share of the {what} that is not finite", value=share, normal="0"),
            ),
            cause=f"the data hold values that are missing or overflowed, and a NaN in the {what} "
            "makes the loss and every gradient NaN",
            fix="find these rows in the data, and drop or fill them; guard divisions and "
            "logarithms of the preprocessing",
            remedy=Fix(action="filter_nonfinite"),
        )
