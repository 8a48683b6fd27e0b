"""TT418 partly-frozen: some weights get gradients and never change."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import values_at


@register
@dataclass(frozen=True, kw_only=True)
class PartlyFrozen(RunRule):
    """Some weights get gradients step after step and never change, while others do.

    Why: a part of the model is not trained, though it looks as if it were. Usually a param group
        has a learning rate of zero, or something restores these weights after each step.

    Measured: the update of each parameter in all records so far, exactly zero where its gradient
        is not.

    Silent on: parameters without gradient, embeddings and sparse gradients, low precision (another
        rule's), runs in which nothing moves (likewise).

    Fix: look at the learning rates of all param groups. To freeze a part on purpose, set
        `requires_grad_(False)`: that saves its gradients too.

    Source: Jiang et al. 2025, "TrainCheck", OSDI.
    """

    code: ClassVar = "TT418"
    name: ClassVar = "partly-frozen"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar = 41
    leads_to: ClassVar = ("TT304", "TT305")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
groups = [{"params": model[0].parameters(), "lr": 0.0}, {"params": model[2].parameters()}]
optimizer = torch.optim.SGD(groups, lr=0.1)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(40):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    records: int = 10
    """Records in which a parameter has to have had a gradient without changing."""
    smallest: float = 1e-6
    """Typical update ratio of the others below which float32 may round updates away."""
    dense: float = 0.9
    """Largest share of zeros in a gradient that is judged."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding that names all parameters that stand still."""
        table = history.table("parameters", "update.ratio")
        if len(table.steps) < self.records:
            return
        made = ~(values_at(history.series("step.skipped"), table.steps) > 0)
        still = ~(table.values[made] > 0).any(axis=0)
        if not still.any() or still.all():
            return
        moving = table.values[made][:, ~still]
        if np.median(moving[moving > 0]) < self.smallest:
            return  # where all updates are tiny, some round away
        norms = history.table("parameters", "gradient.norm").values[made]
        zeros = history.table("parameters", "gradient.zero_fraction").values[made]
        dense = (norms > 0) & ~(zeros > self.dense) & (table.values[made] == 0)
        facts = {p.name: p for p in history.setup.params}
        found = []
        for i in np.flatnonzero(still & (dense.sum(axis=0) >= self.records)):
            p = facts.get(table.sites[i])
            if p is None or (p.role != "embedding" and p.dtype in {"float32", "float64"}):
                found.append(table.sites[i])
        if not found:
            return
        yield self.finding(
            site=found[0],
            also=tuple(found[1:]),
            step=int(table.steps[0]),
            what=f"{len(found)} of {len(table.sites)} parameters got gradients in every record and "
            "never changed",
            evidence=(
                Evidence(name="parameters that stand still", value=len(found), normal="0"),
                Evidence(name="their largest update ratio", value=0.0, normal="about 1e-3"),
            ),
            cause="their param group has a learning rate of 0, or something restores them after "
            "each step",
            fix="look at the learning rate (lr) of all param groups; to freeze a part on purpose, "
            "set requires_grad_(False)",
            remedy=Fix(action="check_param_groups"),
        )
