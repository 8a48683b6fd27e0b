"""TT419 learning-rate-jump: the learning rate jumped up, and the loss with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import loss_curve, spread
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import weight_updates


@register
@dataclass(frozen=True, kw_only=True)
class LearningRateJump(RunRule):
    """The learning rate jumped up from one step to the next, and the loss followed.

    Why: the weights have settled where the old rate was stable. A sudden, far higher one throws
        them out: the usual reasons are a scheduler that was not restored on resume, two schedulers
        on one optimizer, or a factor in place of a rate.

    Measured: the learning rate against the step before and against its highest so far, and what the
        loss or the updates did in the steps after.

    Silent on: warm-up, restarts up to the earlier peak, and jumps that did no harm.

    Fix: restore the scheduler with the optimizer, have only one scheduler for an optimizer, and
        warm up to a higher rate over some hundred steps.

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983; Gotmare et al. 2019, arXiv:1810.13243.
    """

    code: ClassVar = "TT419"
    name: ClassVar = "learning-rate-jump"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 20
    leads_to: ClassVar = (
        "TT10", "TT2", "TT301", "TT302", "TT303", "TT304", "TT306", "TT307", "TT401", "TT403",
        "TT404", "TT406", "TT407", "TT410",
    )  # fmt: skip
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, clip=None, guard=None, out=None, watch=2)
for step in range(80):
    if step == 50:
        optimizer.param_groups[0]["lr"] *= 200
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    factor: float = 5.0
    """Over the step before."""
    over_peak: float = 2.0
    """Over the highest so far."""
    window: int = 100
    """Newest steps that are looked at."""
    z: float = 6.0
    """Robust deviations by which the loss has to rise."""
    large_update: float = 0.1
    """Typical update ratio afterwards that is harm in itself."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the rate jumped lately, and did harm."""
        rates = history.series("learning_rate").known()
        if len(rates.values) < 12:
            return
        values = rates.values
        before, after = values[:-1], values[1:]
        peaks = np.maximum.accumulate(before)
        jumped = (after > self.factor * before) & (after > self.over_peak * peaks) & (peaks > 0)
        jumped[: max(8, len(jumped) - self.window)] = False
        if not jumped.any():
            return
        at = int(jumped.argmax())
        step = int(rates.steps[at + 1])
        harm = self._harm(history, step)
        if harm is None:
            return
        times = float(after[at] / max(before[at], 1e-30))
        yield self.finding(
            step=step,
            what=f"the learning rate jumped from {before[at]:.3g} to {after[at]:.3g}, and {harm}",
            evidence=(
                Evidence(name="learning rate over the step before", value=times,
                         normal=f"<= {self.factor:g}"),
            ),
            cause="the weights had settled where the old learning rate was stable, and the new one "
            "throws them out",
            fix="restore the scheduler when a run is resumed, use one scheduler only, and warm up "
            "to a higher learning rate over some hundred steps",
            remedy=Fix(action="warm_up", args={"steps": 100}),
        )  # fmt: skip

    def _harm(self, history: History, step: int) -> str | None:
        """Say what the jump did; None if nothing."""
        losses = history.series("loss")
        gone = np.flatnonzero(np.isinf(losses.values) & (losses.steps >= step))
        if len(gone):
            return "the loss became infinite"
        curve = loss_curve(history)
        split = int(np.searchsorted(curve.steps, step))
        old, new = curve.values[max(0, split - 40) : split], curve.values[split + 1 : split + 21]
        if len(old) >= 8 and len(new) >= 4:
            level, top = float(np.median(old)), float(np.median(new))
            if top > level + max(self.z * spread(old), 0.1 * abs(curve.start - level)):
                return f"the loss rose from {level:.3g} to {top:.3g}"
        updates = weight_updates(history, 64)
        later = updates.typical[updates.steps >= step]
        later = later[np.isfinite(later)]
        if len(later) >= 2 and np.median(later) > self.large_update:
            return f"each step now changes the weights by {np.median(later):.2g} of their size"
        return None
