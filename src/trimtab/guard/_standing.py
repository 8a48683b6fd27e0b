"""Where a guarded run stands: the numbers that watching it, telling of it and going back share."""

from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from trimtab.guard._policy import Limits

RECENT: Final = 100
"""Steps over which the share of outliers is taken; `Guard.max_share` is of them."""


@dataclass(kw_only=True)
class Standing:
    """What the parts of a guard know together, and change in turn."""

    number: int = 0
    """Steps so far, those left out among them."""
    streak: list[int] = field(default_factory=list)
    """Numbers of the bad steps in a row; empty while all is well."""
    bad_runs: dict[int, int] = field(default_factory=dict)
    """How many steps in a row each optimizer has had that were bad; those without are not in it."""
    flags: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Which of the last steps were bad."""
    overflows: int = 0
    """Overflows of fp16 in a row."""
    escalated: bool = False
    """Whether the cause of the streak has been looked for."""
    limits: Limits = field(default_factory=Limits)
    """What was normal before the last incident, in steps of the optimizer that it began with."""
    every_limit: list[Limits] = field(default_factory=list)
    """The same of each optimizer."""
    norm_limit: float | None = None
    """Norm to which gradients are clipped besides, since an incident showed the need."""
    norm_limited: int | None = None
    """Number of the optimizer whose gradients are; None for all of them."""
    stale_until: int = 0
    """Steps up to this one were made from a state that has been put back."""
    next_snapshot: int = 0
    """No snapshot is due before this step."""
    num_made_again: int = 0
    """Steps made after all that had been left out, as long as nobody has asked."""

    goes_on_from_replay: bool = False
    """Whether the state is that of a replay, since it was last put back."""
    overflowed: int = 0
    """The last bad step that is sound in float32, and so left the range of 16 bits."""

    def is_crowded(self, max_share: float) -> bool:
        """Tell whether more than this share of the last steps were bad."""
        share = sum(self.flags) / len(self.flags)
        return len(self.flags) == self.flags.maxlen and share > max_share

    def note_bad(self, number: int, which: int) -> None:
        """Count a bad step in."""
        self.streak.append(number)
        self.bad_runs[which] = self.bad_runs.get(which, 0) + 1

    def note_good(self, which: int) -> None:
        """Take in a good step; of several optimizers, each has to have had one to end a streak."""
        self.bad_runs.pop(which, None)
        if not self.bad_runs:
            self.end_streak()

    def is_long(self, steps: int) -> bool:
        """Tell whether an optimizer has had this many bad steps in a row."""
        return max(self.bad_runs.values(), default=0) >= steps

    def limit_of(self, which: int) -> float | None:
        """Return the norm to which an optimizer's gradients are clipped besides, if to any."""
        return self.norm_limit if self.norm_limited in {None, which} else None

    def end_streak(self) -> None:
        """Begin anew: the last step was good after all."""
        self.bad_runs.clear()
        self.streak.clear()
        self.escalated = False

    def state_dict(self) -> dict[str, Any]:
        """Return what later decisions depend on."""
        return {
            "number": self.number,
            "flags": list(self.flags),
            "streak": list(self.streak),
            "bad_runs": [list(pair) for pair in self.bad_runs.items()],
            "overflows": self.overflows,
            "escalated": self.escalated,
            "norm_limit": self.norm_limit,
            "norm_limited": self.norm_limited,
            "limits": asdict(self.limits),
            "every_limit": [asdict(limits) for limits in self.every_limit],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.number = state["number"]
        self.flags = deque(state["flags"], maxlen=RECENT)
        self.streak = list(state["streak"])
        self.overflows, self.escalated = state["overflows"], state["escalated"]
        self.norm_limit = state["norm_limit"]
        self.norm_limited = state.get("norm_limited")
        self.bad_runs = dict(state.get("bad_runs", [[0, len(self.streak)]] if self.streak else ()))
        self.limits = Limits(**state.get("limits", {}))
        self.every_limit = [Limits(**limits) for limits in state.get("every_limit", ())]
