"""The default policy: loss and gradient norm against what accepted steps were like."""

import math
from typing import ClassVar, Self

import torch
from torch import Tensor

from trimtab.guard._policy import Limits, Policy
from trimtab.guard._spike_floats import OnHost
from trimtab.guard._spike_rule import SpikeRule, empty_memory
from trimtab.guard._spike_tensors import OnDevice


class Spike(Policy):
    """Flags steps whose loss or gradient norm lies far above those accepted before.

    Judged is the height above a moving level, on a scale that is logarithmic for norms, and for
    losses down to a tenth of the first one. A value is an outlier if its height exceeds
    `loss_z` or `norm_z` standard deviations and is 1.8 times that of the highest that was accepted
    lately, since sound losses have long tails. Low values never are.

    Flagged values do not enter these statistics, so that no outlier makes room for the next; nor
    can accepted ones lift the highest beyond three times those standard deviations. But what lasts
    is no outlier: `patience` flagged steps in a row that agree with each other are the new level,
    and flagged steps that come more often than once in 100 are in the end taken for a part of what
    is normal. That is looked at every fourth call. A value that is not finite enters neither.

    A loss that keeps crossing zero has no logarithm to speak of: there, the norm decides.

    Args:
        loss_z: Least height of an outlier of the loss, in standard deviations.
        norm_z: The same of the gradient norm, on a logarithmic scale.
        min_history: Accepted steps before the first judgement; at least 2.
        patience: Flagged steps in a row that make a new level; at least 2.
        at_once: Whether values on the CPU are looked at, which takes a fraction of the time, since
            nothing has to be waited for there; False judges as on an accelerator, alike.

    Raises:
        ConfigError: One of these is out of range.

    Source: thresholds from benchmarks/policies.py, which also compares median and deviation of a
    window. Moving averages of the norm, with outliers kept out: Kumar et al. 2025,
    arXiv:2504.02507.
    """

    name: ClassVar[str] = "spike"

    def __init__(
        self,
        *,
        loss_z: float = 6.0,
        norm_z: float = 5.0,
        min_history: int = 32,
        patience: int = 16,
        at_once: bool = True,
    ) -> None:
        self.rule = SpikeRule(
            loss_z=loss_z, norm_z=norm_z, min_history=min_history, patience=patience
        )
        self.at_once = at_once
        super().__init__(**empty_memory(self.rule))
        self._on_device = OnDevice(self.rule, torch.device("cpu"))

    def fresh(self, *, times: int = 1) -> Self:
        """Return one with the same settings that remembers nothing, `times` as patient."""
        rule = self.rule
        other = type(self)(
            loss_z=rule.loss_z,
            norm_z=rule.norm_z,
            min_history=rule.min_history,
            patience=rule.patience * times,
            at_once=self.at_once,
        )
        other.to(self.memory["flagged"].device)
        return other

    def judge(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Judge one step against the accepted ones, and remember it."""
        if self._may_look(norm) and (loss is None or self._may_look(loss)):
            return self._judge_at_once(loss, norm)
        with torch.no_grad():
            known, norm, finite = self.prepare(loss, norm)
            known_loss = None if loss is None else known
            outlier = self._device().judge(self.memory, known_loss, norm, finite)
            return (outlier | ~finite).float()

    @torch.no_grad()
    def accept(self) -> None:
        """Take what was flagged last, in a row, for the new level."""
        if self._may_look(self.memory["tally"]):
            host = OnHost(self.rule, self.memory)
            host.accept()
            host.write(self.memory)
        else:
            self._device().accept(self.memory)

    def limits(self) -> Limits:
        """Return what is normal now."""
        host = OnHost(self.rule, self.memory)
        level, limit = [math.nan, math.nan], [math.inf, math.inf]
        for i, unit in enumerate(host.units):
            if host.number[i]:
                level[i] = _back(host.level[i], unit)
            if host.judges(i):
                limit[i] = _back(host.level[i] + host.limit(i), unit)
        return Limits(loss=limit[0], norm=limit[1], loss_level=level[0], norm_level=level[1])

    def _may_look(self, value: Tensor) -> bool:
        return self.at_once and value.device.type == "cpu"

    def _judge_at_once(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        if self.memory["tally"].device != norm.device:
            self.to(norm.device)
        known = norm if loss is None else loss
        pair = torch.stack([known.detach().float(), norm.detach().float()])
        loss_now, norm_now = pair.tolist()
        host = OnHost(self.rule, self.memory)
        outlier = host.judge(None if loss is None else loss_now, norm_now)
        host.write(self.memory)
        return torch.tensor(float(outlier))

    def _device(self) -> OnDevice:
        device = self.memory["tally"].device
        if self._on_device.device != device:
            self._on_device = OnDevice(self.rule, device)
        return self._on_device

    def __repr__(self) -> str:
        return f"Spike(loss_z={self.rule.loss_z:g}, norm_z={self.rule.norm_z:g})"


def _back(value: float, unit: float) -> float:
    """Return the loss or norm that has this value on the scale that is judged."""
    try:
        return unit * math.sinh(value)
    except OverflowError:
        return math.inf
