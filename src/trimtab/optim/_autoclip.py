"""AutoClip: a threshold taken from the history of the gradient norm."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.errors import ConfigError
from trimtab.optim._clip import clip_factor_for
from trimtab.optim._clippers import ScaleClipper


class AutoClip(ScaleClipper):
    """Clips at a percentile of the norms so far, the current one included.

    At the 10th percentile nine steps of ten are clipped: this is meant, and makes the length of
    most steps alike. The paper keeps all norms for ever; here the newest `window` count, so the
    memory is bounded and the threshold follows the run. A norm that is not finite is not kept.

    Args:
        percentile: Of the kept norms, in (0, 100].
        window: How many norms to keep, at least 1.

    Raises:
        ConfigError: One of these is out of range.

    Source: Seetharaman et al. 2020, arXiv:2007.14469, Algorithm 1.
    """

    def __init__(self, percentile: float = 10.0, window: int = 1000) -> None:
        super().__init__()
        if not 0 < percentile <= 100:
            raise ConfigError(f"percentile must be above 0 and at most 100, got {percentile!r}.")
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ConfigError(f"window must be a whole number of at least 1, got {window!r}.")
        self.percentile, self.window = float(percentile), window
        self._norms = torch.full((window,), math.nan)  # a ring; NaN is an empty place
        self._next = torch.zeros(1, dtype=torch.int64)

    @torch.no_grad()
    def coefficient(self, norm: Tensor) -> Tensor:
        """Remember one step's joint norm and judge it."""
        self._norms, self._next = self._norms.to(norm.device), self._next.to(norm.device)
        seen = norm.to(self._norms.dtype)
        finite = seen.isfinite()
        kept = torch.where(finite, seen, self._norms.gather(0, self._next))
        self._norms = self._norms.scatter(0, self._next, kept)
        self._next = torch.where(finite, (self._next + 1) % self.window, self._next)
        limit = torch.nanquantile(self._norms, self.percentile / 100)
        # A limit of 0, where most gradients vanish, would stop the run; NaN: no norm yet.
        limit = torch.where(limit > 0, limit, math.inf)
        return clip_factor_for(norm, limit.to(norm.dtype))

    def state_dict(self) -> dict[str, Any]:
        """Return the kept norms and where the next one goes."""
        return {"norms": self._norms.clone(), "next": self._next.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned.

        Raises:
            ConfigError: It is of another window.
        """
        if len(state["norms"]) != self.window:
            raise ConfigError(
                f"The saved AutoClip kept {len(state['norms'])} norms, this one keeps "
                f"{self.window}. Build it with window={len(state['norms'])}."
            )
        self._norms, self._next = state["norms"].clone(), state["next"].clone()

    def __repr__(self) -> str:
        return f"AutoClip(percentile={self.percentile:g}, window={self.window})"
