"""TT512 bad-batch: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule, example_of


@register
@dataclass(frozen=True, kw_only=True)
class BadBatch(IncidentRule):
    """The data of these steps are at fault: without them the incident does not happen.

    Why: a damaged shard, wrong labels, an example that is far out, or NaN in the data give a
        loss and gradients that have nothing to do with the task.

    Measured: by replay. On other batches the state of training is as good as before, or the
        steps before the incident, made again without this batch, go well.

    Silent on: single steps whose loss is high within the usual spread.

    Fix: look at these examples; the incident's folder has them. Filter such data out of the
        set.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1.
    """

    code: ClassVar = "TT512"
    name: ClassVar = "bad-batch"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 10
    example: ClassVar = example_of("if step == 60:\n    y = 100 * y.flip(0)")
