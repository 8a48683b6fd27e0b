"""TT410 edge-of-stability: the curvature is too sharp for the learning rate."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._setup import GroupFacts
from trimtab.rules._updates import values_at


@register
@dataclass(frozen=True, kw_only=True)
class EdgeOfStability(RunRule):
    """The loss is more sharply curved than steps of this learning rate can bear.

    Why: along a direction of curvature s, gradient descent with learning rate r is stable only
        while r s is below 2. Above, each step overshoots by more than the last, and the loss rises
        until it diverges, or until it has bounced to a flatter place.

    Measured: the sharpness (largest eigenvalue of the Hessian; for Adam of the Hessian
        preconditioned by its second moments) times the learning rate, against 2 + 2 beta over one
        minus dampening: 2 for gradient descent, 2 + 2 m with momentum m, (2 + 2 b) / (1 - b) for
        Adam with beta1 b, which is 38 at 0.9. It has to be above by a margin in two measurements.

    Silent on: runs without a measurement of curvature, and runs that hover at the edge, as
        full-batch training does in health.

    Fix: divide the learning rate by the excess, warm it up so that the sharpness can fall first, or
        clip gradients.

    Source: Cohen et al. 2021, arXiv:2103.00065; Cohen et al. 2022, arXiv:2207.14484; Gilmer et al.
        2021, arXiv:2110.04369.
    """

    code: ClassVar = "TT410"
    name: ClassVar = "edge-of-stability"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 38
    leads_to: ClassVar = ("TT10", "TT301", "TT302", "TT303", "TT306", "TT401", "TT406", "TT407")
    example: ClassVar = """\
from trimtab.rules import GroupFacts, Judge, Setup
from trimtab.signals import StepRecord

group = GroupFacts(optimizer="SGD", lr=0.1)
judge = Judge(Setup(params=(), modules=(), groups=(group,)))
for step in (10, 20, 30):  # as measured by preflight(..., curvature=True) and its like
    judge.see(StepRecord(step, {"learning_rate": 0.1, "curvature.sharpness": 60.0}))
findings = judge.findings
"""

    margin: float = 1.5
    """Times the limit: at the edge itself the sharpness hovers 10 to 20 % above, and the loss of
    mini-batches bears more."""
    times: int = 2
    """Measurements in a row."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the newest measurements are beyond the edge."""
        sharpness = history.series("curvature.sharpness").known()
        groups = history.setup.groups
        if len(sharpness.values) < self.times or not groups:
            return
        rates = values_at(history.series("learning_rate").known(), sharpness.steps)
        limit = stability_limit(groups[0])
        product = (rates * sharpness.values)[-self.times :]
        if limit is None or not (product > self.margin * limit).all():
            return
        excess = float(np.median(product)) / limit
        yield self.finding(
            step=int(sharpness.steps[-self.times]),
            what=f"learning rate x sharpness is {np.median(product):.3g}, and beyond {limit:.3g} "
            f"{groups[0].optimizer} is unstable",
            evidence=(
                Evidence(name="learning rate x sharpness", value=float(np.median(product)),
                         normal=f"<= {limit:.3g}"),
            ),
            cause="the learning rate is too high for the curvature: along the sharpest direction "
            "each step overshoots by more than the last",
            fix=f"divide the learning rate by {excess:.2g}, or warm it up so that the sharpness "
            "falls first",
            remedy=Fix(action="scale_learning_rate", args={"factor": float(f"{1 / excess:.2g}")}),
        )  # fmt: skip


def stability_limit(group: GroupFacts) -> float | None:
    """Return the largest stable product of learning rate and sharpness; None where none is known.

    Source: Cohen et al. 2021, arXiv:2103.00065, appendix B; 2022, arXiv:2207.14484, equation 3.
    """
    name = group.optimizer.lower()
    if group.beta1 is not None and "adam" in name:
        return (2 + 2 * group.beta1) / (1 - group.beta1)
    return 2 + 2 * group.momentum if "sgd" in name else None
