"""TT004: weight decay that pulls norms and biases towards zero."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import torch

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.optim import no_decay_params
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject

DECOUPLED: Final = frozenset({"AdamW", "StableAdamW", "Lion", "LAMB", "Lamb", "SGDW", "Adafactor"})
ADAPTIVE: Final = frozenset({"Adam", "NAdam", "RAdam", "Adamax", "Adagrad", "RMSprop", "Adadelta"})


@register
@dataclass(frozen=True, kw_only=True)
class DecayOnNorms(LiveRule):
    """Weight decay pulls the scales of norms, or biases, towards zero.

    Why: a norm's weight multiplies everything that passes, and a bias has no size to control; decay
    pulls both towards a function that ignores its input, and regularises nothing. Strong decay with
    many steps shows as a norm weight far below 1 and a signal that fades.

    Measured: parameters of norms, by module type, and those of fewer than two dimensions are looked
    up in param groups whose `weight_decay` is not 0. PyTorch's own default (0.01 in AdamW) and the
    usual 5e-4 of SGD on everything are healthy, so they are advice.

    Fix: build the optimizer from `trimtab.optim.param_groups(model, weight_decay)`.

    Source: Loshchilov & Hutter 2019, arXiv:1711.05101; He et al. 2019, arXiv:1812.01187, section
    3.1 (no bias decay).
    """

    code: ClassVar[str] = "TT004"
    name: ClassVar[str] = "decay-on-norms"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 24
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 3))
optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    max_decoupled: float = 0.01
    """Largest decoupled decay that is only advice: PyTorch's default in AdamW."""
    max_adaptive: float = 0.005
    """The same for decay added to the gradient of an adaptive optimizer, which normalises it: there
    the usual 0.01 already outweighs small gradients."""
    max_coupled: float = 1e-3
    """The same for SGD; twice the 5e-4 of the usual recipe."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all that is decayed, by its strongest decay."""
        spared = {id(p): n for n, p in no_decay_params(subject.model)}
        found = [
            (self._is_strong(group, optimizer), float(group["weight_decay"]), spared[id(p)], index)
            for index, group, optimizer in subject.groups
            if group.get("weight_decay")
            for p in group["params"]
            if id(p) in spared
        ]
        if not found:
            return
        strong = any(s for s, *_ in found)
        worst = max(decay for s, decay, *_ in found if s is strong)
        index = next(i for *_, i in found)
        names = [name for _, _, name, _ in found]
        limit = "0 for norms and biases"
        yield self.finding(
            what=f"weight decay {worst:g} of param group {index} acts on {len(found)} norm weights "
            "and biases",
            severity=Severity.WARNING if strong else Severity.ADVICE,
            site=names[0],
            also=tuple(names[1:]),
            evidence=(Evidence(name="weight decay", value=worst, normal=limit),),
            cause="It pulls norm weights and biases towards zero, and with them the signal, and "
            "regularises nothing.",
            fix="build the optimizer from trimtab.optim.param_groups(model, "
            f"weight_decay={worst:g}), which leaves norms and biases out",
            remedy=Fix(action="split_weight_decay", args={"weight_decay": worst}),
        )

    def _is_strong(self, group: dict[str, Any], optimizer: torch.optim.Optimizer) -> bool:
        names = {cls.__name__ for cls in type(optimizer).__mro__}
        decay = float(group["weight_decay"])
        if group.get("decoupled_weight_decay") or names & DECOUPLED:
            return decay > self.max_decoupled
        return decay > (self.max_adaptive if names & ADAPTIVE else self.max_coupled)
