"""TT105 first-layer-gradient: the first layer or the embedding takes nearly all of the gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._depth import first_layer
from trimtab.rules._history import History
from trimtab.rules._persistence import lasting
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class FirstLayerGradient(RunRule):
    """The first layer or the embedding holds nearly all of the gradient, and its gradient grows.

    Why: clipping by the global norm then holds back all other layers, and Adam's second moments of
        the first layer lag behind. In large models a growing gradient of the patch projection or
        the embedding came some steps before the spikes of the loss.

    Measured: the share of the first module's parameters in the squared norm of the whole gradient,
        in every record over 40 steps, and the norm of their gradient over its median before.

    Silent on: models of one or two layers; a large share that is not growing.

    Fix: normalise the inputs; freeze the patch projection, or let only a tenth of the gradient
        through to the embedding (`e * 0.1 + e.detach() * 0.9`); add a norm after the embedding.

    Source: Chen et al. 2021 (MoCo v3), arXiv:2104.02057, section 4.2; Zeng et al. 2022 (GLM-130B),
        arXiv:2210.02414, section 2.2.
    """

    code: ClassVar = "TT105"
    name: ClassVar = "first-layer-gradient"
    symptom: ClassVar = Symptom.EXPLODING_GRADIENT
    rank: ClassVar = 61
    leads_to: ClassVar = ("TT301",)
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
nn.init.normal_(model[0].weight, std=0.01)
optimizer = torch.optim.SGD(model.parameters(), lr=1e-9)
trim = trimtab.attach(model, optimizer, clip=None, guard=None, out=None, watch=2)
for step in range(110):
    x = torch.randn(32, 8)
    shown = x if step < 50 else 100 * x  # the inputs lose their normalisation
    optimizer.zero_grad()
    trim.loss((model(shown) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    max_share: float = 0.95
    """Share of the squared gradient norm. Sound networks of three layers and more reach 0.9."""
    min_growth: float = 3.0
    """Norm of the first layer's gradient over its median before."""
    min_layers: int = 3
    """Fewest modules with parameters."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 40
    """Steps that they have to last."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the first layer's gradient outgrows all others."""
        table = history.table("parameters", "gradient.norm")
        recent = lasting(table, records=self.records, steps=self.steps)
        if recent is None:
            return
        first = first_layer(history, table.sites)
        own, norms = self._norms(recent.values[-1:], first)
        if not (own**2 > self.max_share * norms**2).all():  # as in health: no need of the rest
            return
        modules = {p.module for p in history.setup.params if p.name in set(table.sites)}
        earlier = table.values[: len(table.steps) - len(recent.steps)]
        if not first or len(modules) < self.min_layers or len(earlier) < self.records:
            return
        own, norms = self._norms(recent.values, first)
        before, _ = self._norms(earlier, first)
        if not (np.isfinite(norms) & (norms > 0)).all():
            return
        share = (own / norms) ** 2
        known = before[np.isfinite(before) & (before > 0)]
        if not (share > self.max_share).all() or not len(known):
            return
        growth = own / np.median(known)
        if not (np.isfinite(growth) & (growth > self.min_growth)).all():
            return
        yield self.finding(
            site=table.sites[first[0]],
            step=int(recent.steps[0]),
            what=f"the first layer holds {float(np.median(share)):.1%} of the squared gradient "
            f"norm, and its gradient has grown to {float(np.median(growth)):.2g} times what it was",
            evidence=(
                Evidence(
                    name="share of the squared gradient norm",
                    value=float(np.median(share)),
                    normal=f"<= {self.max_share:g}",
                ),
                Evidence(
                    name="growth of the first layer's gradient",
                    value=float(np.median(growth)),
                    normal=f"<= {self.min_growth:g}",
                ),
            ),
            cause="the inputs have become large, or a few rows drive the embedding; clipping "
            "by the global norm then holds back every other layer, and a loss spike often follows",
            fix="normalise the inputs, add a norm layer after the embedding, shrink its gradient "
            "to a tenth, or give it a lower learning rate",
            remedy=Fix(action="normalise_inputs"),
        )

    def _norms(self, norms: np.ndarray, first: list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return the first layer's gradient norm and that of all, `(num_records,)` each."""
        with np.errstate(over="ignore"):
            squares = np.square(np.nan_to_num(norms, nan=0.0))
        return np.sqrt(squares[:, first].sum(axis=1)), np.sqrt(squares.sum(axis=1))
