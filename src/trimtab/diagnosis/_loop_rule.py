"""The base of rules over a loop body that was watched while it ran."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import Finding, Rule, Scope, Severity, Symptom


@dataclass(frozen=True, kw_only=True)
class LoopRule(Rule):
    """Judges the order of what a loop body did."""

    scope: ClassVar[Scope] = "loop"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar[tuple[str, ...]] = ("TT0", "TT1", "TT2", "TT3", "TT40", "TT411", "TT412")
    rank: ClassVar[int] = 20
    needs_loop: ClassVar[bool] = True
    """Whether it is only asked of a loop body that is the user's own."""

    @abstractmethod
    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield what is wrong."""

    def at(self, event: Event, *, what: str, **fields: Any) -> Finding:
        """Return a finding at the place of an event."""
        place = {"file": event.file, "line": event.line} if event.file else {}
        return self.finding(what=what, site="train_step", **place, **fields)


def windows(trace: Trace) -> list[list[Event]]:
    """Return the events between two optimizer steps, each window with the step that ends it."""
    found: list[list[Event]] = [[]]
    for event in trace.events:
        found[-1].append(event)
        if event.kind == "step":
            found.append([])
    return [w for w in found if w and w[-1].kind == "step"]


def of(events: Sequence[Event], *kinds: str) -> list[Event]:
    """Return the events of these kinds."""
    return [e for e in events if e.kind in kinds]


def example_of(body: str, *, before: str = "", steps: int = 20) -> str:
    """Return a program around a loop body, for the catalogue.

    Args:
        body: Source of `train_step`.
        before: Lines that it needs.
        steps: That it is watched for.
    """
    return f"""\
import torch
import trimtab

model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Dropout(0.1), torch.nn.Linear(16, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
loss_fn = torch.nn.CrossEntropyLoss()
batches = [(torch.randn(16, 8), torch.randint(3, (16,))) for _ in range(10)]
{before}

def train_step(model, optimizer, loss_fn, x, y):
{body.strip(chr(10))}
    return loss


findings = trimtab.diagnose(
    model, optimizer, loss_fn, batches, steps={steps}, train_step=train_step
).findings
"""
