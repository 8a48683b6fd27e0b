"""TT002: parameters that are in the optimizer more than once."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class ParametersTwice(LiveRule):
    """The same parameter is in the optimizer twice, so every step moves it twice.

    Why: tied weights that are collected module by module, or two optimizers over the same layers,
    double the learning rate and the weight decay of what they share, and mix up its moments.

    Measured: tensors in all param groups of all optimizers are counted by identity.

    Fix: build param groups from `model.parameters()`, which yields shared parameters once.
    """

    code: ClassVar[str] = "TT002"
    name: ClassVar[str] = "parameters-twice"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar[int] = 22
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 3)
first = torch.optim.SGD(model.parameters(), lr=0.1)
second = torch.optim.SGD([model.weight], lr=0.1)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, [first, second], nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all that is there more than once."""
        counts = Counter(id(p) for p in subject.held)
        names = {id(p): n for n, p in subject.parameters.items()}
        twice = {
            names.get(i, "a tensor outside of the model"): c for i, c in counts.items() if c > 1
        }
        if not twice:
            return
        first, *others = twice
        yield self.finding(
            what=f"{len(twice)} parameters are in the optimizer more than once",
            site=first,
            also=tuple(others),
            evidence=(Evidence(name="times in param groups", value=twice[first], normal="1"),),
            cause="Every step moves them as often as they are listed, which multiplies their "
            "learning rate and weight decay.",
            fix="build the param groups from model.parameters(), which yields shared weights once, "
            "and give each parameter to one optimizer only",
        )
