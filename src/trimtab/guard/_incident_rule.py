"""The base of the causes that the guard names after it has replayed the last steps."""

from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Rule, Scope, Severity, Symptom


@dataclass(frozen=True, kw_only=True)
class IncidentRule(Rule):
    """A cause of an incident; found by replays, not by looking at signals."""

    scope: ClassVar[Scope] = "incident"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.LOSS_SPIKE
    leads_to: ClassVar[tuple[str, ...]] = ("TT1", "TT2", "TT3")
    rank: ClassVar[int] = 15


def example_of(
    fault: str, *, optimizer: str = "torch.optim.Adam(model.parameters(), lr=0.01)"
) -> str:
    """Return a program in which a guarded run meets a fault, for the catalogue.

    Args:
        fault: Lines at the head of the loop's body, where `step` counts from 1.
        optimizer: What makes the optimizer.
    """
    lines = "".join(f"    {line}\n" for line in fault.strip("\n").splitlines())
    return f"""\
import torch
import trimtab

draw = torch.Generator().manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1))
optimizer = {optimizer}
stepper = trimtab.Stepper(model, optimizer, schedule="constant", guard="spike")
for step in range(1, 101):
    x = torch.randn(64, 8, generator=draw)
    y = x.sum(1, keepdim=True) + 0.1 * torch.randn(64, 1, generator=draw)
{lines}    stepper.backward(lambda: torch.nn.functional.mse_loss(model(x), y))
    stepper.step()
findings = [incident.finding for incident in stepper.guard.incidents]
"""
