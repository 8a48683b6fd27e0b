"""TT603 state-corrupted: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule, example_of


@register
@dataclass(frozen=True, kw_only=True)
class StateCorrupted(IncidentRule):
    """Something outside changed the state: the same steps, made again, go well.

    Why: a flipped bit in memory, a failing device, a rank that sent garbage, or code that
        writes into parameters, gradients or the optimizer's state.

    Measured: by replay. As they were, the steps do not give the recorded losses and norms
        again, and the incident does not happen. On a CPU a replay is otherwise equal bit for
        bit.

    Silent on: runs that repeat, however badly they go.

    Fix: test the machine (memory, device) and take it out of service if it happens again; look
        for code that changes parameters between steps.

    Source: Dixit et al. 2021, arXiv:2102.11245; Hochschild et al. 2021, "Cores that don't
        count", HotOS.
    """

    code: ClassVar = "TT603"
    name: ClassVar = "state-corrupted"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 5
    example: ClassVar = example_of("if step == 60:\n    model[2].weight.data[0, 0] *= 1e4")
