"""Learning rates for the time of one step: held down after an incident, and brought back."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch.optim import Optimizer

JUMP: Final = 2.0
"""Ratio of two learning rates in a row from which on the rate has jumped: no schedule in use
doubles its rate from one step to the next, but for the first steps of a warm-up."""

CALM: Final = 20
"""Steps in a row at an ordinary rate after which a jump is over."""

LEAST: Final = 0.1
"""Share of its learning rate that a run starts with again after a return to a snapshot."""


class Rates:
    """Changes the learning rates of optimizers while a step is made, and only then.

    So the user's schedule is never disturbed: what it set is there again when it moves on.

    Args:
        optimizers: Whose groups are changed.
        rewarm: Steps over which the rate comes back.
    """

    def __init__(self, optimizers: Sequence[Optimizer], *, rewarm: int) -> None:
        self._optimizers, self._rewarm = optimizers, rewarm
        self._left = 0
        self.cap: float | None = None
        """Rate before a jump; what is far above it is brought down as much as it had jumped."""
        self.jump = 1.0
        """How much it had jumped."""
        self._jumped: int | None = None  # which optimizer's it was; None for all
        self._calm = 0
        self.factor = 1.0
        """What every rate is multiplied by."""
        self.used: list[float] | None = None
        """Rates of all groups in the last step; None if they were the schedule's own."""
        self._before: list[tuple[int, dict[str, Any], Any]] = []

    @property
    def changes(self) -> bool:
        """Whether a step is made with other rates than the schedule's."""
        return self._left > 0 or self.cap is not None or self.factor != 1

    def hold(self, before: float, after: float, which: int | None = None) -> None:
        """Undo a jump of the learning rate, and keep what the schedule makes of it otherwise.

        The rate is divided by the jump as long as it is far above what it was before, and until
        it has not been for a while.

        Args:
            before: Rate before it jumped.
            after: Rate after that.
            which: Number of the optimizer whose rate it is; None for all of them.
        """
        self.cap, self.jump, self._calm = before, max(1.0, after / before), 0
        self._jumped = which

    def begin_rewarm(self) -> None:
        """Let the rate rise from a tenth to what it should be."""
        self._left = self._rewarm

    def lower(self) -> None:
        """Set the rates for the step that is about to be made."""
        self.used = None
        if not self.changes:
            return
        self.used = []
        share = 1.0
        if self._left:
            share = LEAST + (1 - LEAST) * (1 - self._left / self._rewarm)
        for number, optimizer in enumerate(self._optimizers):
            for group in optimizer.param_groups:
                old = group["lr"]
                self._before.append((number, group, old))
                rate = float(old) * self.factor * share
                if self._is_high(number, float(old)):
                    rate /= self.jump
                self.used.append(rate)
                group["lr"] = old.new_full(old.shape, rate) if hasattr(old, "new_full") else rate

    def put_back(self, *, stepped: bool) -> None:
        """Put back what the schedule set, after the step."""
        if not self._before:
            return
        high = [self._is_high(number, float(old)) for number, _, old in self._before]
        for _, group, old in self._before:
            group["lr"] = old
        self._before.clear()
        if stepped:
            self._left = max(0, self._left - 1)
            self._calm = 0 if any(high) else self._calm + 1
            if self._calm >= CALM:
                self.cap = None

    def used_by(self, which: int) -> list[float] | None:
        """Return the rates of one optimizer's groups in the last step, if not the schedule's."""
        if self.used is None:
            return None
        counts = [len(optimizer.param_groups) for optimizer in self._optimizers]
        first = sum(counts[:which])
        return self.used[first : first + counts[which]]

    def _is_high(self, which: int, rate: float) -> bool:
        if self.cap is None or self._jumped not in {None, which}:
            return False
        return rate > JUMP * self.cap

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on."""
        names = ("left", "cap", "jump", "calm", "factor", "jumped")
        values = (self._left, self.cap, self.jump, self._calm, self.factor, self._jumped)
        return dict(zip(names, values, strict=True))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._left, self.cap, self.jump = state["left"], state["cap"], state["jump"]
        self._calm, self.factor = state["calm"], state["factor"]
        self._jumped = state.get("jumped")
