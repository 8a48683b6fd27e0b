"""TT204 rank-collapse: a network that computes the same for every input, or in every unit."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._depth import by_depth, is_hidden
from trimtab.rules._history import History, Table
from trimtab.rules._persistence import always, lasting
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class RankCollapse(RunRule):
    """The network's outputs hardly depend on its inputs, or all units of each layer are copies.

    Why: what is the same for every input cannot tell one from another, and only the biases of the
        last layer learn. Where all units of a layer are copies of one, the layer is one unit wide,
        and gradients that are equal keep it so.

    Measured: over 64 rows of a batch, the spread of a module's output as a share of its RMS, and
        the number of directions in which it varies; in every record over 80 steps. It is judged
        where the last hidden module, or the output, has collapsed, and placed at the first module
        from which on it has.

    Silent on: layers of one unit, embeddings, side branches; outputs of a regression whose targets
        lie close together far from zero; the phase of 40 steps with which some deep networks begin.

    Fix: draw the initial weights at random and large enough (`trimtab.init.auto_`), add residual
        connections and norms, lower the learning rate if it collapsed in training, and look whether
        the inputs differ at all.

    Source: Dong et al. 2021, arXiv:2103.03404, for attention without residual connections; Noci et
        al. 2022, arXiv:2206.03126.
    """

    code: ClassVar = "TT204"
    name: ClassVar = "rank-collapse"
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar = 50
    leads_to: ClassVar = ("TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4))
for p in model.parameters():
    nn.init.constant_(p, 0.1)  # all units are copies of one
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(90):
    x = torch.randn(64, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), x[:, :4].argmax(1))).backward()
    optimizer.step()
findings = trim.findings
"""

    min_variation: float = 0.01
    """Least healthy spread of a hidden output over the batch, as a share of its RMS. Sound networks
    have 0.2 to 1, and deep ones down to 0.02 as they begin; ten sigmoid layers have 1e-7."""
    min_output_variation: float = 1e-4
    """The same of an output, which may lie close about a large mean for good reason."""
    min_rank: float = 1.05
    """Directions in which the rows vary, below which all units of all layers are copies."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 80
    """Steps that they have to last. Five sigmoid layers with Adam recover by themselves within
    40."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the network has collapsed to a constant, or to copies of a unit."""
        recent = lasting(
            history.table("modules", "activation.variation"),
            records=self.records,
            steps=self.steps,
        )
        if recent is None or np.isnan(recent.values).all():
            return
        found = self._constant(history, recent)
        yield from found or self._copies(history, recent)

    def _sites(self, history: History, recent: Table) -> list[str]:
        """Return modules without parts that were measured, in forward order."""
        leaves = {m.name for m in history.setup.modules if m.leaf and m.role != "embedding"}
        seen = np.isfinite(recent.values).sum(axis=0) >= self.records
        known = [s for s, k in zip(recent.sites, seen, strict=True) if k and s in leaves]
        return by_depth(history, known)

    def _constant(self, history: History, recent: Table) -> list[Finding]:
        values = recent.values
        low = always(values < self.min_variation, values, records=self.records)
        if not low.any():
            return []
        sites = self._sites(history, recent)
        place = {site: index for index, site in enumerate(recent.sites)}
        hidden = [s for s in sites if is_hidden(history, s)]
        outputs = [s for s in sites if s not in set(hidden)]
        least = always(values < self.min_output_variation, values, records=self.records)
        last = hidden[-1:] if hidden and low[place[hidden[-1]]] else []
        last += [s for s in outputs[:1] if least[place[s]]]
        collapsed = [s for s in sites if low[place[s]]]
        if not last or not collapsed:
            return []
        site = collapsed[0]
        share = float(np.nanmedian(values[:, place[last[0]]]))
        return [
            self.finding(
                site=site,
                step=int(recent.steps[0]),
                what=f"the output of {last[0]} is the same for every input, but for {share:.1g} of "
                f"its RMS, and from {site} on all of it varies by less than {self.min_variation:g}",
                evidence=(
                    Evidence(
                        name="variation over the batch",
                        value=share,
                        normal=f">= {self.min_variation:g}",
                    ),
                ),
                cause="each layer loses what tells one input from another: initial weights too "
                "small for the activation, attention without residual connections, units that are "
                "dead or saturated, a learning rate that is too high, or inputs that are all alike",
                fix="initialise with trimtab.init.auto_(model), add residual connections and norm "
                "layers, lower the learning rate, and check that the inputs of a batch differ",
                remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
            )
        ]

    def _copies(self, history: History, recent: Table) -> list[Finding]:
        ranks = history.table("modules", "activation.rank").last(len(recent.steps)).values
        flags = always(ranks < self.min_rank, ranks, records=self.records)
        if not flags.any():
            return []
        place = {site: index for index, site in enumerate(recent.sites)}
        hidden = [s for s in self._sites(history, recent) if is_hidden(history, s)]
        hidden = [s for s in hidden if np.isfinite(ranks[:, place[s]]).any()]
        if len(hidden) < 2 or not all(flags[place[s]] for s in hidden):
            return []
        rank = float(np.nanmedian(ranks[:, [place[s] for s in hidden]]))
        return [
            self.finding(
                site=hidden[0],
                step=int(recent.steps[0]),
                what=f"all units of each of the {len(hidden)} hidden modules vary together: they "
                f"span {rank:.2f} directions",
                evidence=(
                    Evidence(
                        name="directions of the hidden output",
                        value=rank,
                        normal=f">= {self.min_rank:g}",
                    ),
                ),
                cause="the units of a layer are copies of one another, as after an initialisation "
                "with a constant: their gradients are equal, so training cannot tell them apart",
                fix="draw the initial weights at random (trimtab.init.auto_(model))",
                remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
            )
        ]
