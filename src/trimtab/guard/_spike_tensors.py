"""The default policy on a device: one step judged without waiting."""

import math
from typing import Any, Final

import torch
from torch import Tensor

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


class OnDevice:
    """The rule in tensors, in as few operations as may be: each is a kernel to launch.

    Args:
        rule: Settings.
        device: Where the memory is.
    """

    def __init__(self, rule: SpikeRule, device: torch.device) -> None:
        self.rule: Final = rule
        self.device: Final = device

        def constant(*values: float | list[float]) -> Tensor:
            return torch.tensor(values, device=device)

        self._z, self._least = constant(*rule.z), constant(*rule.least)
        self._per_height = DEVIATION * self._z
        self._is_loss = constant(1.0, 0.0) > 0
        self._age = torch.arange(rule.patience, device=device)
        # Factors and summands of the tally, after a flagged and after an accepted step, the latter
        # without and with its loss; and what is left of it when what was flagged is forgotten.
        self._after_flagged = constant([1.0, 1, 1, 1, 1], [PER_FLAGGED, 1, 1, 0, 0])
        self._after_accepted = [
            constant([1.0, 0, 1, 1, 1], [-1, 0, 0, with_loss, 1]) for with_loss in (0, 1)
        ]
        self._forgotten = constant(0.0, 0, 0, 1, 1)

    def judge(
        self, memory: dict[str, Any], loss: Tensor | None, norm: Tensor, finite: Tensor
    ) -> Tensor:
        """Return whether the step is an outlier, and remember it.

        Args:
            memory: As `empty_memory` has it; changed.
            loss: 0-d, float32; None if it is not known.
            norm: The same of the gradient norm.
            finite: Whether what is known is finite, 0-d.
        """
        knows_loss = loss is not None
        memory["calls"] += 1
        memory["losses"] += knows_loss
        early = is_early(memory, self.rule, knows_loss=knows_loss)
        series, tally = memory["series"], memory["tally"]
        raw = torch.stack([torch.full_like(norm, math.nan) if loss is None else loss, norm])
        if early:
            self._set_unit(memory, raw, finite)
        height = (raw / memory["units"]).asinh() - series[0]
        far = (height > self._limit(series)) & (tally[3:] >= self.rule.min_history)
        outlier: Tensor = finite & far.any()
        accepted = finite ^ outlier
        follow = self._follow_early if early else self._follow
        followed = follow(series, height, tally[3:])
        chosen = accepted & ~height.isnan()  # NaN: not known
        memory["series"] = torch.where(chosen, followed, series)
        place = torch.where(outlier, tally[2] % self.rule.patience, self.rule.patience)
        memory["flagged"].index_copy_(1, place.long()[None], raw[:, None])
        after = torch.where(outlier, self._after_flagged, self._after_accepted[knows_loss])
        counted = torch.addcmul(after[1], tally, after[0]).clamp_(min=0)
        memory["tally"] = torch.where(finite, counted, tally)
        if memory["calls"] % EVERY == 0:
            self._settle_if_full(memory)
        return outlier

    def accept(self, memory: dict[str, Any]) -> None:
        """Make the level of what was flagged last, in a row, the level."""
        yes = memory["tally"][0] >= 0
        self._settle(memory, yes, yes, *self._flagged(memory, memory["tally"][1].clamp(min=1)))

    def _set_unit(self, memory: dict[str, Any], raw: Tensor, finite: Tensor) -> None:
        """Take the first finite loss for the measure of losses."""
        first = finite & (memory["tally"][3:] == 0) & self._is_loss & ~raw.isnan()
        unit = (UNIT * raw.abs()).clamp_(min=LEAST_UNIT)
        memory["units"] = torch.where(first, unit, memory["units"])

    def _limit(self, series: Tensor) -> Tensor:
        """Return the height above the level from which a value is an outlier, `(2,)`."""
        return series[2].maximum(series[1]).maximum(self._least)

    def _follow(self, series: Tensor, height: Tensor, _number: Tensor) -> Tensor:
        """Return the series with a value of this height above the level, `(4, 2)`."""
        level, threshold, reach, granted = series.unbind()
        least = threshold.maximum(self._least)
        ceiling = CEILING * least
        deviation = (self._per_height * height.abs()).minimum(WINSOR * least)
        return torch.stack(
            [
                level.add(height.clamp(-least, ceiling), alpha=LEVEL_RATE),
                threshold.lerp(deviation, SPREAD_RATE),
                self._reach(reach, height, ceiling.maximum(granted)),
                granted,
            ]
        )

    def _follow_early(self, series: Tensor, height: Tensor, number: Tensor) -> Tensor:
        """Return the same while few values are known: they count alike, the first in full."""
        level, threshold, reach, granted = series.unbind()
        least = threshold.maximum(self._least)
        ceiling = CEILING * least
        weight, bounded = 1 / (number + 1), number >= EARLY
        step = torch.where(bounded, height.clamp(-least, ceiling), height)
        level = level + weight.clamp(min=LEVEL_RATE) * step
        height = torch.where(number > 0, height, 0)  # the first is the level
        deviation = self._per_height * height.abs()
        deviation = torch.where(bounded, deviation.minimum(WINSOR * least), deviation)
        threshold = threshold.lerp(deviation, weight.clamp(min=SPREAD_RATE))
        reach = self._reach(reach, height, ceiling.maximum(granted))
        return torch.stack([level, threshold, reach, granted])

    @staticmethod
    def _reach(reach: Tensor, height: Tensor, most: Tensor) -> Tensor:
        return (reach * (1 - PEAK_DECAY)).maximum((PEAK_FACTOR * height).minimum(most))

    def _flagged(self, memory: dict[str, Any], number: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return middle, largest and spread of the values flagged last, each `(2,)`; or NaN."""
        total = memory["tally"][2]
        age = (total - 1 - self._age).remainder(self.rule.patience)
        values = (memory["flagged"][:, :-1] / memory["units"][:, None]).asinh()
        values = torch.where(age < number.minimum(total), values, math.nan)
        middle = values.nanmedian(dim=1).values
        spread = DEVIATION * (values - middle[:, None]).abs().nanmean(dim=1)
        return middle, values.nan_to_num(-math.inf).amax(dim=1), spread

    def _settle_if_full(self, memory: dict[str, Any]) -> None:
        """Make flagged values normal if they have become too many; forget them if outweighed."""
        weight, row, total = memory["tally"][:3].unbind()
        in_row = 2 * row >= self.rule.patience
        flagged = self._flagged(memory, torch.where(in_row, row, total))
        rise = flagged[0] - memory["series"][0]
        apart = ((rise > self._limit(memory["series"])) & (AGREEMENT * flagged[2] > rise)).any()
        full = weight >= PER_FLAGGED * self.rule.patience
        self._settle(memory, full & ~(in_row & apart), in_row, *flagged)
        outweighed = weight == 0
        memory["tally"] = torch.where(
            outweighed, self._forgotten * memory["tally"], memory["tally"]
        )

    def _settle(
        self,
        memory: dict[str, Any],
        when: Tensor,
        in_row: Tensor,
        middle: Tensor,
        top: Tensor,
        spread: Tensor,
    ) -> None:
        """Make flagged values normal, and forget them.

        Args:
            memory: Changed.
            when: Whether at all, 0-d.
            in_row: Whether they are the new level, 0-d; if not, the level stays, and values of
                their height are normal too.
            middle: Of the values, `(2,)`; NaN where there are none.
            top: The largest.
            spread: Their spread.
        """
        level, threshold, reach, granted = memory["series"].unbind()
        level = torch.where(in_row, middle, level)
        threshold = threshold.maximum(torch.where(in_row, self._z * spread, 0))
        needed = PEAK_FACTOR * (top - level)
        series = torch.stack([level, threshold, reach.maximum(needed), granted.maximum(needed)])
        memory["series"] = torch.where(when & ~middle.isnan(), series, memory["series"])
        memory["tally"] = torch.where(when, self._forgotten * memory["tally"], memory["tally"])
