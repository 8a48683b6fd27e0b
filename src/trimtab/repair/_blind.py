"""When a run is good without a target: it learned, in both modes, and no other pace learns more."""

import math
from collections.abc import Sequence
from typing import Final

from trimtab.diagnosis import Outcome
from trimtab.diagnosis._outcome import LEARNED, SOUND, Probe
from trimtab.diagnosis._weighing import is_ailing
from trimtab.findings import Finding

KEPT: Final = 0.5
"""Share of what a run learned that has to be there in evaluation mode too."""

DONE: Final = 0.9
"""Share of the loss of the best constant answer from which on no other pace is tried."""

CLEARLY: Final = 0.03
"""Share of it that another pace has to learn more in a trial, to be trained to the end."""


def beyond_constant(outcome: Outcome) -> float:
    """Return the share of the best constant answer's loss that a run took off; NaN if unknown.

    An untrained model's loss may be so huge that any way down from it looks like much.

    Args:
        outcome: Of the run.
    """
    if outcome.constant is None or outcome.end is None or not outcome.constant > 0:
        return outcome.learned
    return min(outcome.learned, 1 - outcome.end.loss / outcome.constant)


def is_fine(outcome: Outcome, found: Sequence[Finding], evaluated: Probe | None) -> bool:
    """Tell whether a run that was trained to its end is good, for all that can be seen.

    Args:
        outcome: Of the run.
        found: Wrong with it.
        evaluated: The trained model in evaluation mode; None if it cannot be asked.
    """
    if found or outcome.broken or outcome.worse or outcome.learned_nothing:
        return False
    learned = beyond_constant(outcome)
    if learned < LEARNED or is_ailing(outcome, found):
        return False
    if evaluated is None or math.isnan(learned):
        return True
    reference = outcome.reference if outcome.constant is None else outcome.constant
    return reference - evaluated.loss >= KEPT * (reference - _loss(outcome))


def _loss(outcome: Outcome) -> float:
    return math.nan if outcome.end is None else outcome.end.loss


def is_ahead(losses: Sequence[float], others: Sequence[float], outcome: Outcome) -> bool:
    """Tell whether a trial is below another run at the same steps: clearly, if that has learned.

    Args:
        losses: Of the trial.
        others: Of the other run, which was trained for longer.
        outcome: Of the other run.
    """
    width = max(1, len(losses) // 4)
    mine, theirs = losses[-width:], others[len(losses) - width : len(losses)]
    gained = (sum(theirs) - sum(mine)) / width
    least = CLEARLY if beyond_constant(outcome) >= SOUND else 0.0
    return gained > least * abs(outcome.reference)
