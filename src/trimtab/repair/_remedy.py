"""The remedies that a program can apply, by the name of their action."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError
from trimtab.repair._edit import Edit


@dataclass(frozen=True, kw_only=True)
class Order:
    """A remedy that is to be applied."""

    action: str
    """Key of `REMEDIES`."""
    args: Mapping[str, Any] = field(default_factory=dict)
    site: str = ""
    """Module or parameter that a finding names; empty for the run as a whole."""
    reason: str = ""
    """Code of the finding that asks for it; empty for a remedy that is tried on suspicion."""
    sample: Sequence[tuple[Any, Any]] = field(default=(), repr=False, compare=False)
    """Batches that were seen before, for remedies that measure; filled in by `apply`."""

    def __str__(self) -> str:
        given = ", ".join(f"{k}={_short(v)}" for k, v in self.args.items())
        return f"{self.action}({given})" if given else self.action


Remedy = Callable[[TrainingSetup, Order], list[Edit]]
"""Changes a fresh setup in place, and returns what it changed; nothing if nothing was to be done.
"""

REMEDIES: Final[dict[str, Remedy]] = {}


def remedy(*actions: str) -> Callable[[Remedy], Remedy]:
    """Enter a function as the remedy for these actions."""

    def enter(function: Remedy) -> Remedy:
        for action in actions:
            REMEDIES[action] = function
        return function

    return enter


def apply(
    setup: TrainingSetup, orders: Sequence[Order], sample: Sequence[tuple[Any, Any]] = ()
) -> list[Edit]:
    """Apply remedies to a fresh setup, one after another.

    Args:
        setup: Changed in place.
        orders: In the order in which they are applied.
        sample: Some of its batches, from which means and ranges are taken.

    Raises:
        ConfigError: There is no such remedy.
    """
    edits: list[Edit] = []
    for order in orders:
        if order.action not in REMEDIES:
            raise ConfigError(
                f"There is no remedy {order.action!r}. Known are: {', '.join(sorted(REMEDIES))}."
            )
        edits += REMEDIES[order.action](setup, replace(order, sample=sample))
    return edits


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
