"""TT106 accumulating-gradients: each step's gradient still holds those of all steps before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class AccumulatingGradients(RunRule):
    """Gradients are never cleared, so each step follows the sum of all gradients so far.

    Why: `backward()` adds to `.grad`. Without `zero_grad()` the oldest batches count as much as the
        newest, the step grows with every step, and the loss swings or runs away once the sum points
        somewhere else than the slope.

    Measured: the gradient norm grows in proportion to the number of steps, from the very first one
        until clipping holds it, without the jitter that one batch after the other brings, and two
        gradients some steps apart point the same way: the noise scale, which is the variance of a
        step's gradient over its squared mean and between 1 and 100 in most runs, is near 0.

    Silent on: training on the whole data set, whose gradients are as smooth but do not grow so;
        gradients that grow while a zero-initialised layer opens.

    Fix: call `optimizer.zero_grad()` once for each step, before `backward()`; with accumulation,
        after each `optimizer.step()`.
    """

    code: ClassVar = "TT106"
    name: ClassVar = "accumulating-gradients"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar = 20
    leads_to: ClassVar = ("TT102", "TT104", "TT2", "TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.Adam(model.parameters())
trim = trimtab.attach(model, optimizer, clip=None, out=None, watch=2)
for step in range(40):  # optimizer.zero_grad() is missing
    x = torch.randn(32, 8)
    trim.loss((model(x) - x.sum(1, keepdim=True)).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    steps: int = 20
    """First steps that are looked at, or those until the first clipped one."""
    min_steps: int = 5
    """Fewest steps that show a trend."""
    least_pace: float = 0.45
    """Norm of step t over t times that of the first steps: 1 if all gradients were the same, and
    1/sqrt(t) if they had nothing in common. Runs without `zero_grad` have 0.5 to 1."""
    most_pace: float = 1.6
    """What grows faster than the number of its terms is no sum of them."""
    max_jitter: float = 0.07
    """Typical change of the log of the norm between two of these steps, beyond the growth: 0.01 to
    0.035 in a sum, 0.08 to 0.5 for single batches."""
    max_noise: float = 1.0
    """Gradient noise scale, as known after three times as many steps: a running mean that falls
    from 1 to 0.05 in a sum, and stays above 1.5 for single batches."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the first gradients are sums of those before them."""
        norms = history.series("gradient.norm")
        clipped = history.series("gradient.clip_coefficient").values[: self.steps] < 1
        end = int(np.flatnonzero(clipped)[0]) + 1 if clipped.any() else self.steps
        first = norms.values[:end]
        if not len(first) or norms.steps[0] != 1 or len(norms.steps) < self.steps:
            return
        if len(first) < self.min_steps or not (np.isfinite(first) & (first > 0)).all():
            return
        noise = history.series("gradient.noise_scale").values[: 3 * self.steps]
        noise = noise[np.isfinite(noise)]
        if not len(noise) or noise[-1] > self.max_noise or not self._is_sum(first):
            return
        growth = float(first[-1] / first[0])
        yield self.finding(
            step=2,
            what=f"the gradient norm grew {growth:.2g}-fold within the first {len(first)} steps, "
            "in step with their number, and each gradient points where the one before did",
            evidence=(
                Evidence(
                    name="gradient noise scale",
                    value=float(noise[-1]),
                    normal=f">= {self.max_noise:g}",
                ),
                Evidence(name="growth of the gradient norm", value=growth, normal="about 1"),
            ),
            cause="gradients are not cleared between steps, so each one is the sum of all so far: "
            "zero_grad() is missing, or clears another optimizer's parameters",
            fix="call optimizer.zero_grad() before each backward(), or after each optimizer.step() "
            "if several backward passes make one step",
            remedy=Fix(action="zero_gradients"),
        )

    def _is_sum(self, norms: np.ndarray) -> bool:
        """Tell whether norms grow like those of a sum of so many gradients."""
        count = np.arange(1, len(norms) + 1)
        pace = (norms / (norms[0] * count))[2:]
        paced = bool((pace > self.least_pace).all() and (pace < self.most_pace).all())
        growth = np.diff(np.log(norms)) - np.diff(np.log(count))
        return paced and float(np.median(np.abs(growth[2:]))) < self.max_jitter
