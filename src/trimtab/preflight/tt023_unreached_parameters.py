"""TT023: layers that take part in the forward pass and get no gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class UnreachedParameters(LiveRule):
    """Some trainable parameters get no gradient from the loss.

    Why: where the first layers of the forward pass get none, while later ones do, the graph is cut
    in between: by `detach()`, `.data`, `torch.no_grad()`, rounding or a trip through NumPy. These
    layers stay random.

    Measured: which trainable parameters the backward pass reaches, and the order in which modules
    were called.

    Silent on: frozen parameters. Modules that were not called, or outputs that the loss does not
    use, are advice.

    Fix: take the `detach()` or `no_grad()` out of the forward pass, or freeze the layers on
    purpose.

    Source: TrainCheck, Jiang et al. 2025, arXiv:2506.14813.
    """

    code: ClassVar[str] = "TT023"
    name: ClassVar[str] = "unreached-parameters"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.NO_LEARNING
    leads_to: ClassVar[tuple[str, ...]] = ("TT1",)
    rank: ClassVar[int] = 19
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn


class Cut(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.first(x).relu().detach())


model = Cut()
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for all parameters that the loss does not reach."""
        norms = subject.passed.norms
        unreached = [n for n, norm in norms.items() if norm is None]
        if not unreached or len(unreached) == len(norms):
            return
        cut = self._cut(subject, set(unreached))
        named = cut or unreached
        yield self.finding(
            what=f"{len(named)} of {len(norms)} trainable parameters get no gradient"
            + (", though the forward pass uses them before others that do" if cut else ""),
            severity=Severity.WARNING if cut else Severity.ADVICE,
            site=named[0],
            also=tuple(named[1:]),
            evidence=(
                Evidence(name="parameters without a gradient", value=len(named), normal="0"),
            ),
            cause="The graph is cut behind them: by detach(), .data, torch.no_grad(), argmax, "
            "rounding or NumPy in the forward pass."
            if cut
            else "Their modules were not called on this batch, or the loss does not use what they "
            "return.",
            fix="take the detach() or no_grad() out of the forward pass, or freeze these "
            "parameters with requires_grad_(False)"
            if cut
            else "if that is meant, freeze them with requires_grad_(False)",
        )

    def _cut(self, subject: Subject, unreached: set[str]) -> list[str]:
        """Return the unreached parameters that were used before the first one that was reached.

        Without recording, as in a teacher or a target network, only those that an optimizer is to
        train count.
        """
        trained = set(map(id, subject.held))
        early = [
            f"{name}.{n}".lstrip(".")
            for name, module in subject.passed.unrecorded.items()
            for n, p in module.named_parameters()
            if id(p) in trained
        ]
        early = [n for n in early if n in unreached]
        for record in subject.passed.records:
            own = [f"{record.name}.{n}".lstrip(".") for n, _ in record.module.named_parameters()]
            trainable = [n for n in own if n in subject.trainable]
            if trainable and not any(n in unreached for n in trainable):
                return early
            early += [n for n in trainable if n in unreached]
        return []
