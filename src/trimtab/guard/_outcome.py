"""What the engine tells the guard about a step, and what it hears back."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from trimtab.guard._tape import TapeStep

Return = Literal["", "made again", "went back"]
"""How the guard changed the state of training after a step."""


@dataclass(kw_only=True)
class Outcome:
    """What one step did, in numbers."""

    loss: float
    norm: float
    skipped: bool
    flagged: bool
    overflow: bool = False
    """Whether it was skipped because fp16 gradients overflowed, which is how the scale is found."""
    values: Mapping[str, float] | None = None
    """Further signals, for the incident's page."""
    tape: TapeStep | None = None
    """The step's batches, if they are known."""
    number: int | None = None
    """Of the step; None for the newest."""
    which: int = 0
    """The number of the optimizer that made it."""
