"""TT306 oscillating-loss: the loss swings up and down and no longer falls."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import Floats, History
from trimtab.rules._loss_curve import MAD_TO_SIGMA, LossCurve, is_interleaved, loss_curve
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import row_medians, values_at, weight_updates


@register
@dataclass(frozen=True, kw_only=True)
class OscillatingLoss(RunRule):
    """The loss swings widely from step to step and no longer falls.

    Why: each step overshoots the valley that it should descend into, and lands on the other side.
        The learning rate is above what the curvature allows, or a momentum close to 1 makes it so.

    Measured: the swing of the newest losses against their level, while the level does not fall and
        the weights are thrown about by each update. With the same batch in every step, losses that
        turn at nearly every step are enough.

    Silent on: noisy losses of small batches whose updates are of healthy size, a few batches that
        take turns, losses that still fall, GANs and reinforcement learning.

    Fix: divide the learning rate by three to ten, or lower the momentum; a larger batch calms what
        is left.

    Source: Cohen et al. 2021, arXiv:2103.00065; Goh 2017, "Why Momentum Really Works".
    """

    code: ClassVar = "TT306"
    name: ClassVar = "oscillating-loss"
    symptom: ClassVar = Symptom.OSCILLATING_LOSS
    rank: ClassVar = 84
    leads_to: ClassVar = ("TT301", "TT302", "TT303")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1), nn.Tanh())
optimizer = torch.optim.SGD(model.parameters(), lr=5.0)
trim = trimtab.attach(model, optimizer, clip=None, out=None, watch=2)
for step in range(120):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1].sign()).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    window: int = 60
    """Newest steps that are looked at."""
    swing: float = 0.1
    """Robust deviation from step to step over the level of the loss."""
    share: float = 0.05
    """The same deviation over the loss at the start: what is left at the end of a run is noise."""
    growth: float = 8.0
    """Joint weight norm over its start that throws about as well."""
    large_update: float = 0.04
    """Typical update ratio of weights that throws them about: 40 times the usual 1e-3."""
    turns: float = 0.8
    """Share of steps at which a loss on one and the same batch turns; noise turns at 2 of 3."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the newest losses swing and do not fall."""
        curve = loss_curve(history)
        newest = curve.values[-self.window :]
        if len(newest) < self.window or is_interleaved(history):
            return
        level = float(np.median(newest))
        deviation = MAD_TO_SIGMA * float(np.median(np.abs(np.diff(newest)))) / 2**0.5
        swing = deviation / max(abs(level), 1e-12)
        coarse = deviation > self.share * abs(curve.start)
        if swing < self.swing or not coarse:
            return
        rates = values_at(history.series("learning_rate"), curve.steps[-self.window :])
        warming = bool(np.nanmax(rates, initial=0.0) / 1.1 > np.nan_to_num(rates[0]))
        if warming or self._falls(curve):
            return
        ratios = row_medians(weight_updates(history, 32).ratios)
        ratios = ratios[np.isfinite(ratios)]
        typical = float(np.median(ratios)) if len(ratios) else float("nan")
        turning = _turns(newest)
        norms = history.series("weight.norm").known().values
        grown = len(norms) > 2 and norms[-1] > self.growth * norms[0] > 0
        thrown = typical > self.large_update or grown
        if not (thrown or (turning > self.turns and _one_batch(history))):
            return
        yield self.finding(
            step=int(curve.steps[-self.window]),
            what=f"the loss swings by {swing:.0%} of its level of {level:.3g} from step to step, "
            f"and has not fallen for {self.window} steps",
            evidence=(
                Evidence(name="swing over level", value=swing, normal=f"<= {self.swing:g}"),
                Evidence(name="share of steps at which it turns", value=turning,
                         normal="about 0.67 for noise"),
                Evidence(name="typical update ratio", value=typical,
                         normal=f"<= {self.large_update:g}, usually 1e-3"),
            ),
            cause="each step overshoots: the learning rate, or the momentum, is too high for the "
            "curvature",
            fix="divide the learning rate by 3 to 10, or lower the momentum",
            remedy=Fix(action="scale_learning_rate", args={"factor": 0.3}),
        )  # fmt: skip

    def _falls(self, curve: LossCurve) -> bool:
        """Tell whether the level is still falling, over the window or the one before."""
        third = self.window // 3
        _, levels = curve.levels(third)
        return bool(levels[-1] < 0.9 * levels[-3])


def _turns(values: Floats) -> float:
    """Return the share of steps at which a series turns."""
    signs = np.sign(np.diff(values))
    return float(np.mean(signs[1:] != signs[:-1]))


def _one_batch(history: History) -> bool:
    """Tell whether every step is known to see the same batch."""
    prints = history.series("input.fingerprint").known().last(16)
    if len(prints.values) < 3 or math.gcd(*np.diff(prints.steps).tolist()) != 1:
        return False  # seen every other time, two batches that take turns look like one
    return bool((prints.values == prints.values[0]).all())
