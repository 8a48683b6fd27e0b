"""TT811 steps-not-resumed: the resumed run makes another number of steps."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import ResumeRule
from trimtab.audit._comparison import Comparison
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class StepsNotResumed(ResumeRule):
    """The resumed run makes another number of steps than were left.

    Why: a loop that counts from 0 after every interruption trains too long, and whatever goes by
        the step's number (schedule, evaluation, checkpoints) is at the wrong place. One that finds
        itself finished trains no more.

    Measured: by counting the optimizer's steps after resuming.

    Fix: save the number of the step, and begin the loop there.
    """

    code: ClassVar = "TT811"
    name: ClassVar = "steps-not-resumed"
    rank: ClassVar = 15
    leads_to: ClassVar = ("TT807",)
    example: ClassVar = """\
import torch
from trimtab.audit import audit_resume
from trimtab.engine import TrainingSetup


def build(seed):
    torch.random.manual_seed(seed)
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    batches = [(torch.ones(4, 8), torch.ones(4, 1))]
    return TrainingSetup(model, optimizer, torch.nn.MSELoss(), batches)


def run(setup, num_steps, folder):
    path = folder / "model.pt"
    if path.exists():
        setup.model.load_state_dict(torch.load(path))
    for step in range(num_steps):  # always from 0
        for x, y in setup.batches:
            setup.optimizer.zero_grad()
            setup.loss_fn(setup.model(x), y).backward()
            setup.optimizer.step()
    torch.save(setup.model.state_dict(), path)


findings = audit_resume(build, run=run).findings
"""

    def check(self, runs: Comparison) -> Iterator[Finding]:
        """Yield one finding if the number of steps differs."""
        wanted, made = len(runs.rest), len(runs.resumed.steps)
        if made == wanted or runs.resumed.error:
            return
        anew = made == len(runs.whole.steps)
        yield self.finding(
            what=f"the resumed run made {made} optimizer steps, but {wanted} were left"
            + (": it began anew" if anew else ""),
            step=runs.begins,
            evidence=(Evidence(name="steps after resuming", value=made, normal=str(wanted)),),
            cause="the number of the step was not saved or not loaded",
            fix="save the number of steps made, and begin the loop there after loading",
        )
