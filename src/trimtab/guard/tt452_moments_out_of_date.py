"""TT452 moments-out-of-date: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule


@register
@dataclass(frozen=True, kw_only=True)
class MomentsOutOfDate(IncidentRule):
    """The optimizer's memory made the run break; with fresh moments it goes on.

    Why: Adam divides by the root of its second moments. Where gradients have been tiny for
        long, they are out of date, and the first large gradient makes a step far too long.

    Measured: by replay. The steps before the incident are made again with the optimizer's state
        cleared, and the incident does not happen.

    Silent on: incidents that a less invasive change removes.

    Fix: lower beta2 (0.95 in place of 0.999), or use StableAdamW, which shortens such steps.

    Source: Wortsman et al. 2023, arXiv:2304.13013; Molybog et al. 2023, arXiv:2304.09871.
    """

    code: ClassVar = "TT452"
    name: ClassVar = "moments-out-of-date"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 40
