"""TT310 unexplained-incident: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule


@register
@dataclass(frozen=True, kw_only=True)
class UnexplainedIncident(IncidentRule):
    """The run was put back; no single change was found that removes the incident.

    Why: several causes may act together, the fault may lie before the oldest snapshot, or the
        steps could not be replayed.

    Measured: by replay, if the steps before the incident were kept: as they were, and with each
        change of the list.

    Silent on: incidents that one change removes.

    Fix: look at the incident's page: what every replay did is in its table. Then lower the
        learning rate, or warm up longer.
    """

    code: ClassVar = "TT310"
    name: ClassVar = "unexplained-incident"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 60
