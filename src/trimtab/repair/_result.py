"""What repair returns."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from trimtab.engine import TrainingSetup
from trimtab.findings import Finding, to_json
from trimtab.repair._edit import Edit

MAX_WORDS: Final = 200
"""Letters of an error that are told."""


def in_words(error: BaseException | None) -> str:
    """Return an error in one line."""
    if error is None:
        return ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:MAX_WORDS]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One training run of a repair."""

    name: str
    """What was changed, such as `"scale_learning_rate(factor=0.1)"`."""
    steps: int
    """Calls of the loop body."""
    value: float
    """The metric, or the share of the loss that was learned; NaN if it cannot be told."""
    good: bool
    """Whether the run was healthy and reached the target."""
    error: str = ""
    """What it raised, which ended it; empty if it raised nothing."""

    def __str__(self) -> str:
        if self.error:
            return f"{self.name}: failed after {self.steps} steps with {self.error}"
        state = "good" if self.good else "not good"
        return f"{self.name}: {self.value:.4g} after {self.steps} steps, {state}"


@dataclass(frozen=True, kw_only=True)
class RepairResult:
    """A trained setup, and what it took.

    Attributes:
        repaired: Whether the run was bad, was changed, and is good now. A run that was healthy was
            not repaired; nor was one whose last check failed.
        healthy_before: Whether the run was good as it was; it then comes back as any plain loop
            would have trained it.
        setup: The best that was reached; trained for all steps, unless it is bad and either broke
            or was stopped for want of budget.
        metric: Of the trained model; NaN without a metric.
        edits: What was changed, in order.
        advice: What to write into the program, and what no program can do.
        findings: What was found wrong with the run as it was, most causal first.
        attempts: Every training run, short trials too.
        extra: Training beyond one run of `steps`, as a multiple of `steps`.
    """

    repaired: bool
    healthy_before: bool
    setup: TrainingSetup
    metric: float
    edits: Sequence[Edit]
    advice: Sequence[str]
    findings: Sequence[Finding]
    attempts: Sequence[Attempt]
    extra: float

    @property
    def healthy(self) -> bool:
        """Whether the trained setup is good, with or without a repair."""
        return self.repaired or self.healthy_before

    @property
    def diff(self) -> str:
        """What was changed, one line each; empty if nothing was."""
        return "\n".join(edit.diff for edit in self.edits)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the setup as what JSON can hold; NaN becomes None."""
        return {
            "repaired": self.repaired,
            "healthy_before": self.healthy_before,
            "metric": self.metric if math.isfinite(self.metric) else None,
            "edits": [edit.to_dict() for edit in self.edits],
            "advice": list(self.advice),
            "findings": json.loads(to_json(self.findings)),
            "attempts": [str(attempt) for attempt in self.attempts],
            "extra": self.extra,
        }

    def __str__(self) -> str:
        """Return the outcome as text."""
        if self.healthy_before:
            return "healthy: nothing was changed"
        verdict = "repaired" if self.repaired else "not repaired"
        lines = [f"{verdict}, with {self.extra:.2f} times the training on top"]
        lines += [f"  found   {finding}" for finding in self.findings[:3]]
        lines += [f"  change  {edit.diff}" for edit in self.edits]
        lines += [f"  advice  {text}".replace("\n", "\n          ") for text in self.advice]
        return "\n".join(lines)
