"""What a guard works with, the same from the first step of a run to the last."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch.distributed as dist
from torch import nn
from torch.optim import Optimizer

from trimtab.guard._buffers import BufferKeeper
from trimtab.guard._guard import Guard
from trimtab.guard._investigation import Investigation
from trimtab.guard._live import LiveState
from trimtab.guard._policies import as_policy
from trimtab.guard._policy import Limits, Policy
from trimtab.guard._rates import Rates
from trimtab.guard._replayer import Replayer
from trimtab.guard._rows import suspect_rows
from trimtab.guard._snapshots import Snapshot, SnapshotRing
from trimtab.guard._tape import MicroStep, Tape, TapeStep


@dataclass(frozen=True, kw_only=True)
class Gear:
    """Settings of a guard, the state that it looks after, and what it does so with."""

    config: Guard
    policies: list[Policy]
    """One for each optimizer."""
    rates: Rates
    live: LiveState
    keeper: BufferKeeper
    ring: SnapshotRing | None
    """None if nothing is put back."""
    tape: Tape
    replayer: Replayer | None
    """Makes steps again; None if nobody can."""
    agree: Callable[[bool], bool]
    """Whether any rank says yes."""
    slowest: Callable[[float], float]
    """Returns the largest value of any rank."""

    @classmethod
    def assemble(
        cls,
        config: Guard,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        parts: Mapping[str, Any],
        replayer: Replayer | None,
        agree: Callable[[bool], bool],
        slowest: Callable[[float], float],
    ) -> Self:
        """Make all that the settings ask for; hooks of the model are on from now on."""
        first = as_policy(config.policy)
        live, keeper = LiveState(model, optimizers, parts), BufferKeeper(model)
        if not config.act:
            keeper.close()
        ring = None
        if config.snapshots and config.act:
            ring = SnapshotRing(
                live,
                slots=config.snapshots,
                memory_bytes=config.memory_bytes,
                overhead=config.overhead,
                slowest=slowest,
            )
        return cls(
            config=config,
            policies=[first if i == 0 else first.fresh() for i in range(len(optimizers))],
            rates=Rates(optimizers, rewarm=config.rewarm),
            live=live,
            keeper=keeper,
            ring=ring,
            tape=Tape(max_bytes=max(1, config.tape_bytes)),
            replayer=replayer,
            agree=agree,
            slowest=slowest,
        )

    @property
    def keeps_tape(self) -> bool:
        """Whether batches are kept for replays."""
        config = self.config
        return self.replayer is not None and config.act and config.explain and config.tape_bytes > 0

    def read_limits(self) -> list[Limits]:
        """Return what is normal at this moment in steps of each optimizer."""
        return [policy.limits() for policy in self.policies]

    def suspects(self, micro_steps: Sequence[MicroStep], limits: Limits) -> dict[str, Any]:
        """Return which examples of a bad step are at fault: its `rows` and `row_losses`.

        Empty if it is a batch as a whole, or if that cannot be told: of several ranks, none can run
        the model alone.
        """
        alone = not (dist.is_available() and dist.is_initialized())
        if not (alone and self.keeps_tape):
            return {}
        for micro in micro_steps:
            found = suspect_rows(self.live.model, micro, lambda loss: loss > limits.loss)
            if found:
                rows, losses = zip(*found, strict=True)
                return {"rows": list(rows), "row_losses": list(losses)}
        return {}

    def take_snapshot(self, number: int, *, began: float | None = None) -> None:
        """Take a snapshot of after step `number`, if there are any; give up batches too old."""
        if self.ring is None:
            return
        self.ring.take(number, began=began)
        oldest = self.ring.snapshots[0].step if self.ring.snapshots else number
        self.tape.drop_before(oldest + 1)

    def investigation(
        self,
        clean: Sequence[TapeStep],
        bad: Sequence[TapeStep],
        steps: Sequence[TapeStep],
        base: Snapshot | None,
        *,
        first_bad: int,
        limits: Sequence[Limits],
    ) -> Investigation:
        """Return what looks for the cause of an incident; its arguments are as there."""
        assert self.replayer is not None
        return Investigation(
            ring=self.ring,
            scratch=lambda: SnapshotRing(self.live, slots=2, slowest=self.slowest),
            replayer=self.replayer,
            limits=limits,
            clean=clean,
            bad=bad,
            steps=steps,
            base=base,
            first_bad=first_bad,
            budget_s=self.config.explain_s,
            agree=self.agree,
        )
