"""TT203 covariate-drift: the distribution of a hidden layer runs away from the layers after it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._depth import is_hidden
from trimtab.rules._history import Floats, History
from trimtab.rules._persistence import always, lasting
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class CovariateDrift(RunRule):
    """The mean or the scale of a hidden layer's output keeps moving faster than it can be followed.

    Why: each layer learns for the inputs that it gets. If their distribution moves by several
        standard deviations, what the later layers have learnt no longer fits, and they chase it.

    Measured: the distance of the mean from a reference that follows over about twenty records, in
        units of the layer's RMS, and the change of the RMS as a power of two; in every record over
        40 steps, after the first hundred steps.

    Silent on: the first steps, in which all layers grow; outputs, whose scale is that of the
        targets; slow drift, which the reference follows.

    Fix: lower the learning rate or warm up, add BatchNorm or LayerNorm between the layers; if the
        data changed (a new source, an augmentation, a lost normalisation), restore it.

    Source: Ioffe & Szegedy 2015, arXiv:1502.03167; Santurkar et al. 2018, arXiv:1805.11604, for how
        little small drifts matter.
    """

    code: ClassVar = "TT203"
    name: ClassVar = "covariate-drift"
    symptom: ClassVar = Symptom.OSCILLATING_LOSS
    rank: ClassVar = 51
    leads_to: ClassVar = ("TT105", "TT3")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
trim = trimtab.attach(model, optimizer, guard=None, out=None, watch=2)
for step in range(180):
    x = torch.randn(64, 8)
    shifted = x if step < 120 else 50 * x + 100  # the inputs lose their normalisation
    optimizer.zero_grad()
    trim.loss((model(shifted) - x[:, :1]).abs().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    max_mean: float = 2.0
    """Distance of the mean in units of the reference RMS. Hidden layers of sound runs stay within
    0.7 once the first hundred steps are over; a lost normalisation of the inputs gives 5 to 15."""
    max_scale: float = 2.0
    """Change of the RMS in powers of two: fourfold. Sound runs stay within 1.2."""
    settled: int = 100
    """First steps that are not judged."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 8
    """Steps that they have to last; the reference follows a jump within some twenty records."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each hidden layer whose distribution runs away."""
        if history.step < self.settled + self.steps:
            return
        means = lasting(
            history.table("modules", "activation.drift_mean").since(self.settled),
            records=self.records,
            steps=self.steps,
        )
        if means is None:
            return
        scales = history.table("modules", "activation.drift_scale").last(len(means.steps)).values
        far = self._lasts(np.abs(means.values), self.max_mean)
        wide = self._lasts(np.abs(scales), self.max_scale)
        for index in np.flatnonzero(far | wide):
            site = means.sites[index]
            if not is_hidden(history, site):
                continue
            mean = float(np.median(np.abs(means.values[:, index])))
            factor = float(2 ** np.median(scales[:, index]))
            yield self.finding(
                site=site,
                step=int(means.steps[0]),
                what=f"the mean of this layer's output is {mean:.2g} times its RMS away from where "
                f"it was, and its scale {factor:.2g} times what it was",
                evidence=(
                    Evidence(
                        name="drift of the mean, in RMS", value=mean, normal=f"<= {self.max_mean:g}"
                    ),
                    Evidence(
                        name="scale over its reference",
                        value=factor,
                        normal=f"{2**-self.max_scale:.2g} to {2**self.max_scale:.2g}",
                    ),
                ),
                cause="the inputs of the network changed their distribution, or the layers before "
                "this one move faster than those after it can follow: the learning rate is too "
                "high for a network without norm layers",
                fix="check whether the data or its normalisation changed at this step; otherwise "
                "lower the learning rate or add norm layers",
                remedy=Fix(action="scale_learning_rate", args={"factor": 0.3}),
            )

    def _lasts(self, values: Floats, limit: float) -> np.ndarray:
        return always(np.isfinite(values) & (values > limit), values, records=self.records)
