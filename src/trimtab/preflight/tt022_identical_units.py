"""TT022: units that start alike and stay alike."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject
from trimtab.preflight._trials import run_overfit


@register
@dataclass(frozen=True, kw_only=True)
class IdenticalUnits(LiveRule):
    """All units of a layer have the same weights, and still have after some steps.

    Why: units with equal weights get equal gradients, so they stay equal for ever, and the layer
    counts as one unit. With all weights zero not even that one learns.

    Measured: matrices whose rows are all the same at the start, and again after the steps that
    overfit a few examples.

    Silent on: layers that start at zero but come apart, as heads and last layers of residual
    branches do.

    Fix: draw the weights at random: `trimtab.init.auto_(model)`.

    Source: Goodfellow, Bengio & Courville 2016, "Deep Learning", section 8.4 (breaking symmetry).
    """

    code: ClassVar[str] = "TT022"
    name: ClassVar[str] = "identical-units"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.NO_LEARNING
    leads_to: ClassVar[tuple[str, ...]] = ("TT006", "TT012", "TT1", "TT2", "TT3")
    rank: ClassVar[int] = 29
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
for p in model.parameters():
    nn.init.constant_(p, 0.1)
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all layers whose units do not come apart."""
        if subject.settings.overfit_s <= 0 or not subject.measured.has_gradient:
            return
        trial = subject.once(run_overfit)
        if trial is None or not trial.identical:
            return
        first, *others = trial.identical
        weight = subject.parameters[first]
        value = float(weight.detach().reshape(-1)[0])
        yield self.finding(
            what=f"all {weight.shape[0]} units of {first} have the same weights, and still had "
            f"them after {trial.steps} steps",
            site=first,
            also=tuple(others),
            evidence=(Evidence(name="first weight", value=value, normal="random"),),
            cause="Units that start with identical (constant or zero) weights get the same "
            "gradient, so the symmetry between them is never broken.",
            fix="initialise with random weights, by trimtab.init.auto_(model)",
        )
