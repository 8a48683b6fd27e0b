"""OLMo's rule: mean and standard deviation of the last 128 steps."""

import math
from typing import ClassVar, Final

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.guard._policy import Limits, Policy

LEAST_STD: Final = 1e-6
"""Least standard deviation, as a share of the mean: below it float32 cannot tell values apart."""


class Olmo(Policy):
    """Flags steps whose loss or gradient norm exceeds the mean of the last by 6 deviations.

    As published but for two things: a value that is not finite does not enter the window, where it
    would flag the next 128 steps, and constant values have a least deviation.

    `Spike` differs in that flagged values stay out of its statistics. Here they enter, so that a
    burst of bad batches hides its own end, and one tall spike those that follow; in return a new
    level is accepted soon. It follows a loss that falls, where the mean of 128 steps lags behind;
    and it takes long tails into account, where a standard deviation expects none.

    Args:
        window: Number of steps that are looked back at; at least 4. They are judged once half
            of them is there, the one that is judged included.
        sigma_factor: Standard deviations above the mean; finite and positive.

    Raises:
        ConfigError: One of these is out of range.

    Source: OLMo et al. 2025, arXiv:2501.00656; OLMo-core, `optim/skip_step_optimizer.py`.
    """

    name: ClassVar[str] = "olmo"

    def __init__(self, *, window: int = 128, sigma_factor: float = 6.0) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 4:
            raise ConfigError(f"window must be a whole number of at least 4, got {window!r}.")
        if not (math.isfinite(sigma_factor) and sigma_factor > 0):
            raise ConfigError(f"sigma_factor must be finite and positive, got {sigma_factor!r}.")
        self.window, self.sigma_factor = window, float(sigma_factor)
        # The last place takes what is not kept. Then: steps kept, and flagged ones in a row.
        super().__init__(
            values=torch.full((2, window + 1), math.nan),
            kept=torch.zeros((), dtype=torch.int64),
            row=torch.zeros((), dtype=torch.int64),
        )

    @torch.no_grad()
    def judge(self, loss: Tensor | None, norm: Tensor) -> Tensor:
        """Judge one step against the last ones, and remember it."""
        loss, norm, finite = self.prepare(loss, norm)
        value = torch.stack([loss, norm])
        outlier = finite & (value > self._limit()[0]).any()
        kept, row = self.memory["kept"], self.memory["row"]
        place = torch.where(finite, kept % self.window, self.window)
        self.memory["values"].index_copy_(1, place[None], value[:, None])
        self.memory["kept"] = kept + finite
        self.memory["row"] = torch.where(finite, (row + 1) * outlier, row)
        return (outlier | ~finite).float()

    @torch.no_grad()
    def accept(self) -> None:
        """Forget all but the values that were flagged last, in a row."""
        kept, row = self.memory["kept"], self.memory["row"]
        age = (kept - 1 - torch.arange(self.window + 1, device=kept.device)) % self.window
        forget = (age >= row) & (row > 0)
        self.memory["values"] = torch.where(forget, math.nan, self.memory["values"])

    def limits(self) -> Limits:
        """Return limits and means."""
        limit, mean = self._limit()
        loss, norm, loss_level, norm_level = torch.cat([limit, mean]).tolist()
        return Limits(loss=loss, norm=norm, loss_level=loss_level, norm_level=norm_level)

    def _limit(self) -> tuple[Tensor, Tensor]:
        """Return limits, infinite while there are too few values, and means, each `(2,)`."""
        values = self.memory["values"][:, : self.window]
        known = ~values.isnan()
        number = known.sum(dim=1)
        mean = values.nanmean(dim=1)
        squares = (values - mean[:, None]).square().nansum(dim=1)
        std = (squares / (number - 1)).sqrt().maximum(LEAST_STD * mean.abs())
        judged = number >= self.window // 2 - 1
        return torch.where(judged, mean + self.sigma_factor * std, math.inf), mean

    def __repr__(self) -> str:
        return f"Olmo(window={self.window}, sigma_factor={self.sigma_factor:g})"
