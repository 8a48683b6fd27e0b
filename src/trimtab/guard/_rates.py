"""Learning rates for the time of one step: held down after an incident, and brought back."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from torch.optim import Optimizer

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
        """Largest rate of any group; lifted when the schedule asks for less by itself."""
        self.factor = 1.0
        """What every rate is multiplied by."""
        self.used: list[float] | None = None
        """Rates of all groups in the last step; None if they were the schedule's own."""
        self._before: list[tuple[dict[str, Any], Any]] = []

    @property
    def changes(self) -> bool:
        """Whether a step is made with other rates than the schedule's."""
        return self._left > 0 or self.cap is not None or self.factor != 1

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
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                old = group["lr"]
                self._before.append((group, old))
                rate = float(old) * self.factor * share
                if self.cap is not None:
                    rate = min(rate, self.cap)
                self.used.append(rate)
                group["lr"] = old.new_full(old.shape, rate) if hasattr(old, "new_full") else rate

    def put_back(self, *, stepped: bool) -> None:
        """Put back what the schedule set, after the step."""
        if not self._before:
            return
        asked = [float(old) for _, old in self._before]
        for group, old in self._before:
            group["lr"] = old
        self._before.clear()
        if stepped:
            self._left = max(0, self._left - 1)
            if self.cap is not None and max(asked) <= self.cap:
                self.cap = None

    def state_dict(self) -> dict[str, Any]:
        """Return what later steps depend on."""
        return {"left": self._left, "cap": self.cap, "factor": self.factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._left, self.cap, self.factor = state["left"], state["cap"], state["factor"]
