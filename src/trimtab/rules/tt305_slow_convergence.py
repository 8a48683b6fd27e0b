"""TT305 slow-convergence: the loss falls, but far too slowly."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import is_interleaved, loss_curve
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import gradient_share, weight_updates

UNTRAINED: Final = 0.1
"""Relative difference of the first log Z from the first loss up to which logits are all alike."""


@register
@dataclass(frozen=True, kw_only=True)
class SlowConvergence(RunRule):
    """The loss falls steadily but so slowly that the run will not get anywhere.

    Why: each step moves the weights by less than a thousandth of what is usual, so that the run
        needs a thousand times the steps.

    Measured: the loss has kept at least 95 % of where it started, and the update of weights is
        below 3e-5 of them, where 1e-3 is usual.

    Silent on: warm-up, the end of a schedule, plateaus at healthy updates, and losses that were
        small from the start.

    Fix: raise the learning rate tenfold until the loss falls fast, then go back by a factor of
        three; see to it that a schedule has not ended too early.

    Source: Karpathy 2015, CS231n, "ratio of weights:updates"; Smith 2017, arXiv:1506.01186.
    """

    code: ClassVar = "TT305"
    name: ClassVar = "slow-convergence"
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    rank: ClassVar = 81
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-6)
trim = trimtab.attach(model, optimizer, out=None, watch=5)
for step in range(120):
    x = torch.randn(64, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    patience: int = 100
    """Steps after which the speed is judged."""
    window: int = 20
    """Steps whose median is a level of the loss."""
    kept: float = 0.95
    """Part of the loss at the start that is left after that many steps."""
    smallest_update: float = 3e-5
    """Typical update ratio of weights below which progress is slow; about 1e-3 in health."""
    smallest_untrained: float = 6e-5
    """Likewise, where the first outputs say that the model knows nothing yet."""
    healthy_gradient: float = 2e-3
    """Joint gradient norm over joint weight norm below which a model may have nothing to learn."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if both the loss and the weights hardly move."""
        curve = loss_curve(history)
        if len(curve.values) < self.patience or is_interleaved(history):
            return
        first = float(np.median(curve.values[: self.window]))
        now = float(np.median(curve.values[-self.window :]))
        if not self.kept * first < now < (2 - self.kept) * first:
            return
        updates = weight_updates(history, 64)
        typical = updates.typical[np.isfinite(updates.typical)]
        rates = history.series("learning_rate").known().values
        rising = len(rates) > 1 and rates[-1] > rates[0]
        largest = self.smallest_untrained if _is_untrained(history) else self.smallest_update
        if len(typical) < 8 or rising or not 0 < np.quantile(typical, 0.9) < largest:
            return
        if not gradient_share(history, 32) > self.healthy_gradient:
            return  # as where all was learnt before
        ratio = float(np.median(typical))
        yield self.finding(
            step=int(curve.steps[0]),
            what=f"in {len(curve.values)} steps the loss went from {first:.4g} to {now:.4g}, and "
            f"each step moves the weights by {ratio:.1g} of their size",
            evidence=(
                Evidence(name="typical update ratio", value=ratio,
                         normal=f">= {largest:g}, usually 1e-3"),
                Evidence(name="part of the loss that is left", value=now / first,
                         normal=f"<= {self.kept:g}"),
            ),
            cause="the learning rate is far too low for this model and optimizer, or its schedule "
            "has ended too early",
            fix="raise the learning rate tenfold until the loss falls fast, then go back by a "
            "factor of 3",
            remedy=Fix(action="scale_learning_rate", args={"factor": 10.0}),
        )  # fmt: skip


def _is_untrained(history: History) -> bool:
    """Tell whether the first logits were all alike: their log Z is then the cross-entropy."""
    log_z, loss = history.series("output.log_z"), history.series("loss")
    if not len(loss.values) or not np.isfinite(log_z.values[0]) or not loss.values[0] > 0:
        return False
    return bool(abs(log_z.values[0] / loss.values[0] - 1) < UNTRAINED)
