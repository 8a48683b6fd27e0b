"""What makes recorded steps again; the engine has it, and the guard asks for it."""

from collections.abc import Callable, Sequence
from typing import Protocol

from trimtab.guard._change import Change
from trimtab.guard._tape import TapeStep

Decide = Callable[[float, float, int], bool]
"""From loss and norm of a step, and the number of its optimizer, to whether it is left out."""


class Replayed(Protocol):
    """What a replay has to tell."""

    losses: list[float]
    norms: list[float]
    skipped: list[bool]
    first_difference: int | None


class Replayer(Protocol):
    """What makes recorded steps again."""

    def run(
        self,
        steps: Sequence[TapeStep],
        change: Change | None = None,
        *,
        decide: Decide | None = None,
        after_step: Callable[[TapeStep], None] | None = None,
    ) -> Replayed:
        """Make steps again from the state as it is."""

    def measure(
        self, steps: Sequence[TapeStep], change: Change | None = None
    ) -> tuple[list[float], list[float]]:
        """Return losses and gradient norms of steps in the state as it is, and change nothing.

        Those that have no backward pass of their own are passed over.
        """

    @property
    def caps_attention(self) -> bool:
        """Whether attention logits can be capped."""

    @property
    def max_norm(self) -> float:
        """Norm to which the run clips its gradients anyway; infinite if to none."""
