"""TT206 attention-logit-growth: attention logits grow until softmax is a switch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._persistence import always, lasting
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class AttentionLogitGrowth(RunRule):
    """The largest attention logits are far above what softmax can weigh.

    Why: queries and keys feed on each other, and their product grows with the square of the
        weights. Large models whose logits passed 10^4 diverged; the growth shows thousands of steps
        before.

    Measured: the largest scaled logit before softmax, in every record over 40 steps, and its growth
        since the first records.

    Silent on: logits below 50, and those below 100 that are not growing.

    Fix: QK-norm, a cap on the logits (50), or QK-clip; a lower learning rate or more weight decay
        on queries and keys.

    Source: Wortsman et al. 2023, arXiv:2309.14322, section 3.1.1; Dehghani et al. 2023,
        arXiv:2302.05442; Kimi K2 2025, arXiv:2507.20534, for 100.
    """

    code: ClassVar = "TT206"
    name: ClassVar = "attention-logit-growth"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 47
    leads_to: ClassVar = ("TT102", "TT205", "TT207", "TT3")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

attention = trimtab.nn.Attention(16, 2, qk_norm=False)
with torch.no_grad():
    attention.q_proj.weight.mul_(30)
    attention.k_proj.weight.mul_(30)
model = nn.Sequential(attention, nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(60):
    x = torch.randn(8, 16, 16)
    optimizer.zero_grad()
    trim.loss((model(x) - x[..., :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    watch: float = 50.0
    """Largest logit from which on growth is worth knowing (Wortsman et al.)."""
    warn: float = 100.0
    """Largest logit that is warned of, growing or not: where QK-clip sets in (Kimi K2)."""
    act: float = 1e3
    """Largest logit at which the run is about to be lost."""
    growth: float = 2.0
    """Over the first records."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 40
    """Steps that they have to last."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each attention with large logits."""
        table = history.table("modules", "attention.logit_max")
        recent = lasting(table, records=self.records, steps=self.steps)
        if recent is None or np.isnan(recent.values).all():
            return
        values = recent.values
        for index in np.flatnonzero(always(values > self.watch, values, records=self.records)):
            logit = float(np.nanmin(values[:, index]))
            begun = table.values[:, index]
            start = float(np.median(begun[np.isfinite(begun)][: self.records]))
            grown = logit > self.growth * max(start, 1.0)
            if logit <= self.warn and not grown:
                continue
            yield self.finding(
                severity=self._severity(logit),
                site=recent.sites[index],
                step=int(recent.steps[0]),
                what=f"the largest attention logit is {logit:.3g}; in the first records it was "
                f"{start:.3g}",
                evidence=(
                    Evidence(
                        name="largest attention logit", value=logit, normal=f"<= {self.watch:g}"
                    ),
                ),
                cause="queries and keys grow together, so softmax becomes a switch that passes no "
                "gradient: the learning rate is too high for them, their weight decay too low, or "
                "their initial weights too large",
                fix="normalise queries and keys (QK-norm: trimtab.nn.Attention(..., "
                "qk_norm=True)) or cap the logits at 50, and lower the learning rate",
                remedy=Fix(action="add_qk_norm", args={"site": recent.sites[index]}),
            )

    def _severity(self, logit: float) -> Severity:
        if logit >= self.act:
            return Severity.ERROR
        return Severity.WARNING if logit > self.warn else Severity.ADVICE
