"""The micro-batches of the open accumulation window, for replays."""

from collections.abc import Callable

import torch
from torch import Tensor

from trimtab.checkpoint import random_state
from trimtab.guard import ActiveGuard, MicroStep, TapeStep, captured, freeze
from trimtab.precision import Precision


class StepTape:
    """Collects what a replay of a `Stepper`'s next step needs.

    Args:
        guard: That replays it; None keeps nothing.
    """

    def __init__(self, guard: ActiveGuard | None) -> None:
        self._guard = guard
        self._micro_steps: list[MicroStep] = []
        self._unseen = False  # whether a micro-batch of the window cannot be replayed

    def note(
        self, loss: Tensor | Callable[[], Tensor], weight: float | Tensor, precision: Precision
    ) -> MicroStep | None:
        """Return what a replay of a micro-batch needs; None if it cannot be replayed.

        It is in the window once it is given to `add`.

        Args:
            loss: Only a function can be called again.
            weight: Samples or tokens in it.
            precision: What its forward pass runs in.
        """
        if self._guard is None or not self._guard.keeps_tape:
            return None
        if isinstance(loss, Tensor):
            self._unseen = True
            return None
        frozen = freeze(loss)
        return MicroStep(
            compute=frozen,
            factor=1.0,
            weight=weight,
            random=random_state(),
            batch=captured(frozen),
            precision=precision,
        )

    def add(
        self,
        micro: MicroStep | None,
        *,
        factor: float | Tensor,
        loss: Tensor,
        dropped: bool | Tensor,
    ) -> None:
        """Put a micro-batch that has gone backward into the window, if it can be replayed."""
        if micro is None:
            return
        micro.factor, micro.loss, micro.dropped = factor, loss, dropped
        self._micro_steps.append(micro)

    def close(
        self, optimizer: torch.optim.Optimizer, divisor: float | Tensor, scale: Tensor | None
    ) -> TapeStep | None:
        """Return what a replay of the step needs, None if it cannot be replayed; open the next one.

        Args:
            optimizer: With the settings of the step.
            divisor: What the sum of gradients is divided by.
            scale: Loss scale, by which it is divided besides.
        """
        micro_steps, unseen = self._micro_steps, self._unseen
        self.drop()
        if self._guard is None or not micro_steps or unseen:
            return None
        divisor = divisor if scale is None else divisor * scale
        return TapeStep.begin(self._guard.number + 1, micro_steps, optimizer, divisor=divisor)

    def drop(self, *, unseen: bool = False) -> None:
        """Empty the window.

        Args:
            unseen: Whether it has begun already, with micro-batches that are not known any more.
        """
        self._micro_steps, self._unseen = [], unseen
