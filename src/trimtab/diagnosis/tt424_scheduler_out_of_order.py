"""TT424 scheduler-out-of-order: the schedule moves before the optimizer."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Trace
from trimtab.findings import Evidence, Finding, Severity, register


@register
@dataclass(frozen=True, kw_only=True)
class SchedulerOutOfOrder(LoopRule):
    """The learning-rate schedule moves before the optimizer steps.

    Why: the first value of the schedule is never used, and with a scheduler that depends on skipped
        steps or metrics the two run out of phase.

    Measured: in the loop body's own calls: `scheduler.step()` before the `optimizer.step()` of the
        same call, from the first step on.

    Silent on: a schedule that moves at the start of a later call, such as once an epoch; a first
        step that a GradScaler left out.

    Fix: call `scheduler.step()` after `optimizer.step()`.

    Source: PyTorch, `torch.optim`, "How to adjust learning rate".
    """

    code: ClassVar = "TT424"
    name: ClassVar = "scheduler-out-of-order"
    severity: ClassVar = Severity.WARNING
    leads_to: ClassVar = ()
    example: ClassVar = example_of(
        """
    scheduler.step()  # before the optimizer
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
""",
        before="scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)",
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if the schedule moves first, from the first step on."""
        steps = windows(trace)
        before = [[e for e in of(w, "schedule") if e.call == w[-1].call] for w in steps]
        early = [events[0] for events in before if events]
        if len(early) < 2 or not before[0]:
            return
        yield self.at(
            early[0],
            what="scheduler.step() came before optimizer.step(), already in the first step",
            evidence=(Evidence(name="schedule steps before the first optimizer step", value=1.0,
                               normal="0"),),
            cause="the schedule runs one step ahead, so its first learning rate is never used",
            fix="call scheduler.step() after optimizer.step()",
        )  # fmt: skip
