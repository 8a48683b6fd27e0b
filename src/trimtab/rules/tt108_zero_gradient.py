"""TT108 zero-gradient: a weight whose gradient is exactly zero in every record."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._depth import weights_by_depth
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class ZeroGradient(RunRule):
    """The gradients of weight matrices have been exactly zero in every record.

    Why: the loss depends on them on paper only. Every path to it leads through zeros, so no step
        ever moves them, whatever the learning rate.

    Measured: the exact gradient norm of each weight matrix, in all records so far.

    Silent on: layers behind a branch or head that starts at zero, which get a gradient from the
        second step on; parameters without any gradient (TT103).

    Fix: look for units that are all dead, weights that are all zero, a factor of 0 in the loss, and
        gradients too small for the precision; initialise with `trimtab.init.auto_`.
    """

    code: ClassVar = "TT108"
    name: ClassVar = "zero-gradient"
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar = 59
    leads_to: ClassVar = ("TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 1))
for p in model.parameters():
    nn.init.zeros_(p)
optimizer = torch.optim.Adam(model.parameters())
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(40):
    x = torch.randn(16, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    records: int = 8
    """Fewest records with a gradient, all of them zero."""
    steps: int = 20
    """Steps that they have to last."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for all weight matrices whose gradient was always zero."""
        table = history.table("parameters", "gradient.norm")
        if len(table.steps) < self.records or table.steps[-1] < table.steps[0] + self.steps:
            return
        known = ~np.isnan(table.values)
        zero = ((table.values == 0) | ~known).all(axis=0) & (known.sum(axis=0) >= self.records)
        if not zero.any():
            return
        weights = weights_by_depth(history, table.sites)
        sites = [table.sites[i] for i in weights if zero[i]]
        if not sites:
            return
        yield self.finding(
            site=sites[-1],
            also=tuple(sites[:-1]),
            step=int(table.steps[0]),
            what=f"the gradients of {len(sites)} of {len(weights)} weight matrices were exactly "
            f"zero in all {len(table.steps)} records; the last of them is {sites[-1]}",
            evidence=(Evidence(name="largest gradient norm", value=0.0, normal="> 0"),),
            cause="every path from them to the loss leads through zeros: units that are all dead, "
            "weights that are all zero, a factor of 0, or a gradient that has rounded to zero",
            fix="initialise the weights at random (trimtab.init.auto_(model)), look for dead "
            "ReLUs, and for a loss term that is multiplied by 0",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
        )
