"""TT415 schedule-exhausted: the learning rate has come to its end, and the run goes on."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import loss_curve
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import streak


@register
@dataclass(frozen=True, kw_only=True)
class ScheduleExhausted(RunRule):
    """The learning rate fell to almost nothing long ago, and the run goes on.

    Why: all steps after that are wasted. Usually a schedule that counts epochs was stepped after
        each batch, or its length does not fit the run.

    Measured: steps since the learning rate fell below a thousandth of its peak, against all steps
        so far.

    Silent on: the last steps of a schedule that ends near zero, and losses that have nothing more
        to learn.

    Fix: step the scheduler once an epoch if it was built for epochs, or give it the number of all
        steps (batches per epoch times epochs); keep a floor of a tenth of the peak.

    Source: PyTorch documentation, "How to adjust learning rate"; Hoffmann et al. 2022,
        arXiv:2203.15556, figure A1.
    """

    code: ClassVar = "TT415"
    name: ClassVar = "schedule-exhausted"
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    rank: ClassVar = 20
    leads_to: ClassVar = ("TT304", "TT305", "TT402", "TT408", "TT409")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 2)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 10, 0.1)  # meant: epochs
trim = trimtab.attach(model, optimizer, out=None, watch=10)
for step in range(120):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
    schedule.step()
findings = trim.findings
"""

    share_of_peak: float = 1e-3
    """Learning rate over its peak at which a schedule is over; recommended floors are 0.1 to 0."""
    patience: int = 50
    """Steps for which it has been over."""
    share_of_run: float = 0.25
    """Part of all steps so far for which it has been over."""
    learnt: float = 0.05
    """Loss over its start below which nothing is left to learn."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the schedule was over long ago."""
        rates = history.series("learning_rate").known()
        if len(rates.values) <= self.patience:
            return
        peak = float(rates.values.max())
        over = streak(rates.values <= self.share_of_peak * peak)
        if peak <= 0 or over < max(self.patience, self.share_of_run * history.step):
            return
        curve = loss_curve(history)
        if len(curve.values) > 20:
            now = float(np.median(curve.values[-10:]))
            if 0 <= now < self.learnt * curve.start:
                return
        first, now = int(rates.steps[-over]), float(rates.values[-1])
        yield self.finding(
            step=first,
            what=f"the learning rate fell from {peak:.3g} to {now:.3g} by step {first}, and "
            f"{history.step - first} steps were made since",
            evidence=(
                Evidence(
                    name="learning rate over its peak",
                    value=now / peak,
                    normal=f"> {self.share_of_peak:g} until the run ends",
                ),
            ),
            cause="the schedule is over long before the run: a scheduler built for epochs is "
            "stepped after every batch, or its length is wrong",
            fix="call scheduler.step() once an epoch if it counts epochs, or build the schedule "
            "for the number of all steps",
            remedy=Fix(action="stretch_schedule"),
        )
