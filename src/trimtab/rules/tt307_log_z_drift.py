"""TT307 log-z-drift: the logits grow as a whole."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import loss_curve
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class LogZDrift(RunRule):
    """The normaliser of the softmax drifts away: all logits grow together.

    Why: cross-entropy does not change when all logits are shifted, so nothing holds them. In
        bfloat16 a logit near 64 is known to within 0.25 only, and probabilities become noise; in
        float16 the exponentials overflow.

    Measured: mean log Z of the model's output over the records, where the first log Z is near the
        first loss, as it is for logits of a cross-entropy. It has to be far from zero and still on
        its way.

    Silent on: outputs that are no logits, logits that stay below 50, and logits that are large
        because nearly all predictions are right or because the loss rises with them.

    Fix: add a z-loss of 1e-4 times the square of log Z (`trimtab.losses`), leave weight decay on
        the output layer, or cap the logits softly.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5; Wortsman et al. 2023,
        arXiv:2309.14322, section 3.1.2.
    """

    code: ClassVar = "TT307"
    name: ClassVar = "log-z-drift"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 70
    leads_to: ClassVar = ("TT301", "TT302", "TT303")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 10)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
trim = trimtab.attach(model, optimizer, clip=None, out=None, watch=2)
for step in range(200):
    x = torch.randn(32, 8)
    logits = model(x)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(logits, x.argmax(1))
    trim.loss(loss)
    (loss - 10 * logits.mean()).backward()  # pushes all logits up
    optimizer.step()
findings = trim.findings
"""

    limit: float = 50.0
    """Magnitude of log Z. From 32 on bfloat16, with 8 digits, rounds logits to 1/4, and from 64 on
    to 1/2."""
    least: int = 12
    """Records that are needed."""
    learnt: float = 0.1
    """Loss over its start below which logits are large because the model is right."""
    risen: float = 1.2
    """Loss over its start above which logits grow because the run diverges."""
    tolerance: float = 0.35
    """Relative difference of the first log Z from the first loss up to which the output is taken
    for logits."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if log Z is far from zero and still on its way."""
        known = history.series("output.log_z").known()
        curve = loss_curve(history)
        if len(known.values) < self.least or not len(curve.values):
            return
        first, loss = float(known.values[0]), float(curve.values[0])
        if loss <= 0 or abs(first - loss) > self.tolerance * loss:
            return
        level = float(np.median(curve.values[-10:]))
        if abs(level) < self.learnt * loss or level > self.risen * loss:
            return  # sure of itself and right, or diverging
        third = len(known.values) // 3
        sizes = np.abs(known.values)
        middle, now = float(np.median(sizes[third:-third])), float(np.median(sizes[-third:]))
        if min(now, float(sizes[-3:].min())) < self.limit or now < 1.1 * middle:
            return
        over = np.flatnonzero(sizes > self.limit)
        yield self.finding(
            step=int(known.steps[over[0]]),
            what=f"log Z of the logits went from {first:.3g} to {known.values[-1]:.3g} and is "
            "still on its way",
            evidence=(Evidence(name="magnitude of log Z", value=now, normal=f"<= {self.limit:g}"),),
            cause="cross-entropy does not hold the logits in place, and at this size bfloat16 "
            "rounds them to a quarter or worse",
            fix="add a z-loss of 1e-4 x (log Z)^2, or cap the logits softly",
            remedy=Fix(action="add_z_loss", args={"weight": 1e-4}),
        )
