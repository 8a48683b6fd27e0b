"""Guard: the settings of what keeps a run alive."""

import math
from dataclasses import dataclass
from pathlib import Path

from trimtab.errors import ConfigError
from trimtab.guard._policies import as_policy
from trimtab.guard._policy import Judge, Policy

OBSERVE = "observe"
"""Names the default guard that decides and records, but does not act."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """What is done about bad steps, and what it may cost.

    A step that is not finite, or that the policy takes for an outlier, is left out whole:
    parameters, optimizer, schedule and buffers stay as they were. If such steps go on, the guard
    looks for the cause: it replays the last steps from a snapshot in memory, as they were and
    with one thing changed at a time, and goes on from the least change that removes the incident.

    Raises:
        ConfigError: A value is out of range.
    """

    policy: str | Policy | Judge = "spike"
    """Which steps are outliers: `"spike"`, `"nonfinite"`, `"olmo"`, `"zclip"`, a `Policy`, or a
    function of loss and gradient norm."""
    act: bool = True
    """Whether anything is done; False decides and records only."""
    escalate_after: int = 3
    """Outliers in a row after which the cause is looked for."""
    max_share: float = 0.2
    """Share of outliers among the last 100 steps above which the cause is looked for."""
    snapshots: int = 3
    """Snapshots that are kept in memory; 0 keeps none, and there is no going back."""
    memory_bytes: int | None = None
    """What snapshots may take up together; None is a quarter of the memory that is free."""
    overhead: float = 0.01
    """Share of the run's time that snapshots may cost; it sets how often they are taken."""
    delay: int = 16
    """Steps without an outlier after which a snapshot counts as healthy."""
    tape_bytes: int = 2**29
    """What the batches of the last steps, which are kept for replays, may take up."""
    explain: bool = True
    """Whether steps are replayed to find the cause; without it the last healthy state is taken."""
    explain_s: float = 60.0
    """Seconds that the replays after one incident may take."""
    apply: bool = True
    """Whether the change that removed an incident is kept up: a lower rate, tighter clipping."""
    rewarm: int = 20
    """Steps over which the learning rate comes back after a return to a snapshot."""
    max_rollbacks: int = 3
    """Returns to a snapshot within 1,000 steps; after them the run is stopped, and saved."""
    out: Path | str | None = None
    """Where incidents are written to; None is `incidents/` in the run folder, if there is one."""
    keep_incidents: int = 5
    """Incidents that have a folder on disk. Once there are as many, later steps that were left out
    get none, and a return to a snapshot takes the place of a step that was left out."""

    def __post_init__(self) -> None:
        as_policy(self.policy)
        if isinstance(self.out, str):
            object.__setattr__(self, "out", Path(self.out))
        counts = {"escalate_after": 1, "snapshots": 0, "delay": 1, "rewarm": 0, "max_rollbacks": 0}
        counts |= {"keep_incidents": 0, "tape_bytes": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"{name} of a Guard must be a whole number of at least {least}, got {value!r}."
                )
        if self.snapshots == 1:
            raise ConfigError(
                "snapshots of a Guard must be 0 or at least 2, got 1: one to return to while the "
                "next proves itself."
            )
        if not 0 < self.overhead < 1:
            raise ConfigError(
                f"overhead of a Guard must be above 0 and below 1, got {self.overhead}."
            )
        if not 0 < self.max_share <= 1:
            raise ConfigError(
                f"max_share of a Guard must be above 0 and at most 1, got {self.max_share}."
            )
        if not (math.isfinite(self.explain_s) and self.explain_s >= 0):
            raise ConfigError(
                f"explain_s of a Guard must be 0 or more seconds, got {self.explain_s}."
            )


GuardLike = Guard | Policy | str | bool | Judge | None
"""What a user may pass as `guard=`."""


def as_guard(guard: GuardLike) -> Guard | None:
    """Return the settings for what a user may pass as `guard=`.

    Args:
        guard: None or False for none, True for the default, the name of a policy, `"observe"`, a
            policy, a function of loss and norm, or a `Guard`.

    Raises:
        ConfigError: It is something else.
    """
    if guard is None or guard is False:
        return None
    if isinstance(guard, Guard):
        return guard
    if guard is True:
        return Guard()
    if guard == OBSERVE:
        return Guard(act=False)
    return Guard(policy=guard)
