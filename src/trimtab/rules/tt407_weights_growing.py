"""TT407 weights-growing: the weights grow without bound."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class WeightsGrowing(RunRule):
    """The weights grow faster and faster.

    Why: growth that feeds on itself ends in overflow. Long before, activations saturate, logits
        become so sure that gradients vanish, and low precision loses small updates.

    Measured: the joint norm of all parameters over the run. It has to have multiplied since the
        start, and its growth must not slow down: the newest third grows by at least as large a
        factor as the third before.

    Silent on: weights that begin at zero or small and grow into their size, growth that slows down.

    Fix: lower the learning rate, or use AdamW with a weight decay of 0.01 to 0.1; look for a loss
        that rewards ever larger outputs (a wrong sign, a term without lower bound).

    Source: Merrill et al. 2021, arXiv:2010.09697; Wortsman et al. 2023, arXiv:2309.14322.
    """

    code: ClassVar = "TT407"
    name: ClassVar = "weights-growing"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 48
    leads_to: ClassVar = ("TT10", "TT2", "TT302", "TT303", "TT307")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
trim = trimtab.attach(model, optimizer, clip=None, out=None, watch=2)
for step in range(80):
    optimizer.zero_grad()
    trim.loss(-model(torch.randn(32, 8)).square().mean()).backward()  # has no lower bound
    optimizer.step()
findings = trim.findings
"""

    factor: float = 5.0
    """Joint norm over that of the start."""
    records: int = 24
    """Records that are needed."""
    step_factor: float = 1.3
    """Growth over the newest third of the records."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the weights have multiplied and their growth does not slow down."""
        known = history.series("weight.norm").known()
        if len(known.values) < self.records or known.values[0] <= 0:
            return
        norms = known.values
        third = len(norms) // 3
        start, early, late, now = norms[0], norms[-2 * third - 1], norms[-third - 1], norms[-1]
        if now < self.factor * start or early <= 0 or late <= 0:
            return
        if now / late < max(self.step_factor, 0.9 * late / early):
            return
        newest = np.maximum(norms[-third - 1 :], 1e-30)
        factors = newest[1:] / newest[:-1]
        if np.log(factors.max()) > 0.5 * np.log(now / late):
            return  # one jump, no growth
        yield self.finding(
            step=int(known.steps[-2 * third - 1]),
            what=f"the norm of all weights grew from {start:.3g} to {now:.3g}, and its growth does "
            "not slow down",
            evidence=(
                Evidence(name="norm over that of the start", value=float(now / start),
                         normal=f"<= {self.factor:g}"),
                Evidence(name="growth over the newest third", value=float(now / late),
                         normal=f"<= {self.step_factor:g}, and slowing down"),
            ),
            cause="the learning rate is too high, or the loss rewards ever larger weights, and no "
            "weight decay holds them",
            fix="lower the learning rate or the momentum, add a weight decay of 0.01 to 0.1 "
            "(AdamW), and look for a wrong sign or a term of the loss without lower bound",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
        )  # fmt: skip
