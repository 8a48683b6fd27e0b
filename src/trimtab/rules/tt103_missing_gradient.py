"""TT103 missing-gradient: parameters that the optimizer holds and no gradient ever reaches."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class MissingGradient(RunRule):
    """Trainable parameters that the optimizer holds have never had a gradient.

    Why: they stay as they were drawn. Nothing says so: the loss falls all the same, as far as the
        other parameters can take it.

    Measured: the gradient of each parameter in every record so far, and whether it has moved in
        between. One that has none in any of them, and stays where it was, while others have one, is
        not connected to the loss.

    Silent on: heads, experts and embeddings that take turns, frozen parameters. An expert or head
        that was never called, while its likes are called now and then, is advice only.

    Fix: look for `detach()`, `.data`, `.item()`, NumPy or `torch.no_grad()` between the parameter
        and the loss, and for a layer that is built but not called; freeze on purpose with
        `requires_grad_(False)`.
    """

    code: ClassVar = "TT103"
    name: ClassVar = "missing-gradient"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar = 20
    leads_to: ClassVar = ("TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

body, head = nn.Linear(8, 8), nn.Linear(8, 1)
model = nn.Sequential(body, head)
optimizer = torch.optim.Adam(model.parameters())
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(40):
    x = torch.randn(16, 8)
    optimizer.zero_grad()
    features = body(x).detach()
    trim.loss((head(features) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    records: int = 8
    """Fewest records without a gradient."""
    steps: int = 20
    """Steps that they have to last."""
    most_sites: int = 4
    """Parameters that are named in the text; the others are counted."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for all parameters that never had a gradient."""
        norms = history.table("parameters", "gradient.norm")
        if len(norms.steps) < self.records or norms.steps[-1] < norms.steps[0] + self.steps:
            return
        shares = history.table("parameters", "gradient.nonfinite_fraction").values
        weights = history.table("parameters", "weight.norm").values
        seen = ~(np.isnan(norms.values) & np.isnan(shares))  # a NaN gradient is one
        asked = np.isfinite(weights).sum(axis=0) >= self.records
        missing = asked & ~seen.any(axis=0)
        if not missing.any() or missing.all():
            return
        still = np.nanmax(weights[:, missing], axis=0) == np.nanmin(weights[:, missing], axis=0)
        flagged = {norms.sites[i] for i in np.flatnonzero(missing)[still]}
        held = [p for p in history.setup.params if p.trainable and p.group is not None]
        sites = [p.name for p in held if p.name in flagged]
        if not sites:
            return
        sometimes = seen.any(axis=0) & ~(seen | np.isnan(weights)).all(axis=0)
        idle = self._take_turns(sites, [norms.sites[i] for i in np.flatnonzero(sometimes)])
        yield self.finding(
            severity=Severity.ADVICE if idle else Severity.WARNING,
            site=sites[0],
            also=tuple(sites[1:]),
            step=int(norms.steps[0]),
            what=f"{self._list(sites)} had no gradient in any of {len(norms.steps)} records, while "
            "other parameters had one",
            evidence=(Evidence(name="records with a gradient", value=0.0, normal="nearly all"),),
            cause="its turn has never come, while others of its kind are used now and then"
            if idle
            else "the loss does not depend on them: the layer is not called, or a detach(), .data, "
            ".item() or no_grad() cuts the graph between it and the loss",
            fix="look at the routing or at the tasks that should use it"
            if idle
            else "call the layer, or take out what cuts the graph; if they are meant to stay as "
            "they are, freeze them with requires_grad_(False) and leave them out of the optimizer",
        )

    def _take_turns(self, sites: list[str], sometimes: list[str]) -> bool:
        """Tell whether each has likes, but for a number in the name, with a gradient at times."""
        kinds = {_kind(site) for site in sometimes}
        return all(_kind(site) in kinds for site in sites)

    def _list(self, sites: list[str]) -> str:
        rest = len(sites) - self.most_sites
        text = ", ".join(sites[: self.most_sites])
        return f"{text} and {rest} more" if rest > 0 else text


def _kind(site: str) -> str:
    return re.sub(r"\d+", "#", site)
