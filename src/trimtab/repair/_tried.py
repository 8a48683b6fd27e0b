"""One plan of a repair, how far it was trained, and how it compares with others."""

import math
from typing import Final

from trimtab.diagnosis import Outcome
from trimtab.repair._blind import CLEARLY
from trimtab.repair._edit import Edit
from trimtab.repair._plans import Plan
from trimtab.repair._run import Run

RECENT: Final = 10
"""Losses whose mean tells apart trials whose metric is the same, as shares of errors often are."""

SUNDRY: Final = frozenset({"use_adamw", "scale_learning_rate"})
"""Remedies that are tried whatever was found."""

LATE: Final = frozenset(
    {
        "align_batches", "cap_learning_rate", "drop_schedule", "filter_nonfinite", "repeat_early",
        "skip_batch", "skip_nonfinite", "stretch_schedule",
    }
)  # fmt: skip
"""Remedies that may do nothing within a trial, and much after it."""


class Tried:
    """One plan, and how far it was trained."""

    def __init__(self, plan: Plan, run: Run, edits: list[Edit]) -> None:
        self.plan, self.run, self.edits = plan, run, edits
        self.metric = self.value = math.nan
        self.good = False
        self.outcome: Outcome | None = None
        self.closest = math.inf
        """The least that it ever lacked of the target."""
        self.highest = -math.inf
        """The most that it had learned at any look; without a metric."""
        self.early = math.nan
        """What it was worth after the steps of a trial; NaN if nobody looked then."""
        self.gaps: list[float] = []
        """What it lacked of the target, at each of `CHECKS` and at its end."""

    @property
    def fell_back(self) -> bool:
        """Whether it had learned clearly more before, and lost that again."""
        return self.value < self.highest - CLEARLY

    @property
    def changes(self) -> str:
        """What was changed, in words; that of another plan may be the same."""
        return "; ".join(edit.diff for edit in self.edits)

    def rank(self) -> tuple[float, bool, float]:
        """Return what is compared with other trials.

        Of those with equal metrics, one that mends something odd counts more than a remedy for
        all and sundry, and among these the lower loss. Of equals the first is the likeliest.
        """
        if not any(order.action in SUNDRY for order in self.plan):
            return self.value, True, 0.0
        recent = self.run.losses[-RECENT:]
        return self.value, False, -sum(recent) / max(1, len(recent))

    def is_like(self, other: "Tried") -> bool:
        """Tell whether another plan trains step for step alike, so that it need not go on."""
        mine, theirs = self.run.losses, other.run.losses
        odd = {o.action for o in self.plan} ^ {o.action for o in other.plan}
        return mine == theirs[: len(mine)] and len(mine) > 0 and not odd & LATE
