"""TT401 update-too-large: each step changes weights by a large part of their size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import loss_curve
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import Updates, streak, weight_updates


@register
@dataclass(frozen=True, kw_only=True)
class UpdateTooLarge(RunRule):
    """Each step changes the weights by a large part of their own size.

    Why: an update that is a tenth of the weight throws away what the last ones learnt. The loss
        jumps about, units die or saturate, and the run diverges. It is the earliest sign of a
        learning rate that is too high.

    Measured: RMS of the update over RMS of the weight; the median over all weight matrices, in
        several records in a row. About 1e-3 is usual.

    Silent on: biases, norms and weights that begin at zero, the first ten steps (Adam moves each
        weight by the whole learning rate then), and runs whose loss keeps falling fast.

    Fix: divide the learning rate by the factor that brings the ratio to about 1e-3, clip gradients
        by their global norm, and warm the learning rate up.

    Source: Karpathy 2015, CS231n, "ratio of weights:updates"; You et al. 2017, arXiv:1708.03888.
    """

    code: ClassVar = "TT401"
    name: ClassVar = "update-too-large"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 40
    leads_to: ClassVar = (
        "TT10", "TT2", "TT301", "TT302", "TT303", "TT304", "TT306", "TT307", "TT403", "TT404",
        "TT406", "TT407", "TT410",
    )  # fmt: skip
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 2))
optimizer = torch.optim.Adam(model.parameters(), lr=1.0)  # a thousand times the usual
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(60):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    largest: float = 0.1
    """Typical update ratio that is too large when it lasts: 100 times the usual 1e-3. Healthy runs
    with high learning rates (batch normalisation, small initial weights) reach 0.09."""
    largest_rising: float = 0.05
    """Likewise, where the loss is above its start."""
    at_once: float = 1.0
    """Typical update ratio that is too large at any time: nothing of the weights is left. In a
    linear model it has to come again, because such a model may begin anywhere."""
    at_start: float = 0.3
    """Typical update ratio in the first ten steps that is too large if the loss rises: what the
    initialisation made is lost. Adam at 1e-3 begins with about 0.01 to 0.03."""
    first_step: int = 10
    """Steps that are judged by these two only."""
    records: int = 5
    """Records in a row that make it lasting."""
    steps: int = 10
    """Steps that these have to span."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the updates of typical weights are too large, and stay so."""
        updates = weight_updates(history, 32)
        typical = updates.typical
        begun = np.flatnonzero(typical > self.at_once)
        early = np.flatnonzero((typical > self.at_start) & (updates.steps <= self.first_step))
        lasting = self._lasting(history, updates)
        if len(begun) >= 2 and begun[-1] >= len(typical) - 2 and not self._thrives(history):
            yield self._found(updates, int(begun[0]), len(typical))
        elif (
            len(early)
            and len(updates.sites) > 1
            and (typical[early].max() > self.at_once or self._rises_at_once(history))
        ):
            yield self._found(updates, int(early[0]), int(early[-1]) + 1)
        elif lasting and not self._thrives(history):
            yield self._found(updates, len(typical) - lasting, len(typical))

    def _lasting(self, history: History, updates: Updates) -> int:
        """Return for how many newest records updates have been too large; 0 if not for long."""
        curve = loss_curve(history)
        risen = len(curve.values) > 20 and np.median(curve.values[-10:]) > curve.start > 0
        limit = self.largest_rising if risen else self.largest
        count = streak((updates.typical > limit) & (updates.steps > self.first_step))
        long = count >= self.records and updates.steps[-1] - updates.steps[-count] >= self.steps
        return count if long else 0

    def _rises_at_once(self, history: History) -> bool:
        """Tell whether the loss went above its start within the first steps."""
        loss = history.series("loss").values[: 2 * self.first_step]
        if not len(loss) or not np.isfinite(loss[0]):
            return False
        return bool((loss > loss[0] + 0.1 * abs(loss[0])).sum() >= 2)

    def _found(self, updates: Updates, first: int, end: int) -> Finding:
        ratios = updates.ratios[first:end]
        ratio = float(np.nanmedian(updates.typical[first:end]))
        each = [float(np.nanmedian(c)) if np.isfinite(c).any() else -1.0 for c in ratios.T]
        worst = int(np.argmax(each))
        rate = updates.learning_rates[first]
        factor = float(f"{max(1e-4, 1e-3 / max(ratio, 1e-3)):.1g}")
        return self.finding(
            step=int(updates.steps[first]),
            what=f"a step changes the weights by {ratio:.2g} of their size; most in "
            f"{updates.sites[worst]} ({each[worst]:.2g})",
            evidence=(
                Evidence(name="typical update ratio", value=ratio,
                         normal=f"about 1e-3, <= {self.largest:g}"),
                Evidence(name="learning rate", value=float(rate), normal="see the ratio"),
            ),
            cause="the learning rate is too high: what the steps before learnt is thrown away",
            fix=f"multiply the learning rate by about {factor:g}, clip gradients by their global "
            "norm, and warm up",
            remedy=Fix(action="scale_learning_rate", args={"factor": factor}),
        )  # fmt: skip

    def _thrives(self, history: History) -> bool:
        """Tell whether the loss is at its best and still falling fast."""
        curve = loss_curve(history)
        if len(curve.values) < 20:
            return False
        _, levels = curve.levels(10)
        return bool(levels[-1] <= levels.min() and levels[-1] < 0.7 * levels[-2])
