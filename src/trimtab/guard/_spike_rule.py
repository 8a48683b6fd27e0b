"""What the default policy takes for an outlier: its settings, constants and memory."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch

from trimtab.errors import ConfigError

# The constants were chosen with seeds 0 and 1 of benchmarks/policies.py, as those that flag at most
# 0.1 % of its sound steps and see most of its bad batches. Its results are those of other seeds.

LEVEL_RATE: Final = 1 / 16
"""Least weight of a new value in the level, which has to follow a loss that falls."""
SPREAD_RATE: Final = 1 / 64
"""The same in the spread."""
PEAK_DECAY: Final = 1 / 700
"""Share of its height that the peak loses a step: a tail of 1 step in 100 is not forgotten."""
PEAK_FACTOR: Final = 1.8
"""Height above the level, as a multiple of the peak's, from which a value is an outlier."""
CEILING: Final = 3.0
"""Thresholds to which accepted values can lift the peak, which else they could step by step."""
WINSOR: Final = 5.0
"""Deviations with which an accepted value counts at most in the spread, for the same reason."""
UNIT: Final = 0.1
"""Losses below this share of the first one count as near: late in a run they differ tenfold."""
LEAST_UNIT: Final = 1e-12
"""The same for norms, in gradient units, and for losses whose first one was 0."""
LEAST_SPREAD: Final = (0.02, 0.05)
"""Of loss and norm, in logarithms, so 2 and 5 %: constant values have no spread of their own."""
EARLY: Final = 8
"""Accepted values from which on the height of one is bounded where it enters the averages."""
PER_FLAGGED: Final = 100
"""Accepted steps that outweigh a flagged one: what is more frequent is no outlier."""
EVERY: Final = 4
"""Calls between two looks at whether flagged values have become too many, which take long."""
AGREEMENT: Final = 3.0
"""Least height of a new level above the old one, in spreads of its values."""
DEVIATION: Final = math.sqrt(math.pi / 2)
"""Standard deviation over mean absolute deviation, of normal values."""


@dataclass(frozen=True, kw_only=True)
class SpikeRule:
    """Settings of the default policy.

    Raises:
        ConfigError: One of them is out of range.
    """

    loss_z: float = 6.0
    """Standard deviations by which the loss must exceed its level."""
    norm_z: float = 5.0
    """The same for the logarithm of the gradient norm."""
    min_history: int = 32
    """Accepted steps before the first judgement."""
    patience: int = 16
    """Flagged steps in a row that make a new level."""

    def __post_init__(self) -> None:
        for name in ("loss_z", "norm_z"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ConfigError(
                    f"{name} must be finite and positive, got {value!r}. To judge only whether "
                    f"values are finite, use the policy 'nonfinite'."
                )
        for name, least in (("min_history", 2), ("patience", 2)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} must be a whole number of at least {least}, got {value!r}."
                )

    @property
    def z(self) -> tuple[float, float]:
        """Thresholds of loss and norm."""
        return float(self.loss_z), float(self.norm_z)

    @property
    def least(self) -> tuple[float, float]:
        """Least threshold of loss and norm, as a height."""
        return self.loss_z * LEAST_SPREAD[0], self.norm_z * LEAST_SPREAD[1]


def empty_memory(rule: SpikeRule) -> dict[str, Any]:
    """Return what is remembered before the first step.

    Returns:
        `calls`, and `losses`, how many of them had a loss. `series`, `(4, 2)`, of the accepted
        losses and norms: the level; the threshold, which is their spread times z; the reach, which
        is the height of the highest times `PEAK_FACTOR`; and how far that can be lifted, because
        such values were flagged too often. All are on the scale `asinh(value / units)`, with
        `units` `(2,)`. `flagged`, `(2, patience + 1)`: the losses and norms flagged last, and a
        place for what is not kept. `tally`, `(5,)`: flagged steps that accepted ones have not
        outweighed, counted in accepted steps; flagged steps in a row; all that were written to
        `flagged`; accepted losses; accepted norms.
    """
    return {
        "calls": 0,
        "losses": 0,
        "series": torch.zeros(4, 2),
        "units": torch.full((2,), LEAST_UNIT),
        "flagged": torch.full((2, rule.patience + 1), math.nan),
        "tally": torch.zeros(5),
    }


def is_early(memory: Mapping[str, Any], rule: SpikeRule, *, knows_loss: bool) -> bool:
    """Return whether the averages may still be so young that each value counts for more."""
    calls = min(memory["calls"], memory["losses"]) if knows_loss else memory["calls"]
    return bool(calls <= 2 * max(rule.min_history, round(1 / SPREAD_RATE)))
