"""TT107 nonfinite-gradient: a gradient that is NaN or infinite, and where it became so."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._depth import parameters_by_depth
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class NonfiniteGradient(RunRule):
    """A gradient is NaN or infinite.

    Why: an update with it destroys the parameter and the optimizer's moments for good. With
        `guard` the step is left out, and nothing is learnt from it.

    Measured: the joint norm of every step, which is exact, and for the place the norm of each
        parameter. A backward pass goes from the last layer to the first, so the last parameter in
        forward order that has a bad gradient is the nearest to its origin, if those after it are
        sound. If all are bad, it came with the loss or from the forward pass.

    Silent on: overflows under fp16 loss scaling, which are how the scale is found, unless they go
        on for many steps in a row.

    Fix: guard `log`, `sqrt`, division and `exp` against zero and large arguments
        (`x.clamp(min=...)`, an eps inside the root); `torch.autograd.set_detect_anomaly(True)`
        names the line.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, for loss scaling.
    """

    code: ClassVar = "TT107"
    name: ClassVar = "nonfinite-gradient"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NAN
    rank: ClassVar = 62
    leads_to: ClassVar = ("TT3",)
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(5):
    hidden = model[1](model[0](torch.randn(32, 8)))
    distance = (hidden - hidden.detach()).square().sum(1).sqrt()  # its slope at 0 is infinite
    loss = model[2](hidden).square().mean() + distance.mean()
    optimizer.zero_grad()
    trim.loss(loss).backward()
    optimizer.step()
findings = trim.findings
"""

    max_overflows: int = 25
    """Steps in a row that a loss scale may overflow: from 2^24 it is down to 1 after as many."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the first step with a gradient that is not finite."""
        norms = history.series("gradient.norm")
        recent = norms.values[-self.max_overflows :]
        if np.isfinite(recent).all():
            return
        bad = ~np.isfinite(norms.values)
        scale = history.series("loss_scale").values
        if np.isfinite(scale).any() and (scale != 1).any():  # NaN: of a scaler that hides it
            scaled = (scale != 1) & ~np.isinf(history.series("loss").values)
            stuck = len(recent) >= self.max_overflows and not np.isfinite(recent).any()
            bad &= ~scaled | stuck
        if not bad.any():
            return
        at = int(np.flatnonzero(bad)[0])
        step = int(norms.steps[at])
        sites, num_seen = self._sites(history, step)
        if not num_seen and history.step <= step + 1:
            return  # the next step is recorded, and shows where
        partly = 0 < len(sites) < num_seen
        number = int(bad.sum())
        yield self.finding(
            site=sites[-1] if partly else "",
            step=step,
            what=self._what(sites if partly else [], step, number),
            evidence=(
                Evidence(name="steps with a gradient not finite", value=float(number), normal="0"),
            ),
            cause="the parameters after it in the forward pass have sound gradients, so the "
            "operations between them and this one have an infinite slope (sqrt or log at 0, a "
            "division by 0), or overflow"
            if partly
            else "all gradients are NaN or infinite, so they became so in the loss or before it: "
            "log or sqrt of 0, a division by 0, exp of a large number, or inputs that are NaN",
            fix="clamp the arguments of log, sqrt, exp and divisions, look for NaN in the inputs, "
            "and lower the learning rate if activations had grown before; "
            "torch.autograd.set_detect_anomaly(True) names the operation",
            remedy=Fix(action="detect_anomaly"),
        )

    def _what(self, sites: list[str], step: int, number: int) -> str:
        where = f" from {sites[-1]} on towards the input" if sites else ""
        often = f", and in {number} steps so far" if number > 1 else ""
        return f"the gradient{where} was NaN or infinite in step {step}{often}"

    def _sites(self, history: History, step: int) -> tuple[list[str], int]:
        """Return parameters with a bad gradient in forward order, and the number that had one.

        Of the first record from a step on that shows any.
        """
        norms = history.table("parameters", "gradient.norm")
        shares = history.table("parameters", "gradient.nonfinite_fraction").values
        present = ~np.isnan(norms.values) | ~np.isnan(shares)
        bad = present & ~np.isfinite(norms.values)
        rows = np.flatnonzero(bad.any(axis=1) & (norms.steps >= step))
        if not len(rows):
            return [], 0
        found = {norms.sites[i] for i in np.flatnonzero(bad[rows[0]])}
        order = parameters_by_depth(history, norms.sites)
        return [site for site in order if site in found], int(present[rows[0]].sum())
