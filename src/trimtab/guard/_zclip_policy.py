"""ZClip's score of the gradient norm, with the step left out where ZClip would clip it."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from trimtab.guard._policy import Limits, Policy
from trimtab.optim import ZClip


class ZClipPolicy(Policy):
    """Flags the steps whose gradient norm ZClip would clip; the loss has only to be finite.

    The statistics are those of `trimtab.optim.ZClip`: they move with the clipped value of a flagged
    step, and after `warmup_steps` outliers in a row these make a new level. A score of 2.5 is meant
    for clipping, which does little harm if it is wrong. As a reason to leave a step out it takes
    6 % of sound steps (benchmarks/policies.py), `Spike` less than 0.1 %.

    Args:
        alpha: Decay of the moving mean and variance, in (0, 1).
        z_threshold: Score above which a step is an outlier; finite and positive.
        warmup_steps: Finite norms to collect before the first judgement; at least 2.

    Raises:
        ConfigError: One of these is out of range.

    Source: Kumar et al. 2025, arXiv:2504.02507, equations 3 to 9.
    """

    name: ClassVar[str] = "zclip"

    def __init__(
        self, *, alpha: float = 0.97, z_threshold: float = 2.5, warmup_steps: int = 25
    ) -> None:
        self._clipper = ZClip(alpha, z_threshold, warmup_steps)
        super().__init__(**self._clipper.state_dict())

    @torch.no_grad()
    def judge(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Judge one step's norm, and remember what clipping leaves of it."""
        _, norm, finite = self.prepare(loss, norm)
        self._clipper.load_state_dict(self.memory)
        outlier = self._clipper.coefficient(torch.where(finite, norm, math.nan)) < 1
        self.memory = self._clipper.state_dict()
        return (outlier | ~finite).float()

    @torch.no_grad()
    def accept(self) -> None:
        """Take mean and variance of the norms that were flagged last, in a row."""
        moments = self.memory["moments"]
        row = torch.cat([moments[3:], torch.zeros_like(moments[3:])])
        self.memory["moments"] = torch.where(moments[3] > 0, row, moments)

    def limits(self) -> Limits:
        """Return the norm whose score is the threshold, and the mean."""
        number, mean, variance, *_ = self.memory["moments"].tolist()
        if not number:
            return Limits()
        judged = number >= self._clipper.warmup_steps and mean > 0
        limit = mean + self._clipper.z_threshold * math.sqrt(variance) if judged else math.inf
        return Limits(norm=limit, norm_level=mean)

    def __repr__(self) -> str:
        return f"ZClipPolicy(z_threshold={self._clipper.z_threshold:g})"
