"""ZClip: a threshold that follows the moving mean and spread of the gradient norm."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.optim._clip import check_threshold, clip_factor_for
from trimtab.optim._clippers import ScaleClipper

MIN_RELATIVE_STD = 1e-6
"""Least standard deviation, as a share of the mean: below it float32 cannot tell norms apart."""


class ZClip(ScaleClipper):
    """Clips norms that lie far above their moving mean, in units of their standard deviation.

    A norm whose score z = (norm - mean) / std exceeds `z_threshold` is brought down to
    mean + z_threshold^2 / z * std: the further out it is, the nearer to the mean it ends. Mean and
    variance then move with the clipped value. The first `warmup_steps` norms are only collected;
    `max_norm` bounds them, and all later ones besides.

    Two things differ from the paper. A norm that is not finite is no part of the statistics: one
    NaN would blind them for good. And after `warmup_steps` outliers in a row their own mean and
    variance take over: with the paper's rule a norm that doubles and stays there shrinks the
    variance to nothing, and every later step is clipped to the old level (3,000 of 3,000 measured).

    Args:
        alpha: Decay of the moving mean and variance, in (0, 1).
        z_threshold: Score above which is clipped; finite and positive.
        warmup_steps: Finite norms to collect before the first judgement, and outliers in a row
            that make a new level; at least 2.
        max_norm: Bound that holds besides, also in the warm-up; None for none.

    Raises:
        ConfigError: One of these is out of range.

    Source: Kumar et al. 2025, arXiv:2504.02507, equations 3 to 9.
    """

    def __init__(
        self,
        alpha: float = 0.97,
        z_threshold: float = 2.5,
        warmup_steps: int = 25,
        *,
        max_norm: float | None = None,
    ) -> None:
        super().__init__()
        if not 0 < alpha < 1:
            raise ConfigError(f"alpha must lie between 0 and 1, got {alpha!r}. The paper has 0.97.")
        check_threshold("z_threshold", z_threshold)
        if isinstance(warmup_steps, bool) or not isinstance(warmup_steps, int) or warmup_steps < 2:
            raise ConfigError(
                f"warmup_steps must be a whole number of at least 2, since one norm has no spread; "
                f"got {warmup_steps!r}."
            )
        if max_norm is not None:
            check_threshold("max_norm", max_norm)
        self.alpha, self.z_threshold = float(alpha), float(z_threshold)
        self.warmup_steps, self.max_norm = warmup_steps, max_norm
        # Number of finite norms, their mean and variance; the same of the outliers in a row.
        self._moments = torch.zeros(6)

    @torch.no_grad()
    def coefficient(self, norm: Tensor) -> Tensor:
        """Judge one step's joint norm and remember what is left of it."""
        self._moments = self._moments.to(norm.device)
        count, mean, variance = self._moments[:3].unbind()
        seen = norm.to(self._moments.dtype)
        warm = count >= self.warmup_steps
        std = variance.sqrt().maximum(mean * MIN_RELATIVE_STD)
        z = (seen - mean) / std
        outlier = warm & (mean > 0) & (z > self.z_threshold)  # all zero so far: nothing to go by
        limit = torch.where(outlier, mean + self.z_threshold**2 / z * std, math.inf)
        if self.max_norm is not None:
            limit = limit.clamp(max=self.max_norm)
        kept = seen.minimum(limit)
        collected = _collect(self._moments[:3], kept)
        new_mean = mean + (1 - self.alpha) * (kept - mean)
        spread = (kept - new_mean) ** 2  # about the new mean, as in the paper
        followed = torch.stack(
            [count + 1, new_mean, variance + (1 - self.alpha) * (spread - variance)]
        )
        level = torch.where(warm, followed, collected)
        row = torch.where(outlier, _collect(self._moments[3:], seen), 0)
        settled = row[0] >= self.warmup_steps
        moved = torch.cat([torch.where(settled, row, level), torch.where(settled, 0, row)])
        self._moments = torch.where(seen.isfinite(), moved, self._moments)
        return clip_factor_for(norm, limit.to(norm.dtype))

    def state_dict(self) -> dict[str, Any]:
        """Return count, mean and variance, of all norms and of the outliers in a row."""
        return {"moments": self._moments.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._moments = state["moments"].clone()

    def __repr__(self) -> str:
        return f"ZClip(alpha={self.alpha:g}, z_threshold={self.z_threshold:g})"


def _collect(moments: Tensor, value: Tensor) -> Tensor:
    """Return number, mean and variance with one value more, `(3,)`.

    Source: Welford 1962, "Note on a method for calculating corrected sums of squares and products".
    """
    count, mean, variance = moments.unbind()
    new_mean = mean + (value - mean) / (count + 1)
    new_variance = variance + ((value - new_mean) * (value - mean) - variance) / (count + 1)
    return torch.stack([count + 1, new_mean, new_variance])
