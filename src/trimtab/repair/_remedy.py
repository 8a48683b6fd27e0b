"""What a remedy is, and the order to apply one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit


@dataclass(frozen=True, kw_only=True)
class Order:
    """A remedy that is to be applied."""

    action: str
    """Key of the table of remedies."""
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


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
