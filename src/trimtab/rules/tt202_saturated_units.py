"""TT202 saturated-units: a hidden sigmoid or tanh that is stuck at its bounds."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._depth import is_hidden
from trimtab.rules._history import History
from trimtab.rules._persistence import always, lasting
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class SaturatedUnits(RunRule):
    """Most outputs of a bounded activation are at its bounds, where its slope is zero.

    Why: at a bound of tanh or sigmoid the gradient is multiplied by a slope near zero, so the
        layers before it hardly learn, and what they compute is reduced to signs.

    Measured: the share of outputs within 1 % of a bound, in every record over 80 steps, for modules
        that have bounds (tanh, sigmoid, their hard kin, softsign).

    Silent on: the output of a classifier, a discriminator or a generator, which is at its bounds
        when it is right. Sigmoid networks that train with a share of 0.6.

    Fix: initialise with `trimtab.init.xavier_` (gain 5/3 for tanh), normalise the inputs, put a
        norm before the activation, lower the learning rate.

    Source: Glorot & Bengio 2010, AISTATS; LeCun et al. 1998, "Efficient BackProp", section 4.4.
    """

    code: ClassVar = "TT202"
    name: ClassVar = "saturated-units"
    symptom: ClassVar = Symptom.SATURATED_UNITS
    rank: ClassVar = 47
    leads_to: ClassVar = ("TT101", "TT108", "TT204", "TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 1))
nn.init.normal_(model[0].weight)  # a standard deviation of 1 in place of 1/8
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(90):
    x = torch.randn(64, 64)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    max_share: float = 0.7
    """Largest healthy share at the bounds, as it lasts. Five sigmoid layers that train well have
    0.6 and touch 0.78; weights of standard deviation 1, or inputs up to 255, give 0.74 and more."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 80
    """Steps that they have to last. Sigmoid networks at a high learning rate go through 50 such."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each hidden activation that is stuck at its bounds."""
        recent = lasting(
            history.table("modules", "activation.saturation"),
            records=self.records,
            steps=self.steps,
        )
        if recent is None:
            return
        flags = always(recent.values > self.max_share, recent.values, records=self.records)
        for index in np.flatnonzero(flags):
            site = recent.sites[index]
            if not is_hidden(history, site):
                continue
            share = float(np.nanmedian(recent.values[:, index]))
            kind = next((m.kind for m in history.setup.modules if m.name == site), "activation")
            yield self.finding(
                site=site,
                step=int(recent.steps[0]),
                what=f"{share:.0%} of the outputs of this {kind} are at its bounds",
                evidence=(
                    Evidence(
                        name="share of saturated outputs",
                        value=share,
                        normal=f"<= {self.max_share:g}",
                    ),
                ),
                cause="its inputs are far outside of the range where it has a slope: initial "
                "weights too large, inputs not normalised, or a learning rate that is too high; "
                "saturated units pass hardly any gradient back",
                fix="initialise again (trimtab.init.xavier_), normalise the inputs, put a norm "
                "layer before the activation, or lower the learning rate",
                remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
            )
