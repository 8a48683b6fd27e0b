"""A loss that has left what it learned: the slow way to be lost, in which no step is an outlier."""

from collections import deque
from collections.abc import Mapping
from statistics import median
from typing import Any, Final

WINDOW: Final = 20
"""Steps whose median is the level of the loss: enough for the noise of batches to average out."""

GROWN: Final = 2.0
"""How much the gradient norm has to have grown since the best level: it doubled before all of 31
measured spikes of Adam."""


class Divergence:
    """Tells when a run has lost everything that it had learned.

    That is when the median loss of the last steps is above that of the first ones, by more than
    their spread, after it had been well below; and the gradients have grown too. A loss that
    wanders, as that of an adversary or of a policy does, seldom does all of this.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque(maxlen=WINDOW)
        self._first: tuple[float, float] | None = None  # level and spread
        self._best: tuple[float, float] | None = None  # level, and the norm then
        self._since = 0

    def see(self, loss: float, norm: float) -> bool:
        """Take in a step that was made; return whether the run has diverged by now."""
        self._recent.append((loss, norm))
        self._since += 1
        if len(self._recent) < WINDOW or self._since % (WINDOW // 4):
            return False
        losses, norms = zip(*self._recent, strict=True)
        level, strength = median(losses), median(norms)
        if self._first is None:
            self._first = level, median(abs(value - level) for value in losses)
        if self._best is None or level < self._best[0]:
            self._best = level, strength
        first, spread = self._first
        best, calm = self._best
        learned = first - best > 3 * spread
        return learned and level > first + 3 * spread and strength > GROWN * calm

    def forget(self) -> None:
        """Begin anew with the recent steps: the run has been put back."""
        self._recent.clear()
        self._since = 0

    def state_dict(self) -> dict[str, Any]:
        """Return what later judgements depend on."""
        return {
            "recent": [list(pair) for pair in self._recent],
            "first": self._first,
            "best": self._best,
            "since": self._since,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._recent = deque(((a, b) for a, b in state["recent"]), maxlen=WINDOW)
        self._first = None if state["first"] is None else (state["first"][0], state["first"][1])
        self._best = None if state["best"] is None else (state["best"][0], state["best"][1])
        self._since = state["since"]
