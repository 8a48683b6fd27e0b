"""TT405 gradient-near-epsilon: Adam's epsilon outweighs the gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import MATRICES, values_at, weight_updates


@register
@dataclass(frozen=True, kw_only=True)
class GradientNearEpsilon(RunRule):
    """Adam's epsilon is as large as the gradients, so that updates shrink.

    Why: Adam divides by sqrt(v) + epsilon. Where gradients are smaller than epsilon, the division
        no longer makes steps of the size of the learning rate: they shrink with the gradient, and
        parameters with small gradients stand still.

    Measured: RMS of the gradient after clipping against epsilon, for at least a quarter of the
        weights, in many records in a row, and updates below 1e-4 of the weights.

    Silent on: a large epsilon on purpose with updates of healthy size, parameters without gradient,
        runs that have converged.

    Fix: set epsilon to 1e-8 or, in large models, to 1e-15, and look at what makes gradients small:
        a loss that is divided too often, or a clip threshold that is far too low.

    Source: Wortsman et al. 2023, arXiv:2309.14322, section 3.4.
    """

    code: ClassVar = "TT405"
    name: ClassVar = "gradient-near-epsilon"
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    rank: ClassVar = 30
    leads_to: ClassVar = ("TT304", "TT305", "TT402")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-8)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(60):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    loss = 1e-9 * (model(x) - x[:, :1]).square().mean()  # divided far too often
    trim.loss(loss).backward()
    optimizer.step()
findings = trim.findings
"""

    records: int = 10
    """Records in a row."""
    share: float = 0.25
    """Share of the weights whose gradient is below epsilon."""
    largest_update: float = 5e-4
    """Update ratio, usually 1e-3, from which on a large epsilon does no harm."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if epsilon outweighs the gradients of many weights."""
        facts = {p.name: p for p in history.setup.params}
        groups = history.setup.groups
        table = history.table("parameters", "gradient.rms").last(self.records + 1)
        eps = np.full(len(table.sites), np.nan)
        for i, site in enumerate(table.sites):
            p = facts.get(site)
            if p is not None and p.group is not None and p.role in MATRICES:
                group = groups[p.group]
                if group.beta2 is not None or "rmsprop" in group.optimizer.lower():
                    eps[i] = np.nan if group.eps is None else group.eps
        if not np.isfinite(eps).any() or len(table.steps) <= self.records:
            return
        clip = values_at(history.series("gradient.clip_coefficient"), table.steps)
        rms = np.where(np.isfinite(table.values), table.values, np.nan)[1:]
        rms = rms * np.where(np.isfinite(clip), clip, 1)[1:, None]
        below = (rms > 0) & (rms <= eps)
        judged = (rms > 0) & np.isfinite(eps)
        shares = below.sum(axis=1) / np.maximum(judged.sum(axis=1), 1)
        typical = weight_updates(history, self.records).typical
        if not (shares >= self.share).all() or not (typical < self.largest_update).all():
            return
        if self._has_converged(history):
            return
        least, most = float(np.nanmin(eps)), float(np.nanmax(eps))
        middle = float(np.median(rms[judged]))
        yield self.finding(
            step=int(table.steps[1]),
            what=f"the gradients of {shares[-1]:.0%} of the weights are below Adam's epsilon of "
            f"{most:g}, and updates shrink to {np.median(typical):.2g} of the weights",
            evidence=(
                Evidence(name="median RMS of the gradients", value=middle,
                         normal=f"far above epsilon, {least:g}"),
                Evidence(name="typical update ratio", value=float(np.median(typical)),
                         normal="about 1e-3"),
            ),
            cause="Adam divides by sqrt(v) + epsilon, and epsilon outweighs the gradients: they "
            "are tiny, or epsilon (eps) is too large",
            fix=f"set eps to {max(1e-15, min(1e-8, middle / 100)):.0e}, and look for a loss that "
            "is divided too often or a clip threshold that is far too low",
            remedy=Fix(action="set_eps", args={"eps": max(1e-15, min(1e-8, middle / 100))}),
        )  # fmt: skip

    def _has_converged(self, history: History) -> bool:
        """Tell whether gradients became small because the loss did."""
        loss = history.series("loss").known().values
        return len(loss) > 20 and bool(np.median(loss[-10:]) < 0.05 * np.median(loss[:5]))
