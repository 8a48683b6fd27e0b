"""TT450 rate-jump: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule, example_of


@register
@dataclass(frozen=True, kw_only=True)
class RateJump(IncidentRule):
    """The learning rate rose suddenly, and the run broke; held at its former level, it goes on.

    Why: a schedule that was begun anew, a wrong unit, or a forgotten warm-up multiplies the
        rate from one step to the next. A network that has settled into a sharp valley is thrown
        out of it.

    Measured: by replay. The steps before the incident are made again with the learning rate
        held where it was before the jump, and the incident does not happen.

    Silent on: rates that rise slowly, as in a warm-up.

    Fix: look at what sets the learning rate at this step: the schedule's position after a
        resume, its unit (steps or epochs), or code that writes to the param groups.

    Source: Gilmer et al. 2021, arXiv:2110.04369.
    """

    code: ClassVar = "TT450"
    name: ClassVar = "rate-jump"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 15
    example: ClassVar = example_of("if step == 60:\n    optimizer.param_groups[0]['lr'] = 3.0")
