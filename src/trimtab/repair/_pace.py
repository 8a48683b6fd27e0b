"""Whether a run that is half-way may still reach its target."""

from collections.abc import Sequence
from typing import Final

CHECKS: Final = (0.4, 0.6)
"""Shares of a whole run between which its pace is measured."""

PLATEAU: Final = 0.9
"""Share of the way to the target that is left on a plateau, which a run may leave all at once."""

NEAR: Final = 0.15
"""Share that is so little that a run all but arrived."""

NOISE: Final = 0.3
"""Share below which noise may hide how fast it becomes less."""

ON_ITS_WAY: Final = 0.7
"""Share of what is lacking at the second check below which a run that learns brings it until its
end, in two thirds of the time that it had before."""

HASTE: Final = 4.0
"""How many times as fast as of late a run may still become."""

RUIN: Final = 2.0
"""Multiple of the way that an untrained model has to go, from which on a run is worse than none."""


def is_lost(whole: float, before: float, now: float, closest: float) -> bool:
    """Tell whether a run cannot reach its target any more, in the time that is left.

    In doubt it can: on a plateau, near the target, and while what is left is halved.

    Args:
        whole: What an untrained model lacks of the target.
        before: What the run lacked at the first of `CHECKS`.
        now: What it lacks at the second.
        closest: The least that it ever lacked.
    """
    if not whole > 0 or now != now or before != before:
        return False
    if now > RUIN * whole:
        return now > before / 2
    intervals = (1 - CHECKS[1]) / (CHECKS[1] - CHECKS[0])
    between = NOISE * whole < closest and now < PLATEAU * whole
    return between and (before - now) * intervals * HASTE < now


def is_falling(gaps: Sequence[float]) -> bool:
    """Tell whether a run was still on its way when it ended, so that more speed may help.

    Args:
        gaps: What it lacked of the target at each of `CHECKS`, and at its end.
    """
    return len(gaps) <= len(CHECKS) or gaps[-1] < ON_ITS_WAY * gaps[-2]
