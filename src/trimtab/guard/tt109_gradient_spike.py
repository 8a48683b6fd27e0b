"""TT109 gradient-spike: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule


@register
@dataclass(frozen=True, kw_only=True)
class GradientSpike(IncidentRule):
    """A few gradients were so large that their steps broke the run; clipped, it goes on.

    Why: a clipping threshold that is far above the usual norm, or none, lets a rare gradient
        make a step that takes many to undo.

    Measured: by replay. The steps before the incident are made again with gradients clipped to
        their usual norm, and the incident does not happen.

    Silent on: incidents that a less invasive change removes, such as leaving out one batch.

    Fix: clip gradients to a norm near the usual one, or let the threshold follow the norms:
        AutoClip, ZClip.

    Source: Pascanu et al. 2013, arXiv:1211.5063; Seetharaman et al. 2020, arXiv:2007.14469.
    """

    code: ClassVar = "TT109"
    name: ClassVar = "gradient-spike"
    symptom: ClassVar = Symptom.EXPLODING_GRADIENT
    rank: ClassVar = 35
