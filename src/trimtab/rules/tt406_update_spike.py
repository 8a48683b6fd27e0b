"""TT406 update-spike: one step changes the weights far more than those before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import weight_updates


@register
@dataclass(frozen=True, kw_only=True)
class UpdateSpike(RunRule):
    """A step changed the weights many times more than the steps before it.

    Why: the update is what changes a model. Its jumps come before those of the loss, and one that
        is large enough undoes hours of training in a single step.

    Measured: the update ratio of typical weights, divided by the learning rate, against the largest
        and the median of the records before. The update has to be large in itself as well.

    Silent on: learning rates that change, warm-up, noise of small batches, jumps of updates that
        stay small.

    Fix: clip gradients by their global norm, or with Adam clip the update (StableAdamW), and look
        at the batch of that step.

    Source: Wortsman et al. 2023, arXiv:2304.13013; Huang et al. 2025 (SPAM), arXiv:2501.06842.
    """

    code: ClassVar = "TT406"
    name: ClassVar = "update-spike"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 45
    leads_to: ClassVar = ("TT2", "TT301", "TT302", "TT303", "TT306")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
trim = trimtab.attach(model, optimizer, clip=None, guard=None, out=None, watch=2)
for step in range(80):
    x = torch.randn(32, 8)
    scale = 1000 if step == 69 else 1  # one batch with targets out of range
    optimizer.zero_grad()
    trim.loss((model(x) - scale * x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    factor: float = 10.0
    """Over the median of the records before."""
    over_largest: float = 3.0
    """Over the largest of the records before."""
    least: float = 0.02
    """Typical update ratio below which a jump does no harm: 20 times the usual 1e-3."""
    records: int = 10
    """Records before that are needed."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if one of the newest records stands out."""
        updates = weight_updates(history, 48)
        typical, rates = updates.typical, updates.learning_rates
        scaled = typical / np.where(rates > 0, rates, np.nan)
        for at in range(max(self.records + 1, len(typical) - 4), len(typical)):
            before = scaled[1:at]
            before = before[np.isfinite(before)]
            if len(before) < self.records or not typical[at] > self.least:
                continue
            middle = float(np.median(before))
            limit = max(self.factor * middle, self.over_largest * float(before.max()))
            if middle <= 0 or not scaled[at] > limit:
                continue
            times = float(scaled[at] / middle)
            yield self.finding(
                step=int(updates.steps[at]),
                what=f"a step changed the weights by {typical[at]:.2g} of their size, {times:.3g} "
                "times as much as usual",
                evidence=(
                    Evidence(name="update ratio over its median", value=times,
                             normal=f"<= {self.factor:g}"),
                    Evidence(name="typical update ratio", value=float(typical[at]),
                             normal=f"about 1e-3, <= {self.least:g}"),
                ),
                cause="the gradient of that step was far larger than those before, by a batch "
                "unlike the others or by a steep wall of the loss, and nothing limited the update",
                fix="clip gradients by their global norm, and look at the batch of that step; "
                "with Adam, StableAdamW clips the update itself",
                remedy=Fix(action="clip_gradients", args={"max_norm": 1.0}),
            )  # fmt: skip
            return
