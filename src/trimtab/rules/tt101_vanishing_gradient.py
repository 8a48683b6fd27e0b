"""TT101 vanishing-gradient: gradients shrink layer by layer on their way to the first ones."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._depth import weights_by_depth
from trimtab.rules._history import Floats, History
from trimtab.rules._persistence import lasting
from trimtab.rules._rule import RunRule

_NONE = 1e-45
"""Least float32 that is not 0: what has rounded to 0 was smaller."""

_ROWS = 8
"""Records that stand for those of the last steps."""


class _Profile(NamedTuple):
    """Gradients of weight matrices by depth, as typical RMS of three equal parts."""

    first: float
    middle: float
    last: float
    largest: float
    """Of the last part."""

    @property
    def share(self) -> float:
        """First layers over the strongest of the last ones."""
        return self.first / self.largest


@register
@dataclass(frozen=True, kw_only=True)
class VanishingGradient(RunRule):
    """Gradients shrink from layer to layer, so the first layers hardly learn.

    Why: the gradient of an early layer is a product with one factor for each layer after it. Where
        the factors are below 1, the first layers get next to nothing and stay as they were drawn.

    Measured: the RMS of the gradients of weight matrices in forward order, in three equal parts of
        the depth. It has to fall from the last part to the middle and from there to the first, and
        to less than a three-hundredth altogether, in every record over 80 steps. Sound networks of
        3 to 60 layers reach a fiftieth, in short phases; five sigmoid layers as PyTorch draws them
        1/3000, ten 1/10^8.

    Silent on: branches that start at or near zero (LayerScale, ReZero, LoRA): there the gradients
        are small in the middle of the network and not at its beginning. Runs that have converged:
        all gradients are small together. Recurrence over time, which has one matrix for all steps.

    Fix: use ReLU or GELU in place of sigmoid and tanh, initialise for the activation with
        `trimtab.init.auto_`, and add residual connections and norms.

    Source: Hochreiter 1991; Glorot & Bengio 2010, AISTATS; He et al. 2016, arXiv:1603.05027.
    """

    code: ClassVar = "TT101"
    name: ClassVar = "vanishing-gradient"
    symptom: ClassVar = Symptom.VANISHING_GRADIENT
    rank: ClassVar = 47
    leads_to: ClassVar = ("TT108", "TT204", "TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

layers = [layer for _ in range(8) for layer in (nn.Linear(16, 16), nn.Sigmoid())]
model = nn.Sequential(*layers, nn.Linear(16, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(90):
    x = torch.randn(32, 16)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    max_share: float = 3e-3
    """First layers' gradient over the last ones' below which it has vanished. Between the 1/50 of
    sound networks and the 1/1000 of five sigmoid layers that do not train."""
    least_fall: float = 2.0
    """Factor between neighbouring parts of the depth, so that it is a fall over all of it."""
    min_layers: int = 3
    """Fewest weight matrices that have a profile."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 80
    """Steps that they have to last. Five sigmoid layers with Adam recover by themselves within
    40."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if gradients vanish on their way to the first layers."""
        table = history.table("parameters", "gradient.rms")
        where = weights_by_depth(history, table.sites)
        recent = lasting(table, records=self.records, steps=self.steps)
        if recent is None or len(where) < self.min_layers:
            return
        newest = self._profile(recent.values[-1][where])
        if newest is not None and not self._vanishes(newest):  # as in health: no need of the rest
            return
        rows = np.unique(np.linspace(0, len(recent.steps) - 1, _ROWS).astype(int))
        found = [self._profile(row[where]) for row in recent.values[rows]]
        profiles = [p for p in found if p is not None]
        if len(profiles) < self.records or not all(map(self._vanishes, profiles)):
            return
        share = float(np.median([p.share for p in profiles]))
        kind = self._bounded(history)
        yield self.finding(
            site=table.sites[where[0]],
            step=int(recent.steps[0]),
            what=f"the gradients of the first layers are {share:.1g} of those of the last ones, "
            f"and fall from layer to layer over {len(where)} weight matrices",
            evidence=(
                Evidence(
                    name="gradient of the first layers over the last ones",
                    value=share,
                    normal=f">= {self.max_share:g}",
                ),
            ),
            cause=self._cause(kind),
            fix="use ReLU or GELU as activation, initialise with trimtab.init.auto_(model), and "
            "add residual connections or norm layers",
            remedy=Fix(action="reinitialise", args={"scheme": "auto"})
            if kind is None
            else Fix(action="replace_activation", args={"kind": kind, "by": "ReLU"}),
        )

    def _profile(self, gradients: Floats) -> _Profile | None:
        """Return the profile of one record; None without enough gradients that are not zero."""
        known = gradients[np.isfinite(gradients)]
        if len(known) < self.min_layers:
            return None
        parts = np.array_split(np.maximum(known, _NONE), 3)
        first, middle, last = (float(np.median(part)) for part in parts)
        largest = float(parts[2].max())
        return _Profile(first, middle, last, largest) if largest > _NONE else None

    def _vanishes(self, p: _Profile) -> bool:
        falls = min(p.middle / p.first, p.last / p.middle) >= self.least_fall
        return p.share < self.max_share and falls

    def _bounded(self, history: History) -> str | None:
        """Return the kind of the bounded activations, if there are as many as layers nearly."""
        kinds = [m.kind for m in history.setup.modules if m.role == "bounded"]
        return max(set(kinds), key=kinds.count) if len(kinds) >= self.min_layers - 1 else None

    def _cause(self, kind: str | None) -> str:
        if kind is None:
            return (
                "each layer passes back less than it is given, because its initial weights are too "
                "small for its activation, so the first layers hardly learn at any learning rate"
            )
        return (
            f"the slope of {kind} is below 1 nearly everywhere (a sigmoid's is 0.25 at most), and "
            "each layer multiplies the gradient by it, so the first layers hardly learn"
        )
