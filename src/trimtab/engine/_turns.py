"""Whose turn it is: how several optimizers of one loop share backward passes and gradients."""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

_LOOKED_AT: Final = 4096
"""Elements of a gradient that are looked at to see whether it was set to zero: it takes
microseconds, and a gradient that is zero in all of them has as a rule been set to zero."""


class Turns:
    """Follows the gradients of several optimizers from the outside, by one parameter of each.

    Args:
        optimizers: Of one loop, at least two.
    """

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self._optimizers = list(optimizers)
        self._samples: list[Tensor | None] = [None] * len(self._optimizers)
        self._last: int | None = None
        self._followed: dict[int, bool] = {}
        self._stale: set[int] = set()
        self._shows_losses = False

    def cleared(self) -> frozenset[int]:
        """Return the optimizers that have no gradients at this moment, when a pass begins."""
        self._stale.clear()
        return frozenset(i for i, p in enumerate(self._samples) if p is None or _is_clear(p))

    def close(self, which: int, *, num_new: int) -> bool:
        """Take in that an optimizer steps; return whether it uses gradients that were there.

        Args:
            which: The optimizer.
            num_new: Backward passes since the last step.
        """
        self._shows_losses |= num_new > 0
        self._samples[which] = self._sample(which)
        if self._last is not None:
            self._followed[self._last] = num_new == 0
        self._last = which
        self._stale.discard(which)
        return num_new == 0 and self._shows_losses

    def _sample(self, which: int) -> Tensor | None:
        """Return a parameter that has a gradient; as a rule the first one has."""
        groups = self._optimizers[which].param_groups
        return next((p for group in groups for p in group["params"] if p.grad is not None), None)

    @property
    def is_whole(self) -> bool:
        """Whether the next step has a backward pass of its own, as far as the last round shows."""
        if not self._shows_losses or self._last is None:
            return True
        return not self._followed.get(self._last, True)

    def forget(self) -> None:
        """Note that the state has been put back: gradients that are there are not of it."""
        if self._shows_losses:
            self._stale = set(range(len(self._optimizers))) - {self._last}

    def is_stale(self, which: int, has_new: bool) -> bool:  # noqa: FBT001 # a fact, not a flag
        """Tell whether an optimizer is about to use gradients of a state that is gone."""
        return which in self._stale and not has_new


def _is_clear(param: Tensor) -> bool:
    """Tell whether a gradient is None or, where the host may look, zero."""
    grad = param.grad
    if grad is None:
        return True
    if grad.device.type != "cpu" or grad.is_sparse:
        return False  # looking would wait for the device
    return not grad.reshape(-1)[:_LOOKED_AT].any()
