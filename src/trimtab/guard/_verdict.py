"""What replays of an incident showed."""

from dataclasses import dataclass, field
from typing import Any

from trimtab.findings import Finding
from trimtab.guard._change import Change
from trimtab.guard._incident import Experiment
from trimtab.guard._snapshots import Snapshot


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What replays showed, and the state that they left."""

    finding: Finding
    experiments: tuple[Experiment, ...]
    change: Change | None
    """What removed the incident; None if nothing did."""
    restored: bool
    """Whether the state is another one now."""
    snapshot: Snapshot | None = None
    lost: frozenset[int] = frozenset()
    """Steps whose updates are not in the state."""
    suspects: dict[str, Any] = field(default_factory=dict)
