"""What an optimizer got from micro-batches, beside what the whole batch would have given it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN = 10.0
"""Tolerances are this many times the rounding error that was measured."""
UNEXPLAINED = 0.02
"""Share of a gradient that no weights explain, up to which they tell; bfloat16 makes up to 0.01."""
SMALLEST = 1e-5
"""No tolerance is below it: float32 keeps seven digits, of which sums lose one or two."""


@dataclass(frozen=True, kw_only=True)
class SplitBatch:
    """One batch, cut into micro-batches and accumulated.

    A gradient is told by the weights of the micro-batches' own gradients in it: with `n` examples
    of `N`, a micro-batch's weight in the gradient of the mean loss is `n / N`.

    Attributes:
        sizes: Examples of each micro-batch.
        right: Weights of the micro-batches in the whole batch's gradient, `(num_micro_batches,)`.
        right_error: Share of it that no weights explain, in eval mode.
        got: Weights in the gradient that the optimizer got.
        got_error: Share of it that no weights explain.
        noise: Relative rounding error of the model's own precision against float64.
        condition: By how much an error of the gradient may be larger in the weights.
        loud: Weights with the loss multiplied by a large number; None if that was not possible.
        left_over: Weight of the first window's gradient in that of the second; None if not known.
        mixing: Relative difference of the two gradients in training mode, without dropout; None if
            random numbers hide it.
        norms: Modules that look at the whole batch, such as BatchNorm.
    """

    sizes: Sequence[int]
    right: Tensor
    right_error: float
    got: Tensor
    got_error: float
    noise: float
    condition: float
    loud: Tensor | None = None
    left_over: float | None = None
    mixing: float | None = None
    norms: Sequence[str] = ()

    @property
    def num(self) -> int:
        """Number of micro-batches."""
        return len(self.sizes)

    @property
    def tolerance(self) -> float:
        """Relative difference of weights that rounding may make."""
        rounding = max(MARGIN * self.noise, 3 * self.got_error)
        return max(rounding * self.condition, SMALLEST)

    @property
    def mixes(self) -> bool:
        """Whether examples look at each other in eval mode too, so that weights tell nothing."""
        return self.right_error > max(MARGIN * self.noise, SMALLEST)

    @property
    def tells(self) -> bool:
        """Whether weights tell what was done to the gradient."""
        return not self.mixes and self.got_error <= UNEXPLAINED

    @property
    def ratio(self) -> float | None:
        """The gradient over the whole batch's, if it is a multiple of it."""
        ratio = float(self.got.sum() / self.right.sum())
        return ratio if self._near(self.got, ratio * self.right) else None

    @property
    def even(self) -> float | None:
        """The weight of every micro-batch, if they are all alike."""
        mean = float(self.got.mean())
        return mean if self._near(self.got, torch.full_like(self.got, mean)) else None

    @property
    def is_even(self) -> bool:
        """Whether the micro-batches should count alike."""
        return self._near(self.right, torch.full_like(self.right, float(self.right.mean())))

    @property
    def is_by_examples(self) -> bool:
        """Whether the micro-batches count by their numbers of examples."""
        sizes = torch.tensor(self.sizes, dtype=self.got.dtype)
        together = abs(float(self.got.sum() / self.right.sum()) - 1) <= self.tolerance
        return together and self._near(self.got, sizes / sizes.sum())

    @property
    def lost(self) -> list[int]:
        """Numbers, from 1, of micro-batches that are not in the gradient at all."""
        near = self.tolerance * float(self.right.mean())
        return [i for i, w in enumerate(self.got.tolist(), start=1) if abs(w) <= near]

    @property
    def is_right(self) -> bool:
        """Whether the optimizer got the whole batch's gradient."""
        return self._near(self.got, self.right)

    @property
    def is_clipped_apart(self) -> bool:
        """Whether a loud loss changes the shares of the micro-batches."""
        if self.loud is None or not float(self.got.sum()) or not float(self.loud.sum()):
            return False
        shares, loud = self.got / self.got.sum(), self.loud / self.loud.sum()
        apart = float((loud - shares).abs().max() / shares.abs().mean())
        return apart > max(self.tolerance, 1e-3)  # the loud gradient was clipped: less exact

    def _near(self, value: Tensor, wanted: Tensor) -> bool:
        scale = float(wanted.abs().mean())
        return bool(scale) and float((value - wanted).abs().max()) <= self.tolerance * scale


def percent(weights: Tensor) -> str:
    """Return weights in words, as shares in per cent."""
    rounded = [round(100 * w, 3) for w in weights.tolist()]
    return ", ".join(f"{w:.3g} %" if abs(w) >= 0.01 else "0 %" for w in rounded)
