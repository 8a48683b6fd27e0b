"""Whether a state, or a step, is as it was before an incident."""

import math
from collections.abc import Callable, Sequence
from statistics import stdev
from typing import Final

from trimtab.guard._policy import Limits
from trimtab.guard._replayer import Replayer
from trimtab.guard._tape import TapeStep

NUM_PROBED: Final = 4
"""Healthy batches that a state is judged on: one alone is noise."""

NUM_CLEAN: Final = 16
"""Steps that say what the loss was like before the incident."""

NEARLY: Final = 3.0
"""Standard deviations of these losses that a sound state's mean over a few batches may be above."""

FAR: Final = 8.0
"""The same for one step of a replay, beside the limits of the policy."""


class Yardstick:
    """Knows what losses were like before an incident; of several optimizers, those of each.

    Args:
        clean: Steps before the incident; their batches are known to be good.
        limits: Above which loss and norm are outliers, for each optimizer.
        probed: The optimizer by whose losses a state is judged.
        replayer: Measures them.
        agree: Whether any rank says yes.
    """

    def __init__(
        self,
        clean: Sequence[TapeStep],
        limits: Sequence[Limits],
        *,
        probed: int,
        replayer: Replayer,
        agree: Callable[[bool], bool],
    ) -> None:
        self.limits, self.probed = limits, probed
        self._replayer, self.agree = replayer, agree
        own = [[s for s in clean if s.which == i][-NUM_CLEAN:] for i in range(len(limits))]
        losses = [[step.loss for step in steps] for steps in own]
        self.levels = [sum(each) / len(each) if each else math.inf for each in losses]
        """Mean loss of each optimizer's steps."""
        self.spreads = [stdev(each) if len(each) > 1 else 0.0 for each in losses]
        """Standard deviations of these losses."""
        self.clean = [step for step in own[probed] if step.micro_steps][-NUM_PROBED:]
        """Steps whose batches a state is judged on."""

    def is_bad(self, loss: float, norm: float, which: int = 0) -> bool:
        """Tell whether a step of an optimizer is an outlier, or not finite."""
        limits, level = self.limits[which], self.levels[which]
        finite = math.isfinite(loss) and math.isfinite(norm)
        limit = min(limits.loss, level + max(FAR * self.spreads[which], abs(level)))
        return not finite or loss > limit or norm > limits.norm

    def probe(self) -> float:
        """Return the mean loss of known good batches in the present state; NaN without any."""
        if not self.clean:
            return math.nan
        losses, norms = self._replayer.measure(self.clean)
        return sum(losses) / len(losses) if all(map(math.isfinite, norms)) else math.inf

    def is_sound(self, probe: float) -> bool:
        """Tell whether a state is as good as before the incident; all ranks say the same."""
        if not self.clean:
            return True
        level, spread = self.levels[self.probed], self.spreads[self.probed]
        near = level + max(NEARLY * spread, 0.1 * abs(level))
        return not self.agree(not probe <= min(self.limits[self.probed].loss, near))
