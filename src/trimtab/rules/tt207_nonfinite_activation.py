"""TT207 nonfinite-activation: the first module whose output is NaN or infinite."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._depth import by_depth
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import values_at


@register
@dataclass(frozen=True, kw_only=True)
class NonfiniteActivation(RunRule):
    """A module's output is NaN or infinite; of several, the first in the forward pass is named.

    Why: everything after it is NaN as well, and so is the loss. The first module is where it
        happened, or where it came in from outside.

    Measured: the sampled outputs of all modules, in the first record that shows any, in forward
        order. Sampling can miss single elements; loss and gradient cannot, and are looked at too.

    Silent on: infinite values that do no harm, such as a mask of minus infinity: there loss and
        gradient stay finite.

    Fix: if the inputs are NaN, clean them; if activations had grown before, lower the learning rate
        and add norms; in fp16, keep this module in float32; guard `log`, `sqrt`, `exp` and
        divisions.
    """

    code: ClassVar = "TT207"
    name: ClassVar = "nonfinite-activation"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NAN
    rank: ClassVar = 58
    leads_to: ClassVar = ("TT107", "TT3")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

class Log(nn.Module):
    def forward(self, x):
        return x.log()  # of a negative number: NaN

model = nn.Sequential(nn.Linear(8, 8), Log(), nn.Linear(8, 1))
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(5):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the first module that gave out a value not finite."""
        table = history.table("modules", "activation.nonfinite_fraction")
        bad = table.values > 0  # False for NaN
        rows = np.flatnonzero(bad.any(axis=1))
        if not len(rows):
            return
        norms = values_at(history.series("gradient.norm"), table.steps[rows])
        losses = values_at(history.series("loss"), table.steps[rows])
        harmed = rows[~np.isfinite(norms) | np.isinf(losses)]
        if not len(harmed):
            return
        row = int(harmed[0])
        leaves = {m.name for m in history.setup.modules if m.leaf}
        sites = [table.sites[i] for i in np.flatnonzero(bad[row])]
        ordered = by_depth(history, [s for s in sites if s in leaves] or sites)
        site = ordered[0]
        share = float(table.values[row, table.sites.index(site)])
        first = self._is_first(history, site)
        yield self.finding(
            site=site,
            step=int(table.steps[row]),
            what=f"{share:.0%} of the outputs of this module were NaN or infinite, "
            f"the first of {len(sites)} modules in forward order",
            evidence=(Evidence(name="share of outputs not finite", value=share, normal="0"),),
            cause="it is the first module, so NaN or infinite values came in with the inputs, or "
            "its weights are not finite"
            if first
            else "the modules before it gave out sound values, so it happened here: a log or sqrt "
            "of a negative number, a division by 0, an overflow, or weights that are not finite",
            fix="look for NaN in the inputs; clamp the arguments of log, sqrt, exp and divisions; "
            "if activations had grown before, lower the learning rate; in fp16, keep this module "
            "in float32",
            remedy=Fix(action="detect_anomaly", args={"site": site}),
        )

    def _is_first(self, history: History, site: str) -> bool:
        order = history.order
        return bool(order) and order[0] == site
