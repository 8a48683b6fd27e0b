"""TT021: learning rates with which nothing can be learnt."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Evidence, Finding, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject


@register
@dataclass(frozen=True, kw_only=True)
class ZeroLearningRate(LiveRule):
    """A learning rate is zero and stays so, or is no usable number.

    Why: with a learning rate of 0 no step changes anything; a negative one climbs; NaN destroys the
    weights in one step. A schedule whose factor is 0, or that was built for far fewer steps, does
    the same to a learning rate that looks right.

    Measured: every param group's learning rate now, and along the schedule for up to 1,000 steps.

    Silent on: a warmup that starts at 0; param groups without trainable parameters.

    Fix: set a learning rate above 0; give the schedule the true number of steps.

    Source: TrainCheck, Jiang et al. 2025, arXiv:2506.14813.
    """

    code: ClassVar[str] = "TT021"
    name: ClassVar[str] = "zero-learning-rate"
    severity: ClassVar[Severity] = Severity.ERROR
    symptom: ClassVar[Symptom] = Symptom.NO_LEARNING
    leads_to: ClassVar[tuple[str, ...]] = ("TT3", "TT4")
    rank: ClassVar[int] = 20
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Linear(8, 3)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step // 100_000)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(
    model, optimizer, nn.CrossEntropyLoss(), (x, y), scheduler=scheduler
).findings
"""

    min_steps: int = 10
    """Steps, of up to 1,000, in which a learning rate has to be more than a millionth of its peak.
    Few, as a schedule may be meant for epochs: halving each time lasts 20."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding for each param group that cannot learn."""
        if not subject.optimizers:
            return
        for index, group, optimizer in subject.groups:
            lr = float(group["lr"])
            site = f"param group {index}"
            if not any(p.requires_grad for p in group["params"]):
                continue
            if not math.isfinite(lr) or lr < 0:
                yield self.finding(
                    what=f"the learning rate is {lr:g}",
                    site=site,
                    evidence=(Evidence(name="learning rate", value=lr, normal="> 0, finite"),),
                    cause="A negative learning rate climbs the loss, and NaN or infinity destroys "
                    "the weights in one step.",
                    fix="set a finite learning rate above 0",
                )
            elif optimizer is subject.optimizers[0]:
                yield from self._over_time(subject, index, site)
            elif lr == 0:
                yield self._dead(site, 0, "the learning rate is 0")

    def _over_time(self, subject: Subject, index: int, site: str) -> Iterator[Finding]:
        total = min(subject.settings.total_steps or 1000, 1000)
        rates = [step[index] for step in subject.rates(total)]
        alive = sum(rate > 1e-6 * max(rates) for rate in rates)
        if alive >= min(self.min_steps, len(rates)):
            return
        if alive == 0:
            what = f"the learning rate is 0 for the next {len(rates)} steps"
        else:
            what = f"the learning rate has died after {alive} of {len(rates)} steps"
        yield self._dead(site, alive, what)

    def _dead(self, site: str, alive: int, what: str) -> Finding:
        return self.finding(
            what=what,
            site=site,
            evidence=(
                Evidence(name="steps that can learn", value=alive, normal=f">= {self.min_steps}"),
            ),
            cause="With a learning rate of zero no step changes a weight. The scheduler's factor "
            "is 0, it was built for fewer steps, or the rate was never set.",
            fix="set a learning rate above 0 and give the scheduler the true number of steps",
        )
