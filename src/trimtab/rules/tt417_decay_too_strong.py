"""TT417 decay-too-strong: weight decay shrinks the weights faster than they learn."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import Floats, History, Steps
from trimtab.rules._rule import RunRule
from trimtab.rules._setup import GroupFacts, ParamFacts
from trimtab.rules._updates import MATRICES, row_medians


@register
@dataclass(frozen=True, kw_only=True)
class DecayTooStrong(RunRule):
    """Weight decay pulls the weights towards zero more strongly than the loss shapes them.

    Why: the weights shrink by a fixed share in each step. Signals and gradients fade with them,
        layer by layer, and the model is held at outputs that do not depend on its input.

    Measured: with decoupled decay (AdamW) and SGD the share of each weight that decay takes a
        step, learning rate x decay; with L2 in Adam the decay's part of the gradient. It has to be
        far above what is usual, and weights have to have shrunk.

    Silent on: decay of usual strength, however long the run, and weights that hold their size.

    Fix: use a decay of 0.01 to 0.1 with AdamW or 1e-4 to 5e-4 with SGD, and none on biases, norms
        and embeddings.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101; Wang and Aitchison 2024, arXiv:2405.13698.
    """

    code: ClassVar = "TT417"
    name: ClassVar = "decay-too-strong"
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar = 20
    leads_to: ClassVar = ("TT101", "TT105", "TT2", "TT304", "TT305", "TT401", "TT402", "TT405")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1.0)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(80):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    largest_share: float = 1e-3
    """Learning rate x decay: at 1e-3 a weight without gradient halves in 700 steps. Usual are 1e-5
    (SGD) to 1e-4 (AdamW)."""
    gradient_share: float = 0.7
    """Decay x weight over that plus the gradient, with L2 in Adam."""
    shrunk: float = 0.7
    """Norm of the weights over their start."""
    records: int = 10
    """Records that are needed."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if decay is strong and typical weights have shrunk."""
        if not any(group.weight_decay > 0 for group in history.setup.groups):
            return
        params = {p.name: p for p in history.setup.params if p.role in MATRICES}
        table = history.table("parameters", "weight.norm")
        sites = {s for s in table.sites if s in params and params[s].group is not None}
        if len(table.steps) < self.records or not sites:
            return
        table = table.only([s in sites for s in table.sites])
        first, now = np.where(table.values[0] > 0, table.values[0], np.nan), table.values[-1]
        left = now / first
        if 2 * (left < self.shrunk).sum() <= len(sites):
            return
        grads = history.table("parameters", "gradient.norm").last(self.records)
        grads = grads.only([s in sites for s in grads.sites])
        rates = history.series("learning_rate").known().values
        strong = np.array([
            self._is_strong(history, params[s], rates, table.values[-self.records :, i],
                            grads.values[:, i])
            for i, s in enumerate(table.sites)
        ])  # fmt: skip
        hit = strong & (left < self.shrunk)
        if 2 * hit.sum() <= len(hit):
            return
        kept = float(row_medians(left[None, :])[0])
        group = history.setup.group_of(table.sites[int(hit.argmax())])
        assert group is not None
        yield self._found(table.steps, table.values / first, kept, group, rates)

    def _found(
        self, steps: Steps, left: Floats, kept: float,
        group: GroupFacts, rates: Floats,
    ) -> Finding:  # fmt: skip
        began = int(np.argmax(row_medians(left) < (1 + self.shrunk) / 2))
        rate = float(rates.max()) if len(rates) else group.lr
        usual = 0.01 if "adamw" in group.optimizer.lower() else 1e-4
        return self.finding(
            step=int(steps[began]),
            what=f"weight decay of {group.weight_decay:g} has shrunk typical weights to "
            f"{kept:.0%} of their size",
            evidence=(
                Evidence(name="learning rate x weight decay", value=rate * group.weight_decay,
                         normal=f"1e-5 to 1e-4, <= {self.largest_share:g}"),
                Evidence(name="weights over their start", value=kept, normal=f">= {self.shrunk:g}"),
            ),
            cause="weight decay pulls the weights towards zero more strongly than the loss shapes "
            "them",
            fix=f"set weight_decay to about {usual:g}, and to 0 for biases, norms and embeddings",
            remedy=Fix(action="set_weight_decay", args={"weight_decay": usual}),
        )  # fmt: skip

    def _is_strong(
        self, history: History, param: ParamFacts, rates: Floats, weights: Floats, grads: Floats
    ) -> bool:
        """Tell whether decay outweighs the loss for one weight."""
        group = history.setup.groups[param.group or 0]
        decay = group.weight_decay
        name = group.optimizer.lower()
        coupled = group.adaptive and "adamw" not in name and "lion" not in name
        if decay <= 0:
            return False
        if not coupled:
            rate = float(rates.max()) if len(rates) else group.lr
            return rate * decay > self.largest_share
        known = np.isfinite(weights) & np.isfinite(grads)
        if not known.any():
            return False
        pull = decay * weights[known]
        return bool(np.median(pull / (pull + grads[known] + 1e-30)) > self.gradient_share)
