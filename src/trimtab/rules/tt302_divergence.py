"""TT302 divergence: the loss rises far above where it started, and stays there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import LossCurve, loss_curve, spread
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import weight_updates


@register
@dataclass(frozen=True, kw_only=True)
class Divergence(RunRule):
    """The loss rose far above its start, or far above its best, and stays there.

    Why: the updates climb instead of descending. What was learnt is lost, and if nothing changes,
        the loss ends in NaN.

    Measured: the median of the newest steps against the loss at the start and its noise. Where the
        weights are thrown about as well (updates of more than 5 % of the weights, or weights that
        have grown threefold), twice the start is enough; elsewhere the rise has to be far larger
        and go on, because some losses rise in health.

    Silent on: losses of reinforcement learning and GANs that rise while updates are small, negative
        losses, spikes that come back.

    Fix: divide the learning rate by ten, clip gradients by their global norm, and warm up. If it
        diverges at any learning rate, look for a loss of the wrong sign, unscaled targets, and
        labels or inputs out of range.

    Source: LeCun et al. 1998, "Efficient BackProp", section 4.6; Pascanu et al. 2013,
        arXiv:1211.5063.
    """

    code: ClassVar = "TT302"
    name: ClassVar = "divergence"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.DIVERGENCE
    rank: ClassVar = 90
    leads_to: ClassVar = ("TT303",)
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=1.2)  # beyond 2 / curvature
trim = trimtab.attach(model, optimizer, clip=None, out=None, watch=2)
for step in range(60):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x.sum(1, keepdim=True)).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    window: int = 10
    """Steps whose median is the level; two windows in a row have to be above the limit."""
    factor: float = 2.0
    """Level over the start that is divergence where the weights are thrown about."""
    factor_alone: float = 10.0
    """Level over the start that is divergence whatever the updates, while it is still rising."""
    large_update: float = 0.05
    """Update ratio of a weight that throws it about: 50 times the usual 1e-3."""
    growth: float = 3.0
    """Joint weight norm over its start, likewise."""
    lost: float = 100.0
    """Loss over the very first one from which nothing comes back, where the weights are thrown
    about."""
    noise: float = 6.0
    """Robust deviations of the early losses that a level has to be above the start."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the loss is far above its start and stays there."""
        curve = loss_curve(history)
        size = self.window
        if self._exploded(history, curve):
            yield self._found(curve, float(curve.values[-1]), self.factor)
            return
        if len(curve.values) < 2 * size + 3:
            return
        level = float(np.median(curve.values[-size:]))
        lower = min(level, float(np.median(curve.values[-2 * size : -size])))
        start, scale = curve.start, self._scale(curve)
        if lower <= start:
            return
        thrown = lower > start + (self.factor - 1) * scale and self._is_thrown(history)
        if not thrown:
            rising = level > float(np.median(curve.values[-3 * size : -size]))
            if not (rising and lower > start + self._limit_alone(curve)):
                return
        yield self._found(curve, level, self.factor if thrown else self.factor_alone)

    def _found(self, curve: LossCurve, level: float, factor: float) -> Finding:
        start, scale = curve.start, self._scale(curve)
        return self.finding(
            step=self._began(curve, start + scale / 2),
            what=f"the loss rose from {start:.3g} at the start to {level:.3g} and stays there",
            evidence=(
                Evidence(
                    name="rise over the loss at the start",
                    value=(level - start) / scale,
                    normal=f"<= {factor - 1:g}",
                ),
            ),
            cause="the steps climb instead of descending: the learning rate is too high for the "
            "curvature, or the gradient has the wrong sign or scale",
            fix="divide the learning rate by 10, clip gradients by their global norm, and warm "
            "up; if it diverges at any learning rate, look at the sign of the loss and the scale "
            "of inputs and targets",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
        )

    def _exploded(self, history: History, curve: LossCurve) -> bool:
        """Tell whether the loss is so far up, and weights thrown about so much, that it is lost."""
        if len(curve.values) < 3:
            return False
        first = max(abs(curve.values[0]), 1e-3)
        far = bool((curve.values[-2:] > self.lost * first).all())
        return far and self._is_thrown(history)

    def _scale(self, curve: LossCurve) -> float:
        """Return what rises are measured in: the start, or the noise of a loss that begins at 0."""
        noise = min(spread(curve.values[:20]), abs(float(curve.values[0])))
        return max(abs(curve.start), noise, 1e-12)

    def _limit_alone(self, curve: LossCurve) -> float:
        early = curve.values[:40]
        scale = max(abs(curve.start), abs(float(np.median(early))))
        _, levels = curve.levels(self.window)
        improved = levels.min() < curve.start - 0.1 * scale  # as in Q-learning, before it rises
        times = 10 * (self.factor_alone - 1) if improved else self.factor_alone - 1
        return max(times * scale, 10 * self.noise * spread(early), 1e-12)

    def _is_thrown(self, history: History) -> bool:
        """Tell whether updates or weights are far from health."""
        ratios = weight_updates(history, 24).typical
        ratios = ratios[np.isfinite(ratios)]
        large = int((ratios > self.large_update).sum())
        norms = history.series("weight.norm").known().values
        grown = len(norms) > 2 and norms[-1] > self.growth * norms[0] > 0
        return 2 * large >= len(ratios) > 0 or large >= 5 or bool(grown)

    def _began(self, curve: LossCurve, limit: float) -> int:
        """Return the step after the last one before the rise."""
        below = np.flatnonzero(curve.values <= limit)
        at = int(below[-1]) + 1 if len(below) else 0
        return int(curve.steps[min(at, len(curve.steps) - 1)])
