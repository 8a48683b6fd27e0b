"""The batches of a loop that is not ours, as far as it shows them, for replays."""

import math
from collections import deque
from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from trimtab.checkpoint import random_state
from trimtab.guard import ActiveGuard, MicroStep, TapeStep, captured, freeze
from trimtab.precision import Precision
from trimtab.signals import StepRecord

_PRECISIONS: Final[dict[torch.dtype, Precision]] = {torch.bfloat16: "bf16", torch.float16: "fp16"}


class LoopTape:
    """Collects the losses of a loop's micro-batches, and what gradient each was given.

    Args:
        guard: That replays them; None keeps nothing.
        scaler: The loop's, if it is known: it tells by what gradients were divided that the loop
            has unscaled itself.
    """

    def __init__(
        self, guard: ActiveGuard | None, scaler: torch.amp.GradScaler | None = None
    ) -> None:
        self._guard, self._scaler = guard, scaler
        self._wide: str | None = None
        self._micro_steps: list[MicroStep] = []
        self._closed: deque[TapeStep] = deque(maxlen=4)  # whose numbers are on their way

    def widen(self, device_type: str) -> None:
        """Compute in float32 from now on, whatever precision the loop asks for."""
        self._wide = device_type

    def compute(self, function: Callable[[], Tensor]) -> Tensor:
        """Return what a function computes, and remember how to do it again."""
        if self._wide is not None:
            with torch.autocast(self._wide, enabled=False):
                return self._compute(function)
        return self._compute(function)

    def _compute(self, function: Callable[[], Tensor]) -> Tensor:
        guard = self._guard
        if guard is None or not guard.keeps_tape or not torch.is_grad_enabled():
            return function()
        frozen = freeze(function)
        random = random_state()
        loss = function()
        micro = MicroStep(
            compute=frozen,
            factor=math.nan,
            weight=1.0,
            random=random,
            batch=captured(frozen),
            loss=loss.detach(),
            precision=_precision(loss.device.type),
        )
        if loss.requires_grad:
            loss.register_hook(_FactorNote(micro))  # type: ignore[no-untyped-call] # torch's
            self._micro_steps.append(micro)
        return loss

    def close(self, optimizer: torch.optim.Optimizer, divisor: float | Tensor) -> None:
        """Take what was collected as one step of an optimizer.

        Args:
            optimizer: With the settings of the step.
            divisor: What its gradients are divided by; NaN if nobody knows, then it is not kept.
        """
        micro_steps, self._micro_steps = self._micro_steps, []
        if isinstance(divisor, float) and math.isnan(divisor):
            scale = None if self._scaler is None else self._scaler._scale
            divisor = math.nan if scale is None else scale.detach().clone()
        known = not (isinstance(divisor, float) and math.isnan(divisor))
        if self._guard is None or not micro_steps or not known:
            return
        self._closed.append(
            TapeStep.begin(self._guard.number + 1, micro_steps, optimizer, divisor=divisor)
        )

    def take(self, record: StepRecord) -> TapeStep | None:
        """Return the step of a record, with its numbers; None if it is not known."""
        while self._closed and self._closed[0].number < record.step:
            self._closed.popleft()
        if not self._closed or self._closed[0].number != record.step:
            return None
        step = self._closed.popleft()
        values = record.values
        step.loss, step.norm = values["loss"], values["gradient.norm"]
        step.skipped, step.flagged = bool(values["step.skipped"]), bool(values["step.flagged"])
        return step


class _FactorNote:
    """The hook of a loss that notes the gradient it is given."""

    def __init__(self, micro: MicroStep) -> None:
        self.micro = micro

    def __call__(self, grad: Tensor) -> None:
        self.micro.factor = grad.detach().clone()


def _precision(kind: str) -> Precision:
    if not torch.is_autocast_enabled(kind):
        return "fp32"
    return _PRECISIONS.get(torch.get_autocast_dtype(kind), "fp32")
