"""The batches of a loop that is not ours, as far as it shows them, for replays."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.distributed as dist
from torch import Tensor

from trimtab.checkpoint import random_state
from trimtab.engine._own_clip import OwnClipWatch
from trimtab.engine._turns import Turns
from trimtab.guard import ActiveGuard, MicroStep, TapeStep, captured, freeze
from trimtab.precision import Precision
from trimtab.signals import StepRecord

_PRECISIONS: Final[dict[torch.dtype, Precision]] = {torch.bfloat16: "bf16", torch.float16: "fp16"}


@dataclass(frozen=True)
class ClosedStep:
    """A step whose numbers are on their way."""

    number: int
    which: int
    """The optimizer's number."""
    tape: TapeStep | None
    """What repeats it; None if that is not known."""


class LoopTape:
    """Collects the losses of a loop's micro-batches, and what gradient each was given.

    Args:
        guard: That replays them; None keeps nothing.
        optimizers: That step in the loop.
        scaler: The loop's, if it is known: it tells by what gradients were divided that the loop
            has unscaled itself.
    """

    def __init__(
        self,
        guard: ActiveGuard | None,
        optimizers: Sequence[torch.optim.Optimizer] = (),
        scaler: torch.amp.GradScaler | None = None,
    ) -> None:
        self._guard, self._scaler = guard, scaler
        self._turns = Turns(optimizers) if len(optimizers) > 1 else None
        alone = not (dist.is_available() and dist.is_initialized())
        # Several ranks write to gradients after the backward pass, when they exchange them.
        self._watches = [OwnClipWatch(optimizer) for optimizer in optimizers] if alone else []
        self._wide: str | None = None
        self._micro_steps: list[MicroStep] = []
        self._closed: deque[ClosedStep] = deque(maxlen=4)
        self._shared_loss = math.nan  # of the last step that had a backward pass of its own

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
            note = _FactorNote(micro, self._turns, self._after_backward if self._watches else None)
            loss.register_hook(note)  # type: ignore[no-untyped-call] # torch's
            self._micro_steps.append(micro)
        return loss

    def _after_backward(self) -> None:
        for watch in self._watches:
            watch.after_backward()

    def close(
        self, optimizer: torch.optim.Optimizer, divisor: float | Tensor, which: int = 0
    ) -> None:
        """Take what was collected as one step of an optimizer.

        Args:
            optimizer: With the settings of the step.
            divisor: What its gradients are divided by; NaN if nobody knows, then it is not kept.
            which: The optimizer's number.
        """
        micro_steps, self._micro_steps = self._micro_steps, []
        unscaled = isinstance(divisor, float) and math.isnan(divisor)
        watch = self._watches[which] if self._watches else None
        changed = watch is not None and watch.take(expected=int(unscaled))
        if unscaled:
            scale = None if self._scaler is None else self._scaler._scale
            divisor = math.nan if scale is None else scale.detach().clone()
        known = not (isinstance(divisor, float) and math.isnan(divisor))
        shared = self._turns is not None and self._turns.close(which, num_new=len(micro_steps))
        if self._guard is None:
            return
        tape = None
        if known and (micro_steps or shared):
            tape = TapeStep.begin(
                self._guard.number + 1, micro_steps, optimizer, divisor=divisor, which=which
            )
            tape.own_clip = watch.clip if watch is not None and changed else None
        self._closed.append(ClosedStep(self._guard.number + 1, which, tape))

    @property
    def is_whole(self) -> bool:
        """Whether the next step will not use gradients that are there already."""
        return self._turns is None or self._turns.is_whole

    def has_stale_gradients(self, which: int) -> bool:
        """Tell whether an optimizer is about to use gradients of a state that is gone."""
        return self._turns is not None and self._turns.is_stale(which, bool(self._micro_steps))

    def forget_gradients(self) -> None:
        """Note that the state has been put back, and the gradients are not of it."""
        if self._turns is not None:
            self._turns.forget()

    def take(self, record: StepRecord) -> ClosedStep | None:
        """Return the step of a record, with its numbers; None if it is not known."""
        while self._closed and self._closed[0].number < record.step:
            self._closed.popleft()
        if not self._closed or self._closed[0].number != record.step:
            return None
        closed = self._closed.popleft()
        step, values = closed.tape, record.values
        if step is None:
            return closed
        step.loss, step.norm = values["loss"], values["gradient.norm"]
        step.skipped, step.flagged = bool(values["step.skipped"]), bool(values["step.flagged"])
        if step.own_clip is not None:
            self._watches[step.which].see(step.norm)
        if step.micro_steps:
            self._shared_loss = step.loss
        else:
            step.loss = self._shared_loss
        return closed


class _FactorNote:
    """The hook of a loss that notes the gradient it is given."""

    def __init__(
        self, micro: MicroStep, turns: Turns | None, after: Callable[[], None] | None
    ) -> None:
        self.micro, self.turns, self.after = micro, turns, after

    def __call__(self, grad: Tensor) -> None:
        self.micro.factor = grad.detach().clone()
        if self.turns is not None:
            self.micro.fresh = self.turns.cleared()
        if self.after is not None:
            engine = torch.autograd.Variable._execution_engine
            engine.queue_callback(self.after)


def _precision(kind: str) -> Precision:
    if not torch.is_autocast_enabled(kind):
        return "fp32"
    return _PRECISIONS.get(torch.get_autocast_dtype(kind), "fp32")
