"""TT402 update-too-small: steps hardly change the weights, because of the learning rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import Floats, History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import gradient_share, streak, weight_updates


@register
@dataclass(frozen=True, kw_only=True)
class UpdateTooSmall(RunRule):
    """Steps hardly change the weights although gradients are there: the learning rate is too low.

    Why: at 1e-6 of a weight a step, a million steps change it once over. The loss falls so slowly
        that it looks like a task which cannot be learnt.

    Measured: RMS of the update over RMS of the weight, the median over all weight matrices, in many
        records in a row; with an optimizer whose steps follow the gradient, only where the gradient
        is of healthy size, so that the learning rate alone can be to blame.

    Silent on: warm-up, the end of a schedule, converged runs, vanished gradients (which have rules
        of their own).

    Fix: raise the learning rate tenfold until the loss falls fast, then go back by a factor of
        three. Usual are 1e-3 to 1e-4 for Adam and 0.01 to 0.1 for SGD.

    Source: Karpathy 2015, CS231n, "ratio of weights:updates"; Smith 2017, arXiv:1506.01186.
    """

    code: ClassVar = "TT402"
    name: ClassVar = "update-too-small"
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    rank: ClassVar = 40
    leads_to: ClassVar = ("TT304", "TT305")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(60):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    smallest: float = 1e-5
    """Typical update ratio below which a step is too small: a hundredth of the usual 1e-3."""
    records: int = 10
    """Records in a row."""
    steps: int = 30
    """Steps that these have to span, so that a warm-up has begun to rise."""
    healthy_gradient: float = 3e-3
    """Joint gradient norm over joint weight norm from which on a small step is not the gradient's
    doing; 0.01 to 1 at the start of training."""
    end_of_schedule: float = 0.02
    """Learning rate over its peak below which steps are meant to be small."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if typical updates are too small because of the learning rate."""
        updates = weight_updates(history, 64)
        typical = updates.typical
        count = streak((typical < self.smallest) & (typical > 0))
        if count < self.records or updates.steps[-1] - updates.steps[-count] < self.steps:
            return
        rates = history.series("learning_rate").known().values
        if len(rates) and self._is_scheduled(rates):
            return
        if not self._blames_rate(history, count):
            return
        ratio, rate = float(np.median(typical[-count:])), float(updates.learning_rates[-1])
        factor = float(f"{min(1e4, 1e-3 / ratio):.0e}")
        yield self.finding(
            step=int(updates.steps[-count]),
            what=f"a step changes the weights by {ratio:.2g} of their size at a learning rate of "
            f"{rate:.3g}",
            evidence=(
                Evidence(name="typical update ratio", value=ratio,
                         normal=f"about 1e-3, >= {self.smallest:g}"),
                Evidence(name="learning rate", value=rate, normal="see the ratio"),
            ),
            cause="the learning rate is far too low: gradients are there, but steps along them "
            "are tiny",
            fix=f"raise the learning rate, by up to {factor:g} times, in steps of ten until the "
            "loss falls fast",
            remedy=Fix(action="scale_learning_rate", args={"factor": factor}),
        )  # fmt: skip

    def _is_scheduled(self, rates: Floats) -> bool:
        """Tell whether the rate is still warming up, or has come to its end."""
        peak = rates.max()
        return bool(rates[-1] < self.end_of_schedule * peak or rates[-1] > 1.01 * rates[-2:].min())

    def _blames_rate(self, history: History, count: int) -> bool:
        """Tell whether gradients are such that a healthy learning rate would move the weights."""
        groups, params = history.setup.groups, history.setup.params
        if not (groups and all(g.adaptive for g in groups)):
            return gradient_share(history, count) > self.healthy_gradient
        norms, rates = history.series("weight.norm").known(), history.series("learning_rate")
        size = sum(p.numel for p in params if p.group is not None)
        if not size or not len(norms.values):
            return True
        usual = float(rates.values[-1]) / (norms.values[-1] / size**0.5)  # with a full gradient
        return bool(usual < 10 * self.smallest)
