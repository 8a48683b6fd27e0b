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
    flags: deque[bool] = field(default_factory=lambda: deque(maxlen=RECENT))
    """Which of the last steps were bad."""
    overflows: int = 0
    """Overflows of fp16 in a row."""
    escalated: bool = False
    """Whether the cause of the streak has been looked for."""
    limits: Limits = field(default_factory=Limits)
    """What was normal before the last incident."""
    norm_limit: float | None = None
    """Norm to which gradients are clipped besides, since an incident showed the need."""
    stale_until: int = 0
    """Steps up to this one were made from a state that has been put back."""
    next_snapshot: int = 0
    """No snapshot is due before this step."""
    num_made_again: int = 0
    """Steps made after all that had been left out, as long as nobody has asked."""

    overflowed: int = 0
    """The last bad step that is sound in float32, and so left the range of 16 bits."""

    def is_crowded(self, max_share: float) -> bool:
        """Tell whether more than this share of the last steps were bad."""
        share = sum(self.flags) / len(self.flags)
        return len(self.flags) == self.flags.maxlen and share > max_share

    def end_streak(self) -> None:
        """Begin anew: the last step was good after all."""
        self.streak.clear()
        self.escalated = False

    def state_dict(self) -> dict[str, Any]:
        """Return what later decisions depend on."""
        return {
            "number": self.number,
            "flags": list(self.flags),
            "streak": list(self.streak),
            "overflows": self.overflows,
            "escalated": self.escalated,
            "norm_limit": self.norm_limit,
            "limits": asdict(self.limits),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.number = state["number"]
        self.flags = deque(state["flags"], maxlen=RECENT)
        self.streak = list(state["streak"])
        self.overflows, self.escalated = state["overflows"], state["escalated"]
        self.norm_limit = state["norm_limit"]
        self.limits = Limits(**state.get("limits", {}))
