"""The default policy in numbers: the same as on a device, many times faster on a CPU."""

import math
import statistics
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch

from trimtab.guard._spike_rule import (
    AGREEMENT,
    CEILING,
    DEVIATION,
    EARLY,
    EVERY,
    LEAST_UNIT,
    LEVEL_RATE,
    PEAK_DECAY,
    PEAK_FACTOR,
    PER_FLAGGED,
    SPREAD_RATE,
    UNIT,
    WINSOR,
    SpikeRule,
    is_early,
)

SIGNALS: Final = (0, 1)
"""Places of loss and norm."""


class _Flagged(NamedTuple):
    """Flagged values of one signal, on the scale that is judged."""

    middle: float
    top: float
    spread: float


class OnHost:
    """The rule in Python's numbers.

    Args:
        rule: Settings.
        memory: As `empty_memory` has it; not changed before `write`.
    """

    def __init__(self, rule: SpikeRule, memory: Mapping[str, Any]) -> None:
        self.rule: Final = rule
        self.calls, self.losses = memory["calls"], memory["losses"]
        series: list[list[float]] = memory["series"].tolist()
        tally: list[float] = memory["tally"].tolist()
        self.level, self.threshold, self.reach, self.granted = series
        self.units: list[float] = memory["units"].tolist()
        self.weight, self.row, self.total = tally[0], int(tally[1]), int(tally[2])
        self.number = tally[3:]
        self._flagged = memory["flagged"]

    def write(self, memory: dict[str, Any]) -> None:
        """Put what is remembered back."""
        memory["calls"], memory["losses"] = self.calls, self.losses
        memory["series"].numpy()[:] = self.level, self.threshold, self.reach, self.granted
        memory["units"].numpy()[:] = self.units
        memory["tally"].numpy()[:] = self.weight, self.row, self.total, *self.number

    def judge(self, loss: float | None, norm: float) -> bool:
        """Return whether the step is an outlier, and remember it."""
        self.calls += 1
        self.losses += loss is not None
        if not math.isfinite(norm) or not (loss is None or math.isfinite(loss)):
            self._look_now_and_then()
            return True
        calls = {"calls": self.calls, "losses": self.losses}
        early = is_early(calls, self.rule, knows_loss=loss is not None)
        if early and loss is not None and not self.number[0]:
            self.units[0] = max(UNIT * abs(loss), LEAST_UNIT)
        values = {1: norm} if loss is None else {0: loss, 1: norm}
        heights = {i: self._scaled(v, i) - self.level[i] for i, v in values.items()}
        outlier = any(self._is_far(i, height) for i, height in heights.items())
        if outlier:
            self._flag(loss, norm)
        else:
            self._accept(heights, early=early)
        self._look_now_and_then()
        return outlier

    def limit(self, signal: int) -> float:
        """Return the height above the level from which a value is an outlier."""
        return max(self.reach[signal], self._least(signal))

    def judges(self, signal: int) -> bool:
        """Return whether enough is known of a signal."""
        return self.number[signal] >= self.rule.min_history

    def _scaled(self, value: float, signal: int) -> float:
        return math.asinh(value / self.units[signal])

    def _is_far(self, signal: int, height: float) -> bool:
        return self.judges(signal) and height > self.limit(signal)

    def _flag(self, loss: float | None, norm: float) -> None:
        place = self.total % self.rule.patience
        self._flagged[:, place] = torch.tensor([math.nan if loss is None else loss, norm])
        self.weight += PER_FLAGGED
        self.row += 1
        self.total += 1

    def _accept(self, heights: Mapping[int, float], *, early: bool) -> None:
        for signal, height in heights.items():
            self._follow(signal, height, early=early)
            self.number[signal] += 1
        self.weight = max(self.weight - 1, 0)
        self.row = 0

    def _least(self, signal: int) -> float:
        """Return the height below which nothing is an outlier."""
        return max(self.threshold[signal], self.rule.least[signal])

    def _follow(self, i: int, height: float, *, early: bool) -> None:
        number, least = self.number[i], self._least(i)
        weight = 1 / (number + 1) if early else 0.0
        bounded = not early or number >= EARLY
        step = min(max(height, -least), CEILING * least) if bounded else height
        self.level[i] += max(weight, LEVEL_RATE) * step
        if early and not number:
            height = 0.0  # the first is the level
        deviation = DEVIATION * self.rule.z[i] * abs(height)
        if bounded:
            deviation = min(deviation, WINSOR * least)
        self.threshold[i] += max(weight, SPREAD_RATE) * (deviation - self.threshold[i])
        learnt = min(PEAK_FACTOR * height, max(self.granted[i], CEILING * least))
        self.reach[i] = max(self.reach[i] * (1 - PEAK_DECAY), learnt)

    def _look_now_and_then(self) -> None:
        """Make flagged values normal if they have become too many; forget them if outweighed."""
        if self.calls % EVERY or not self.total:
            return
        if self.weight >= PER_FLAGGED * self.rule.patience:
            self._settle_if_they_agree()
        elif not self.weight:
            self._forget()

    def accept(self) -> None:
        """Make the level of what was flagged last, in a row, the level."""
        self._settle(self._all_flagged(max(self.row, 1)), in_row=True)

    def _settle_if_they_agree(self) -> None:
        in_row = 2 * self.row >= self.rule.patience
        flagged = self._all_flagged(self.row if in_row else self.total)
        if not (in_row and any(self._are_apart(i, values) for i, values in flagged.items())):
            self._settle(flagged, in_row=in_row)

    def _settle(self, flagged: Mapping[int, _Flagged], *, in_row: bool) -> None:
        """Make flagged values normal, and forget them.

        Args:
            flagged: The values, by signal.
            in_row: Whether they are the new level; if not, the level stays, and values of their
                height are normal too.
        """
        for i, (middle, top, spread) in flagged.items():
            if in_row:
                self.level[i] = middle
                self.threshold[i] = max(self.threshold[i], self.rule.z[i] * spread)
            granted = PEAK_FACTOR * (top - self.level[i])
            self.reach[i] = max(self.reach[i], granted)
            self.granted[i] = max(self.granted[i], granted)
        self._forget()

    def _all_flagged(self, number: int) -> dict[int, _Flagged]:
        """Return what is known of the values flagged last, by signal."""
        found = {signal: self._flagged_last(signal, min(number, self.total)) for signal in SIGNALS}
        return {signal: values for signal, values in found.items() if values is not None}

    def _flagged_last(self, signal: int, number: int) -> _Flagged | None:
        """Return what is known of the values flagged last; None if the signal was not known."""
        patience = self.rule.patience
        places = [(self.total - 1 - k) % patience for k in range(min(number, patience))]
        raw = [self._flagged[signal, place].tolist() for place in places]
        values = [self._scaled(value, signal) for value in raw if not math.isnan(value)]
        if not values:
            return None
        middle = statistics.median_low(values)
        spread = DEVIATION * statistics.fmean(abs(value - middle) for value in values)
        return _Flagged(middle, max(values), spread)

    def _are_apart(self, signal: int, values: _Flagged) -> bool:
        """Return whether values lie high, but do not agree on how high."""
        rise = values.middle - self.level[signal]
        return rise > self.limit(signal) and AGREEMENT * values.spread > rise

    def _forget(self) -> None:
        """Forget what was flagged."""
        self.weight, self.row, self.total = 0.0, 0, 0
