"""TT205 attention-entropy-collapse: each query looks at one key only, and no gradient moves it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._persistence import always, lasting
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class AttentionEntropyCollapse(RunRule):
    """Attention has become one-hot: each query takes a single key, and softmax passes no gradient.

    Why: the slope of softmax is zero where all weight is on one key. Queries and keys stop
        learning, and a small change of the logits swaps one key for another, which shakes the loss.

    Measured: the mean entropy of the attention weights, in every record over 40 steps, while logits
        are large.

    Silent on: sequences of one or two tokens, whose entropy is small by itself; single heads that
        look at one position, such as induction heads, beside others that look around.

    Fix: normalise queries and keys (QK-norm), cap the logits, lower the learning rate of queries
        and keys, warm up longer.

    Source: Zhai et al. 2023, arXiv:2303.06296.
    """

    code: ClassVar = "TT205"
    name: ClassVar = "attention-entropy-collapse"
    symptom: ClassVar = Symptom.SATURATED_UNITS
    rank: ClassVar = 51
    leads_to: ClassVar = ("TT3",)
    example: ClassVar = """\
import torch, trimtab
from torch import nn

attention = trimtab.nn.Attention(16, 2, qk_norm=False)
with torch.no_grad():
    attention.q_proj.weight.mul_(100)
    attention.k_proj.weight.mul_(100)
model = nn.Sequential(attention, nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, guard=None, out=None, watch=2)
for step in range(60):
    x = torch.randn(8, 16, 16)
    optimizer.zero_grad()
    trim.loss((model(x) - x[..., :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    min_entropy: float = 0.1
    """Least healthy mean entropy in nats: 98 % of the weight on one key of two. Small language
    models have 1.8 to 3.5."""
    min_logit: float = 10.0
    """Largest logit without which there is no collapse, but only few keys."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 40
    """Steps that they have to last."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each attention whose weights are one-hot."""
        recent = lasting(
            history.table("modules", "attention.entropy"), records=self.records, steps=self.steps
        )
        if recent is None or np.isnan(recent.values).all():
            return
        logits = history.table("modules", "attention.logit_max").last(len(recent.steps)).values
        low = (recent.values < self.min_entropy) & (logits > self.min_logit)
        for index in np.flatnonzero(always(low, recent.values, records=self.records)):
            entropy = float(np.nanmedian(recent.values[:, index]))
            logit = float(np.nanmedian(logits[:, index]))
            yield self.finding(
                site=recent.sites[index],
                step=int(recent.steps[0]),
                what=f"the attention weights are one-hot: their mean entropy is {entropy:.2g} "
                f"nats, with logits up to {logit:.3g}",
                evidence=(
                    Evidence(
                        name="attention entropy in nats",
                        value=entropy,
                        normal=f">= {self.min_entropy:g}",
                    ),
                ),
                cause="queries and keys have grown so large that softmax puts all weight on one "
                "key and passes no gradient: a learning rate that is too high for them, or initial "
                "weights that are too large",
                fix="normalise queries and keys (QK-norm: trimtab.nn.Attention(..., "
                "qk_norm=True)), cap the logits, lower the learning rate, and warm up longer",
                remedy=Fix(action="add_qk_norm", args={"site": recent.sites[index]}),
            )
