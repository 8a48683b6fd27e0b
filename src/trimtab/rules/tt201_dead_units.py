"""TT201 dead-units: ReLU units that give zero for every input, and so learn no more."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History, Table
from trimtab.rules._persistence import always, lasting
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class DeadUnits(RunRule):
    """Units of a ReLU layer output zero for every input, so they learn no more.

    Why: a ReLU that is below zero passes no gradient, so a unit that is below it on every input is
        never moved again. Where all units of a layer are dead, nothing before it learns either.

    Measured: units that were zero on every sampled row of several records, some 256 rows or more,
        as a share of the layer, in every record over 40 steps.

    Silent on: zeros as such: sound ReLU layers are zero on 50 to 90 % of their outputs, and have up
        to half of their units dead where they are narrow or inputs are constant pixels. Sparse
        codes, whose living units fire on less than a tenth of the rows: silence proves nothing
        there. Layers whose living units are constant as well. Outputs that are zero by design, such
        as zero-initialised layers.

    Fix: lower the learning rate or warm up, initialise with `trimtab.init.he_`, start biases at 0,
        and use GELU or LeakyReLU in place of ReLU.

    Source: Lu et al. 2019, arXiv:1903.06733; He et al. 2015, arXiv:1502.01852.
    """

    code: ClassVar = "TT201"
    name: ClassVar = "dead-units"
    symptom: ClassVar = Symptom.DEAD_UNITS
    rank: ClassVar = 47
    leads_to: ClassVar = ("TT101", "TT108", "TT204", "TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
nn.init.constant_(model[0].bias, -20.0)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(80):
    x = torch.randn(64, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    max_share: float = 0.6
    """Largest healthy share of dead units. Sound runs on 5 % to 50 %; a learning rate that is far
    too high, or biases far below zero, leave 70 to 100 %."""
    all_dead: float = 0.995
    """Share from which on the whole layer counts as dead."""
    min_activity: float = 0.1
    """Share of the rows on which the living units fire, below which a code is sparse."""
    min_variation: float = 0.1
    """Variation of the output over the batch, as a share of its RMS, below which all units are
    nearly constant: the living ones as well. That has another cause (TT101, TT204)."""
    records: int = 4
    """Fewest records in a row."""
    steps: int = 40
    """Steps that they have to last."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield a finding for each layer with too many dead units."""
        recent = lasting(
            history.table("modules", "activation.dead_fraction"),
            records=self.records,
            steps=self.steps,
        )
        if recent is None:
            return
        dead = recent.values
        flags = always(dead > self.max_share, dead, records=self.records)
        if not flags.any():
            return
        zeros = history.table("modules", "activation.zero_fraction").last(len(recent.steps)).values
        varies = history.table("modules", "activation.variation").last(len(recent.steps)).values
        kinds = {m.name: (m.role, m.kind) for m in history.setup.modules}
        for index in np.flatnonzero(flags):
            site = recent.sites[index]
            role, kind = kinds.get(site, ("relu", ""))
            if role == "relu" or (role == "other" and "relu" in kind.lower()):
                share = float(np.nanmedian(dead[:, index]))
                whole = share >= self.all_dead
                if whole or self._is_alive(share, zeros[:, index], varies[:, index]):
                    yield self._found(recent, site, share, whole=whole)

    def _is_alive(self, share: float, zeros: np.ndarray, varies: np.ndarray) -> bool:
        """Tell whether the other units fire often, and not always alike."""
        activity = (1 - float(np.nanmedian(zeros))) / (1 - share)
        known = varies[~np.isnan(varies)]
        constant = bool(len(known)) and float(np.median(known)) < self.min_variation
        return activity >= self.min_activity and not constant

    def _found(self, recent: Table, site: str, share: float, *, whole: bool) -> Finding:
        what = "all units" if whole else f"{share:.0%} of the units"
        return self.finding(
            severity=Severity.ERROR if whole else Severity.WARNING,
            site=site,
            step=int(recent.steps[0]),
            what=f"{what} of this ReLU layer were zero on every input",
            evidence=(
                Evidence(name="share of dead units", value=share, normal=f"<= {self.max_share:g}"),
            ),
            cause=(
                "a ReLU that is below zero on every input passes no gradient"
                + (", so neither this layer nor anything before it learns" if whole else "")
                + ": the learning rate was too high, biases or inputs are far from zero, or the "
                "initial weights do not fit"
            ),
            fix="lower the learning rate or warm up, initialise again (trimtab.init.he_), "
            "normalise the inputs, or use GELU or LeakyReLU in place of ReLU",
            remedy=Fix(action="replace_activation", args={"site": site, "by": "GELU"}),
        )
