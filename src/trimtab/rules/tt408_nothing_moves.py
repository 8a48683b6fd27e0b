"""TT408 nothing-moves: steps are made, and no weight changes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import Floats, History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import values_at


@register
@dataclass(frozen=True, kw_only=True)
class NothingMoves(RunRule):
    """Optimizer steps are made, and no weight ever changes.

    Why: the model stays what it was at the start, while the loop runs on and looks alive.

    Measured: the update of every parameter in every record so far is exactly zero, and no step was
        left out. Learning rate and gradients tell why.

    Silent on: a learning rate of zero in the first steps of a warm-up or at the end of a schedule,
        steps left out because a gradient was not finite, losses of exactly zero.

    Fix: where the learning rate is 0, set it, and see to it that the schedule multiplies it by more
        than 0. Where there is no gradient, call `backward()` on a loss that depends on the model,
        and let the optimizer hold `model.parameters()` of this very model. Where there is one, look
        for weights that something restores after each step.

    Source: Jiang et al. 2025, "TrainCheck", OSDI.
    """

    code: ClassVar = "TT408"
    name: ClassVar = "nothing-moves"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar = 20
    leads_to: ClassVar = ("TT10", "TT304", "TT305", "TT409", "TT418")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(30):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1]).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    records: int = 4
    """Records after the first, all without a change."""
    steps: int = 10
    """Steps that have to have passed."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if no record so far shows a change."""
        table = history.table("parameters", "update.ratio")
        if len(table.steps) <= self.records or table.steps[-1] < self.steps:
            return
        if np.nanmax(table.values, initial=0.0) > 0:
            return
        unknown = not np.isfinite(table.values).any()
        skipped = values_at(history.series("step.skipped"), table.steps) > 0
        loss = history.series("loss").values
        if unknown or skipped.mean() > 0.5 or (loss == 0).all():
            return
        rate = _largest(history.series("learning_rate").values)
        norms = history.table("parameters", "gradient.norm").values
        if rate == 0:
            yield self._rate_is_zero(int(table.steps[0]), len(table.steps))
        else:
            yield self._stands_still(int(table.steps[0]), len(table.steps), norms)

    def _rate_is_zero(self, step: int, count: int) -> Finding:
        return self.finding(
            step=step,
            what=f"the learning rate is 0, and no weight has changed in {count} records",
            evidence=(Evidence(name="learning rate", value=0.0, normal="> 0"),),
            cause="a step along the gradient has the length of the learning rate: none",
            fix="set the learning rate, and see to it that the schedule does not multiply it by 0",
            remedy=Fix(action="set_learning_rate", args={"lr": 1e-3}),
        )

    def _stands_still(self, step: int, count: int, norms: Floats) -> Finding:
        largest = _largest(norms)
        given = float((np.nan_to_num(norms) > 0).any(axis=0).mean()) if norms.size else 0.0
        if largest > 0:
            cause = (
                "gradients are there, and the learning rate is not 0, but the steps do not reach "
                "the weights: something restores them, or updates are too small for their precision"
            )
            fix = (
                "look for code that loads, copies or averages weights after each step, and keep "
                "weights in float32"
            )
        else:
            cause = (
                "no parameter of the optimizer gets a gradient: the loss does not depend on them, "
                "backward() is missing, zero_grad() comes before step(), or they belong to another "
                "model"
            )
            fix = (
                "call backward() on a loss that was computed with this model, and build the "
                "optimizer from model.parameters() after the model has its final form"
            )
        return self.finding(
            step=step,
            what=f"no weight has changed in {count} records, and {given:.0%} of the parameters "
            "ever had a gradient",
            evidence=(
                Evidence(name="largest update ratio", value=0.0, normal="about 1e-3"),
                Evidence(name="largest gradient norm", value=largest, normal="> 0"),
            ),
            cause=cause,
            fix=fix,
            remedy=Fix(action="check_optimizer"),
        )


def _largest(values: Floats) -> float:
    """Return the largest finite value; NaN if there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.max()) if len(finite) else float("nan")
