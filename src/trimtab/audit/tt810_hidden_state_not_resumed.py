"""TT810 hidden-state-not-resumed: something else that the run depends on was not brought back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule, named, num_evidence, shown
from trimtab.audit._comparison import Comparison
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class HiddenStateNotResumed(ResumeRule):
    """Something beside model, optimizer, schedule, data and random states was not brought back.

    Why: a loss scale begins at 65536 again and skips steps until it has found its place; an average
        of weights (EMA) begins anew; a counter in a module or a loop body counts from 0; gradients
        of an accumulation window that was open are lost.

    Measured: by the `state_dict` of whatever the loop body has hold of, plain attributes of your
        own modules, and gradients where the interruption falls between two micro-batches. If none
        of these tells, and the run is another one all the same, that is said.

    Fix: save and load it too; end a session where an accumulation window ends.
    """

    code: ClassVar = "TT810"
    name: ClassVar = "hidden-state-not-resumed"
    rank: ClassVar = 25
    example: ClassVar = """\
import torch
from trimtab.audit import audit_resume
from trimtab.engine import TrainingSetup


def build(seed):
    torch.random.manual_seed(seed)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40, growth_interval=2)

    def train_step(model, optimizer, loss_fn, x, y):
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss

    batches = [(torch.ones(4, 8), torch.ones(4, 1))]
    return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches, train_step=train_step)


findings = audit_resume(build).findings
"""

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if other state differs, and one if gradients were lost."""
        found = runs.changed.get("others", [])
        if found:
            first = found[0]
            yield self.finding(
                what=f"{len(found)} further values are not what was saved: "
                f"{named([d.name for d in found])}",
                site=first.name,
                step=runs.begins,
                evidence=(
                    num_evidence("values that differ", found),
                    Evidence(name=first.name, value=shown(first.after), normal=shown(first.before)),
                ),
                cause="the training step depends on state that was not saved or not loaded, such "
                "as a loss scale, an average of weights or a counter",
                fix="save and load its state_dict() too; keep counters in buffers of the model",
            )
        lost = runs.changed.get("gradients", [])
        if lost and not runs.whole.steps[runs.stop - 1].updated:
            yield self.finding(
                what=f"gradients of {len(lost)} parameters are not what they were in the middle of "
                "an accumulation window",
                site=lost[0].name,
                step=runs.begins,
                evidence=(num_evidence("gradients that differ", lost),),
                cause="the run was interrupted between two micro-batches, whose gradients were not "
                "saved",
                fix="save where a window ends, after optimizer.step() and zero_grad(), or keep the "
                "gradients as trimtab.Stepper.state_dict() does",
            )

    def unexplained(self, runs: Comparison) -> Finding:
        """Return what is said if the run is another one and nothing tells why."""
        step = runs.differs_from
        return self.finding(
            what=f"the resumed run is another one from step {step} on, although all that is known "
            "of its state was brought back",
            step=step,
            evidence=(Evidence(name="first step that differs", value=step or 0, normal="none"),),
            cause="it depends on something beside model, optimizer, schedule, data and random "
            "states: a counter in the loop, a global variable, a file",
            fix="look for what the training step reads and save() does not save",
        )
