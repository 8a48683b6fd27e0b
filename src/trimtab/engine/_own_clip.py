"""What a loop does by itself to gradients between its backward pass and `optimizer.step()`."""

import math
from typing import Final

import torch
from torch import Tensor

from trimtab.guard import OwnClip

_DIGITS: Final = 4
"""Significant digits that people give a largest norm at most."""

_NUM_SEEN: Final = 2
"""Steps that have to end at the largest norm, and that a round one, before it is believed: norms
that nobody has clipped do not have the same largest value twice."""

_EQUAL: Final = 1e-5
"""Relative difference up to which norms count as the same: torch adds 1e-6 to the norm."""


_LEAST: Final = 0.05
"""Norm below which the 1e-6 that torch adds would show in these digits."""


class OwnClipWatch:
    """Sees whether gradients of an optimizer were changed since the backward pass, and how.

    A look at the version counter of one gradient tells whether, at no cost to speak of. How, is
    told by the norms that the steps had: `clip_grad_norm_` leaves many at the same round number.

    Args:
        optimizer: That uses the gradients.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._noted: tuple[Tensor, Tensor, int] | None = None
        self._largest, self._num_largest = 0.0, 0
        self.clip: Final = OwnClip()
        """What is known of it; the same for all steps."""

    def after_backward(self) -> None:
        """Note the gradients as the backward pass has left them."""
        params = (p for group in self._optimizer.param_groups for p in group["params"])
        first = next((p for p in params if p.grad is not None), None)
        grad = None if first is None else first.grad
        self._noted = None
        if first is not None and grad is not None:
            self._noted = first, grad, grad._version

    def take(self, *, expected: int = 0) -> bool:
        """Return whether the loop has changed the gradients since then.

        Args:
            expected: Changes that are known of: a loop's `GradScaler.unscale_()` is one.
        """
        noted, self._noted = self._noted, None
        if noted is None:
            return False
        param, grad, version = noted
        return param.grad is not grad or grad._version > version + expected

    def see(self, norm: float) -> None:
        """Take in the norm of gradients that were changed, as they came to the optimizer.

        A clipped loop has many steps of the same norm, round and the largest of all.
        """
        if not math.isfinite(norm):
            return
        if norm > self._largest * (1 + _EQUAL):
            self._largest, self._num_largest, self.clip.max_norm = norm, 0, None
        rounded = float(f"{norm:.{_DIGITS}g}")
        # torch divides by the norm plus 1e-6, and numbers are float32.
        round_enough = abs(norm - rounded) <= 1.5e-6 + 2e-6 * rounded
        if rounded >= _LEAST and round_enough and norm >= self._largest * (1 - _EQUAL):
            self._num_largest += 1
            if self._num_largest >= _NUM_SEEN:
                self.clip.max_norm = rounded
