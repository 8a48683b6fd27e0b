"""TT209 attention-logits-unbounded: found by replaying the steps before an incident."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Symptom, register
from trimtab.guard._incident_rule import IncidentRule


@register
@dataclass(frozen=True, kw_only=True)
class AttentionLogitsUnbounded(IncidentRule):
    """Attention logits grew without bound and broke the run; capped, it goes on.

    Why: nothing in plain attention bounds the dot product of queries and keys. When it grows,
        attention becomes one-hot, and its gradient vanishes or explodes.

    Measured: by replay. The steps before the incident are made again with logits capped at 50
        in trimtab's own attention layers, and the incident does not happen.

    Silent on: models without trimtab's attention layers, and those with normalised queries and
        keys.

    Fix: normalise queries and keys (`qk_norm=True`), or cap the logits (`softcap=50`).

    Source: Dehghani et al. 2023, arXiv:2302.05442; Wortsman et al. 2023, arXiv:2309.14322.
    """

    code: ClassVar = "TT209"
    name: ClassVar = "attention-logits-unbounded"
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 35
