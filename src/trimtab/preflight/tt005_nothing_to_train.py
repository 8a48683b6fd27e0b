"""TT005: a loss from which no gradient reaches any parameter."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class NothingToTrain(LiveRule):
    """No parameter is trainable, or no gradient of the loss reaches one.

    Why: everything is frozen, or the graph is cut between the model and the loss: by `detach()`,
    `.data`, `.item()`, `argmax`, NumPy, `torch.no_grad()` or a new tensor made from values.

    Measured: `requires_grad` of all parameters, and which of them the backward pass reaches.

    Fix: unfreeze what shall learn; compute the loss from the model's output itself.

    Source: Humbatova et al. 2020, arXiv:1910.11015 (taxonomy of real faults).
    """

    code: ClassVar[str] = "TT005"
    name: ClassVar[str] = "nothing-to-train"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.NO_LEARNING
    leads_to: ClassVar[tuple[str, ...]] = ("TT003", "TT001", "TT012", "TT023", "TT3")
    rank: ClassVar[int] = 15
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 3)
optimizer = torch.optim.Adam(model.parameters())
x, y = torch.randn(32, 8), torch.randint(3, (32,))


def loss_fn(output, y):
    return nn.functional.cross_entropy(output.detach(), y)


findings = trimtab.preflight(model, optimizer, loss_fn, (x, y)).findings
"""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding if nothing can be learnt."""
        total = len(subject.parameters)
        evidence = (
            Evidence(name="trainable parameters", value=len(subject.trainable), normal=">= 1"),
        )
        if not subject.trainable:
            yield self.finding(
                what=f"none of the model's {total} parameters requires a gradient"
                if total
                else "the model has no parameters",
                evidence=evidence,
                cause="All of them are frozen (requires_grad is False), or layers are kept where "
                "the model does not register them, such as a plain Python list.",
                fix="call requires_grad_(True) on what shall be trained, and keep layers in "
                "nn.ModuleList",
            )
            return
        reached = [n for n, norm in subject.passed.norms.items() if norm is not None]
        if not reached:
            yield self.finding(
                what=f"no gradient of the loss reaches any of {len(subject.trainable)} trainable "
                "parameters",
                evidence=(*evidence, Evidence(name="reached", value=0, normal=">= 1")),
                cause="The graph is cut between the model and the loss: by detach(), .data, "
                ".item(), argmax, NumPy, torch.no_grad() or a tensor made anew from values.",
                fix="compute the loss from the model's output itself with differentiable "
                "operations, outside of torch.no_grad()",
            )
