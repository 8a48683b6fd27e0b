"""The losses of a run as rules read them: those that are known, their start, levels and noise."""

from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trimtab.rules._history import Floats, History, Steps

MAD_TO_SIGMA: Final = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

NUM_FIRST: Final = 3
"""First losses whose median is the start: one alone may be a lucky small batch, and more would take
in what a far too high learning rate has done already."""


class LossCurve(NamedTuple):
    """Losses that were given and finite."""

    steps: Steps
    """`(num_steps,)`."""
    values: Floats
    """`(num_steps,)`."""

    @property
    def start(self) -> float:
        """The loss before anything was learnt."""
        return float(np.median(self.values[:NUM_FIRST]))

    def levels(self, size: int) -> tuple[Steps, Floats]:
        """Return first step and median of each block of `size` losses, counted from the newest.

        What is left over at the beginning is left out.
        """
        num = len(self.values) // size
        first = len(self.values) - num * size
        blocks = self.values[first:].reshape(num, size)
        return self.steps[first::size], np.median(blocks, axis=1)


def loss_curve(history: History) -> LossCurve:
    """Return the losses of a run that are known and finite."""
    known = history.series("loss").known()
    return LossCurve(known.steps, known.values)


def spread(values: NDArray[np.float64]) -> float:
    """Return the standard deviation of the bulk of some values, whatever their outliers."""
    if not len(values):
        return 0.0
    return MAD_TO_SIGMA * float(np.median(np.abs(values - np.median(values))))


def is_interleaved(history: History) -> bool:
    """Tell whether several optimizers take turns, so that a step's loss may be either's."""
    norms = history.table("parameters", "weight.norm").values[:16]
    known = np.isfinite(norms)
    return bool((known.any(axis=0) & ~known.all(axis=0)).any()) if known.size else False
