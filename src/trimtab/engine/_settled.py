"""What steps have come to: their outcomes, read when the host has them, and what follows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from trimtab.engine._pitfalls import ClipWatch
from trimtab.engine._result import StepResult
from trimtab.engine._update import Update
from trimtab.errors import DivergedError
from trimtab.guard import ActiveGuard, Outcome, Return, TapeStep
from trimtab.signals import Readback


@dataclass(frozen=True)
class Pending:
    """A step whose outcome is on its way to the host."""

    values: Readback
    weight: float | Tensor
    result: StepResult
    tape: TapeStep | None


class Counters:
    """Number of updates that a state has in it; goes back with a snapshot."""

    def __init__(self) -> None:
        self.steps = 0

    def state_dict(self) -> dict[str, int]:
        """Return the number."""
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Take up what `state_dict` returned."""
        self.steps = state["steps"]


class Settled:
    """Takes in what each step did: counts, moves the schedule, and tells the guard.

    Args:
        counters: Counts the updates.
        schedule: Moved once for every step that was not skipped.
        guard: Is told of each step; None if there is none.
        accumulate: Micro-batches for each step.
        max_skips: Skipped steps in a row before the run is stopped.
        clear_gradients: Forgets those of a state that is gone.
    """

    def __init__(
        self,
        counters: Counters,
        *,
        schedule: LRScheduler | None,
        guard: ActiveGuard | None,
        accumulate: int,
        max_skips: int,
        clear_gradients: Callable[[], None],
    ) -> None:
        self.counters: Final = counters
        self.skipped_steps = 0
        """Steps left out so far."""
        self.skips_in_a_row = 0
        self.max_skips = max_skips
        self._schedule, self._guard, self._accumulate = schedule, guard, accumulate
        self._clear_gradients = clear_gradients
        self._clip_watch = ClipWatch()
        self._pending: Pending | None = None

    def wait_for(self, pending: Pending) -> None:
        """Take a step whose outcome is on its way."""
        self._pending = pending

    def take_in(self) -> bool:
        """Read the last step's outcome, if it has not been read, and act on it.

        Returns:
            Whether the guard has put the run back.

        Raises:
            DivergedError: More than `max_skips` steps in a row were skipped, or the guard has put
                the run back too often.
        """
        if self._pending is None:
            return False
        pending, self._pending = self._pending, None
        found_inf, norm, coefficient, loss, flagged, dropped = pending.values.numbers()
        if not found_inf:
            self.counters.steps += 1
            self.skips_in_a_row = 0
            self._move_schedule(pending.weight)
            self._clip_watch.see(coefficient, norm)
        else:
            self.skipped_steps += 1
            self.skips_in_a_row += 1
        returned = self._tell_guard(
            pending, loss, norm, skipped=bool(found_inf), flagged=bool(flagged)
        )
        if dropped and not found_inf and self._guard is not None:
            self._guard.note_dropped(round(dropped), self._accumulate, pending.tape)
        if returned:
            self.skips_in_a_row = 0
        if self._guard is not None:
            self.skipped_steps -= self._guard.take_num_made_again()
        pending.result.made_again = returned == "made again"
        if self.skips_in_a_row > self.max_skips:
            raise DivergedError(
                f"{self.skips_in_a_row} steps in a row had a non-finite loss or gradient and were "
                "skipped. Parameters, optimizer and schedule are as the last good step left them. "
                "Look at the data and the loss first; then lower the learning rate or warm up "
                "longer."
            )
        return returned != ""

    def _tell_guard(
        self, pending: Pending, loss: float, norm: float, *, skipped: bool, flagged: bool
    ) -> Return:
        """Let the guard take in a step; return whether it has changed the state."""
        if self._guard is None:
            return ""
        tape = pending.tape
        if tape is not None:
            tape.loss, tape.norm, tape.skipped, tape.flagged = loss, norm, skipped, flagged
        overflow = skipped and pending.result.loss_scale > 1 and math.isfinite(loss)
        outcome = Outcome(
            loss=loss,
            norm=norm,
            skipped=skipped,
            flagged=flagged,
            overflow=overflow and not math.isfinite(norm),
            values={"learning_rate": pending.result.lr},
            tape=tape,
        )
        returned = self._guard.note(outcome)
        if returned:
            self._clear_gradients()
        return returned

    def _move_schedule(self, weight: float | Tensor) -> None:
        if self._schedule is None:
            return
        if getattr(self._schedule, "counts_tokens", False):
            self._schedule.step_tokens(round(float(weight)))  # type: ignore[attr-defined]
        else:
            self._schedule.step()

    def state_dict(self) -> dict[str, Any]:
        """Return what has been counted."""
        return {
            "steps": self.counters.steps,
            "skipped_steps": self.skipped_steps,
            "skips_in_a_row": self.skips_in_a_row,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned; a step that is on its way is forgotten."""
        self._pending = None
        self.counters.steps, self.skipped_steps = state["steps"], state["skipped_steps"]
        self.skips_in_a_row = state["skips_in_a_row"]


def read_back(
    update: Update | None, loss: float | Tensor = math.nan, dropped: float | Tensor = 0.0
) -> Readback:
    """Send the outcome of an update on its way to the host.

    Args:
        update: What it did; None if there was none, as it would have been of a state that is gone.
        loss: Of the step.
        dropped: Micro-batches that were left out of it.
    """
    if update is None:
        values = [1.0, math.nan, 1.0, math.nan, 0.0, 0.0]
        return Readback([torch.tensor(value) for value in values])
    norm, flagged = update.norms.total, update.flagged
    return Readback([update.found_inf, norm, update.coefficient, loss, flagged, dropped])
