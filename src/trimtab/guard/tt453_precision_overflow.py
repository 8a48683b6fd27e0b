"""TT453 precision-overflow: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule


@register
@dataclass(frozen=True, kw_only=True)
class PrecisionOverflow(IncidentRule):
    """A value left the range of the 16-bit format; in float32 the same step is sound.

    Why: float16 ends at 65,504. An activation or a loss beyond it becomes infinite, whatever
        the loss scale is.

    Measured: by replay. The step is made again in float32, and its loss and gradients are
        finite and ordinary.

    Silent on: the overflows by which a dynamic loss scale finds its level.

    Fix: train in bfloat16, which has the range of float32, or keep the operation in float32
        with `torch.autocast(..., enabled=False)`.

    Source: Micikevicius et al. 2018, arXiv:1710.03740.
    """

    code: ClassVar = "TT453"
    name: ClassVar = "precision-overflow"
    symptom: ClassVar = Symptom.NAN
    rank: ClassVar = 20
