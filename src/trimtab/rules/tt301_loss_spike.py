"""TT301 loss-spike: the loss jumps up, and comes back."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import Floats, History
from trimtab.rules._loss_curve import is_interleaved, loss_curve, spread
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class LossSpike(RunRule):
    """The loss jumped far above its noise for some steps, and came back.

    Why: for a moment the weights were thrown out of the region they had found, by a batch unlike
        the others or by a step that was too large for the curvature. What was learnt is partly
        lost, and spikes tend to become larger until one does not come back.

    Measured: against median and robust spread of up to 64 losses before, which a spike does not
        move. Three of five steps in a row have to be far above, and the jump has to undo a part of
        the progress since the start. A single step very far above is advice: its
        batch was unlike the others, but did no harm.

    Silent on: noisy losses of small batches, a falling loss, and the mild rise at a restart of the
        learning rate.

    Fix: clip gradients by their global norm, lower the learning rate or warm it up longer, and look
        at the batch of that step. With Adam, lower beta2 to 0.95, so that second moments follow.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1; Wortsman et al. 2023,
        arXiv:2304.13013; Molybog et al. 2023, arXiv:2304.09871.
    """

    code: ClassVar = "TT301"
    name: ClassVar = "loss-spike"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 85
    leads_to: ClassVar = ("TT302", "TT303")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trim = trimtab.attach(model, optimizer, clip=None, guard=None, out=None, watch=2)
w = torch.arange(8.0)[:, None]
for step in range(100):
    x = torch.randn(32, 8)
    y = x @ w if step != 70 else 1000 * torch.randn(32, 1)  # one batch of garbage
    optimizer.zero_grad()
    trim.loss((model(x) - y).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    window: int = 60
    """Newest steps that are looked at."""
    baseline: int = 64
    """Steps before them that they are compared with."""
    least: int = 32
    """Steps that are needed for a comparison."""
    z: float = 7.0
    """Robust deviations above the median that three of five steps in a row have to exceed. The
    spike score of OLMo 2 (2024, arXiv:2501.00656) counts from 7."""
    z_single: float = 20.0
    """Robust deviations that one step alone has to exceed."""
    over_largest: float = 1.5
    """Height of a spike over that of the highest loss before it: noise may have a heavy tail."""
    delay: int = 8
    """Steps after the top before a spike is judged: whether it lasted, and came back."""
    share: float = 0.1
    """Part of the progress since the start that the jump has to undo."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if there was a spike in the newest steps that is over."""
        curve = loss_curve(history)
        start = max(self.least, len(curve.values) - self.window)
        before = curve.values[max(0, start - self.baseline) : start]
        newest, steps = curve.values[start:], curve.steps[start:]
        if len(newest) < 8 or is_interleaved(history):
            return
        level = float(np.median(before))
        height = newest - level
        highest = float(before[len(before) // 2 :].max()) - level  # of a tail that is heavy
        least = max(self.share * abs(curve.start - level), self.over_largest * highest)
        if height.max() <= least:
            return
        noise = _noise(before)
        far = _sustained(height, max(self.z * noise, least))
        lasting = bool(far.any())
        if not lasting:
            far = height > max(self.z_single * noise, 2 * least)
        if not far.any():
            return
        top = int(height.argmax())
        if np.median(height[-5:]) > 0.3 * height[top] or top >= len(newest) - self.delay:
            return  # not back, or not yet
        first = int(far.argmax())
        yield self.finding(
            severity=Severity.WARNING if lasting else Severity.ADVICE,
            step=int(steps[first]),
            what=f"the loss jumped from {level:.3g} to {newest[top]:.3g} and came back",
            evidence=(
                Evidence(
                    name="height of the spike in robust deviations",
                    value=round(float(height[top] / max(noise, 1e-12)), 1),
                    normal=f"<= {self.z:g} for three steps, <= {self.z_single:g} for one",
                ),
                Evidence(name="steps above", value=int(far.sum()), normal="0"),
            ),
            cause="a batch unlike the others, or a step too large for the curvature, threw the "
            "weights out of the region they had found",
            fix="clip gradients by their global norm, lower the learning rate or warm it up "
            "longer, and look at the batch of that step",
            remedy=Fix(action="clip_gradients", args={"max_norm": 1.0}),
        )


def _noise(values: Floats) -> float:
    """Return the deviation of the upper half: losses are skewed, and their tail is upwards."""
    middle, upper = np.quantile(values, (0.5, 0.9))
    return max(spread(values), float(upper - middle) / 1.28)


def _sustained(height: Floats, limit: float) -> NDArray[np.bool_]:
    """Tell which steps are above the limit and begin a stretch of five with three that are."""
    above = height > limit
    counts = np.convolve(above[::-1], np.ones(5))[: len(above)][::-1]  # of it and the four after
    return np.asarray(above & (counts >= 3))
