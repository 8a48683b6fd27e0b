"""TT451 steps-too-long: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule, example_of


@register
@dataclass(frozen=True, kw_only=True)
class StepsTooLong(IncidentRule):
    """The run breaks at its learning rate, and does not at half of it.

    Why: the loss has become too sharp for the step size: the learning rate lies above the edge
        of stability.

    Measured: by replay. The steps before the incident are made again at half their learning
        rate, and the incident does not happen.

    Silent on: incidents that a less invasive change removes.

    Fix: lower the peak learning rate, or warm up longer.

    Source: Cohen et al. 2021, arXiv:2103.00065; Cohen et al. 2022, arXiv:2207.14484.
    """

    code: ClassVar = "TT451"
    name: ClassVar = "steps-too-long"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 30
    example: ClassVar = example_of(
        "if step > 40:\n    optimizer.param_groups[0]['lr'] *= 1.2",
        optimizer="torch.optim.SGD(model.parameters(), lr=0.05)",
    )
