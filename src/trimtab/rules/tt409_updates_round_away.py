"""TT409 updates-round-away: updates are too small for the precision of the weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import MATRICES, row_medians, values_at

_LOW: Final = {"bfloat16": 2.0**-8, "float16": 2.0**-11}
"""Relative size of the smallest update that is not rounded away."""


@register
@dataclass(frozen=True, kw_only=True)
class UpdatesRoundAway(RunRule):
    """Most updates are lost to rounding, because weights are kept in low precision.

    Why: bfloat16 has 8 significant digits in binary. An update below 1/256 of its weight rounds to
        nothing, step after step, in the same direction; a usual one is 1/1000. The weights stand
        still although gradients, learning rate and optimizer are right.

    Measured: the share of elements with a gradient that a step left exactly as they were, the
        median over the weights in bfloat16 or float16.

    Silent on: weights in float32, also under autocast; the end of a schedule; embeddings, whose
        rows are used now and then.

    Fix: keep the weights in float32 and compute in bfloat16 with autocast; or keep a copy in
        float32, round stochastically, or sum up with compensation (Kahan).

    Source: Zamirai et al. 2020, arXiv:2010.06192; Micikevicius et al. 2018, arXiv:1710.03740,
        section 3.1.
    """

    code: ClassVar = "TT409"
    name: ClassVar = "updates-round-away"
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    rank: ClassVar = 22
    leads_to: ClassVar = ("TT304", "TT305", "TT402", "TT408")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)).bfloat16()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-5)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(40):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    logits = model(x.bfloat16()).float()
    trim.loss(nn.functional.cross_entropy(logits, (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    largest: float = 0.8
    """Share of elements left as they were; at the usual update ratio of 1e-3 it is about 0.7 in
    bfloat16, and such a run still learns."""
    records: int = 8
    """Records in a row."""
    end_of_schedule: float = 0.1
    """Learning rate over its peak below which steps are meant to be small."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if most updates of weights in low precision are lost."""
        low = {p.name: p.dtype for p in history.setup.params
               if p.dtype in _LOW and p.role in MATRICES - {"embedding"}}  # fmt: skip
        table = history.table("parameters", "update.unchanged_fraction").last(self.records + 1)
        if not low or len(table.steps) <= self.records:
            return
        table = table.only([site in low for site in table.sites])
        lost = row_medians(table.values)[1:]
        rates = history.series("learning_rate")
        peak = np.nanmax(rates.values, initial=0.0)
        now = values_at(rates, table.steps)[1:]
        if not (lost > self.largest).all() or (now < self.end_of_schedule * peak).any():
            return
        dtype = low[table.sites[0]]
        share = float(np.median(lost))
        yield self.finding(
            step=int(table.steps[1]),
            what=f"{share:.0%} of the updates of typical weights are lost to rounding in {dtype}",
            evidence=(
                Evidence(name="share of elements that a step leaves as they were", value=share,
                         normal=f"<= {self.largest:g}"),
            ),
            cause=f"an update below {_LOW[dtype]:.2g} of its weight rounds to nothing in {dtype}, "
            "and at this learning rate most are",
            fix="keep the weights in float32 and compute in bfloat16 with torch.autocast, or keep "
            "a float32 copy for the optimizer",
            remedy=Fix(action="keep_float32_master"),
        )  # fmt: skip
