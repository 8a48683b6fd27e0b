"""Why did it happen? The steps before an incident, made again with one thing changed at a time."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import stdev
from typing import Any, Final, Protocol

from trimtab.findings import Finding
from trimtab.guard._change import Change
from trimtab.guard._frozen import Frozen
from trimtab.guard._incident import Experiment
from trimtab.guard._incident_rule import IncidentRule
from trimtab.guard._naming import candidates, describe, is_narrow
from trimtab.guard._policy import Limits
from trimtab.guard._snapshots import Snapshot, SnapshotRing
from trimtab.guard._tape import TapeStep
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident
from trimtab.guard.tt453_precision_overflow import PrecisionOverflow
from trimtab.guard.tt512_bad_batch import BadBatch
from trimtab.guard.tt603_state_corrupted import StateCorrupted

NEAR: Final = 8
"""Steps before the first bad one from which changes are replayed: most causes lie there, and a
replay from the snapshot would take many times as long."""

NUM_PROBED: Final = 4
"""Healthy batches that a state is judged on: one alone is noise."""

NUM_CLEAN: Final = 16
"""Steps that say what the loss was like before the incident."""

NEARLY: Final = 3.0
"""Standard deviations of these losses that a sound state's mean over a few batches may be above."""

FAR: Final = 8.0
"""The same for one step of a replay, beside the limits of the policy."""

FEW: Final = 3
"""Steps whose data can be at fault before another cause is looked for: what takes long to build up
is also gone if many steps are left out, whatever their data."""


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
        decide: Callable[[float, float], bool] | None = None,
        after_step: Callable[[TapeStep], None] | None = None,
    ) -> Replayed:
        """Make steps again from the state as it is."""

    def measure(
        self, steps: Sequence[TapeStep], change: Change | None = None
    ) -> tuple[list[float], list[float]]:
        """Return losses and gradient norms of steps in the state as it is, and change nothing."""

    @property
    def caps_attention(self) -> bool:
        """Whether attention logits can be capped."""

    @property
    def max_norm(self) -> float:
        """Norm to which the run clips its gradients anyway; infinite if to none."""


class OutOfTimeError(Exception):
    """The replays have taken as long as they may."""


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


class Investigation:
    """Finds the least change that removes an incident.

    Args:
        ring: Snapshots to begin from.
        scratch: Makes a ring for one further snapshot on the way.
        replayer: Makes steps again.
        limits: Above which loss and norm are outliers.
        clean: The last steps before the incident; their batches are known to be good.
        steps: All steps since the snapshot, the bad ones among them.
        base: The snapshot.
        first_bad: Number of the first bad step.
        budget_s: Seconds that the replays may take.
        agree: Whether any rank says yes; all ranks have to go the same way.
    """

    def __init__(
        self,
        *,
        ring: SnapshotRing | None,
        scratch: Callable[[], SnapshotRing],
        replayer: Replayer,
        limits: Limits,
        clean: Sequence[TapeStep],
        bad: Sequence[TapeStep],
        steps: Sequence[TapeStep],
        base: Snapshot | None,
        first_bad: int,
        budget_s: float,
        agree: Callable[[bool], bool],
    ) -> None:
        self.ring, self.scratch, self.replayer, self.limits = ring, scratch, replayer, limits
        self.clean, self.bad, self.steps, self.base = clean[-NUM_PROBED:], bad, steps, base
        losses = [step.loss for step in clean]
        self.level = sum(losses) / len(losses) if losses else math.inf
        self.spread = stdev(losses) if len(losses) > 1 else 0.0
        self.first_bad, self.agree = first_bad, agree
        self._ends = time.perf_counter() + budget_s
        self.done: list[Experiment] = []
        self._near: Snapshot | None = None
        self._near_ring: SnapshotRing | None = None

    # Whether a state, or a step, is as it should be.

    def is_bad(self, loss: float, norm: float) -> bool:
        """Tell whether a step is an outlier, or not finite."""
        finite = math.isfinite(loss) and math.isfinite(norm)
        limit = min(self.limits.loss, self.level + max(FAR * self.spread, abs(self.level)))
        return not finite or loss > limit or norm > self.limits.norm

    def probe(self) -> float:
        """Return the mean loss of known good batches in the present state; NaN without any."""
        if not self.clean:
            return math.nan
        losses, norms = self.replayer.measure(self.clean)
        return sum(losses) / len(losses) if all(map(math.isfinite, norms)) else math.inf

    def is_sound(self, probe: float) -> bool:
        """Tell whether a state is as good as before the incident; all ranks say the same."""
        if not self.clean:
            return True
        near = self.level + max(NEARLY * self.spread, 0.1 * abs(self.level))
        return not self.agree(not probe <= min(self.limits.loss, near))

    def can_replay(self, steps: Sequence[TapeStep]) -> bool:
        """Tell whether nothing is known to speak against making steps again, on any rank."""
        computes = [micro.compute for step in steps for micro in step.micro_steps]
        spoilt = any(isinstance(each, Frozen) and each.why_not() for each in computes)
        return not self.agree(spoilt)

    def run(self, *, corrupt: bool = False) -> Verdict:
        """Find the cause, and leave the state that the run shall go on from.

        Args:
            corrupt: Whether the present state is known to be bad.
        """
        if not self.can_replay(self.steps):
            return self._unexplained()
        try:
            return self._look(corrupt=corrupt) or self._unexplained()
        except OutOfTimeError:
            why = "the time was up"
        except Exception as error:  # noqa: BLE001 # the user's code raised: go back all the same
            why = f"{type(error).__name__}: {error}"
        finally:
            self._near_ring = self._near = None
        row = self.row(Change(), [], [], math.nan, 0.0, healed=False, note=f"broken off: {why}")
        self.done.append(row)
        return self._unexplained()

    def _look(self, *, corrupt: bool) -> Verdict | None:
        began = time.perf_counter()
        probe = self.probe()
        if self.clean and not corrupt and self.is_sound(probe):
            return self._of_data(probe, time.perf_counter() - began)
        if self.base is None or not self.steps:
            return None
        return self._replay_as_it_was() or self._try_changes()

    # The state is sound: the batches are at fault, or their precision.

    def _of_data(self, probe: float, seconds: float) -> Verdict:
        numbers = [step.number for step in self.bad]
        without = Change(without=frozenset(numbers))
        self.done.append(self.row(without, [], [], probe, seconds, healed=True))
        if is_narrow(self.bad):
            wide = Change(precision="fp32")
            losses, norms = self.replayer.measure(self.bad, wide)
            bad = any(self.is_bad(a, b) for a, b in zip(losses, norms, strict=True))
            healed = not self.agree(bad)
            self.done.append(self.row(wide, losses, norms, probe, 0.0, healed=healed))
            if healed:
                return self._verdict(PrecisionOverflow(), wide, restored=False, lost=numbers)
        return self._verdict(BadBatch(), without, restored=False, lost=numbers)

    # The state is not: back to the snapshot.

    def _replay_as_it_was(self) -> Verdict | None:
        """Replay without a change; a replay that goes well says that the state was corrupted."""
        assert self.base is not None
        self._to_base()
        self._near_ring = self.scratch()
        place = max(self.base.step, self.first_bad - 1 - NEAR)

        def keep(step: TapeStep) -> None:
            if step.number == place and self._near_ring is not None:
                self._near = self._near_ring.take(place)
                if self.agree(self._near is None):  # for want of memory, on one rank at least
                    self._near = None
            self._check_time()

        began = time.perf_counter()
        replay = self.replayer.run(self.steps, after_step=keep)
        healed, probe = self._judge(self.steps, replay)
        same = not self.agree(replay.first_difference is not None)
        self.done.append(
            self.row(
                Change(),
                replay.losses,
                replay.norms,
                probe,
                time.perf_counter() - began,
                healed=healed,
                reproduced=same,
                steps=self.steps,
                note="" if same else f"differs from step {replay.first_difference} on",
            )
        )
        if not healed:
            return None
        lost = self._go_on(Change())
        return self._verdict(
            StateCorrupted(), Change(), restored=True, lost=lost, differs=replay.first_difference
        )

    def _try_changes(self) -> Verdict | None:
        """Replay with one thing changed at a time, the least first."""
        second: tuple[IncidentRule, Change] | None = None
        for rule, change in self._changes():
            if not self._heals(change):
                continue
            least = self._fewest(change) if change.without else change
            if len(least.without) > FEW:
                second = rule, least
                continue
            return self._go_on_with(rule, least)
        return None if second is None else self._go_on_with(*second)

    def _go_on_with(self, rule: IncidentRule, change: Change) -> Verdict:
        lost = self._go_on(change)
        return self._verdict(rule, change, restored=True, lost=lost)

    def _changes(self) -> Iterator[tuple[IncidentRule, Change]]:
        return candidates(
            self.steps,
            start=self._start,
            first_bad=self.first_bad,
            limits=self.limits,
            max_norm=self.replayer.max_norm,
            caps_attention=self.replayer.caps_attention,
        )

    def _fewest(self, change: Change) -> Change:
        """Return the fewest steps, by halving, whose data have to go."""
        suspects = sorted(change.without)
        while len(suspects) > 1:
            half = len(suspects) // 2
            for part in (suspects[half:], suspects[:half]):  # the later is the likelier
                if self._heals(Change(without=frozenset(part))):
                    suspects = part
                    break
            else:
                break
        return Change(without=frozenset(suspects))

    @property
    def _start(self) -> int:
        """Number of the step after which replays with a change begin."""
        if self._near is not None:
            return self._near.step
        assert self.base is not None
        return self.base.step

    def _to_base(self) -> None:
        if self.ring is not None and self.base is not None:
            self.ring.restore(self.base)

    def _from_start(self) -> list[TapeStep]:
        if self._near is not None and self._near_ring is not None:
            self._near_ring.restore(self._near)
        else:
            self._to_base()
        return [step for step in self.steps if step.number > self._start]

    def _heals(self, change: Change) -> bool:
        self._check_time()
        steps = self._from_start()
        began = time.perf_counter()
        replay = self.replayer.run(
            steps, change, decide=self.is_bad, after_step=lambda _: self._check_time()
        )
        made = [s for s in steps if s.number not in change.without]
        healed, probe = self._judge(made, replay)
        seconds = time.perf_counter() - began
        self.done.append(
            self.row(change, replay.losses, replay.norms, probe, seconds, healed=healed, steps=made)
        )
        return healed

    def _go_on(self, change: Change) -> list[int]:
        """Make the steps once more with the change, and leave the state that they end in."""
        steps = self._from_start()
        replay = self.replayer.run(steps, change, decide=self.is_bad)
        made = [s for s in steps if s.number not in change.without]
        left_out = {s.number for s, skip in zip(made, replay.skipped, strict=True) if skip}
        before = {s.number for s in self.steps if s.number <= self._start and s.skipped}
        return sorted(before | left_out | set(change.without))

    def _judge(self, steps: Sequence[TapeStep], replay: Replayed) -> tuple[bool, float]:
        """Return whether a replay went well, and what known good batches say of its end."""
        rows = zip(steps, replay.losses, replay.norms, strict=True)
        bad = any(self.is_bad(loss, norm) for s, loss, norm in rows if s.number >= self.first_bad)
        if self.agree(bad):
            return False, math.nan
        probe = self.probe()
        return self.is_sound(probe), probe

    def _check_time(self) -> None:
        """Break off when the time is up.

        Raises:
            OutOfTimeError: It is.
        """
        if self.agree(time.perf_counter() > self._ends):
            raise OutOfTimeError

    def _unexplained(self) -> Verdict:
        self._to_base()
        # If nothing was accepted since the snapshot, it is the very state that the incident met.
        goes_back = self.base is not None and not all(step.skipped for step in self.steps)
        lost = [s.number for s in (self.steps if goes_back else self.bad)]
        return self._verdict(UnexplainedIncident(), None, restored=goes_back, lost=lost)

    def row(
        self,
        change: Change,
        losses: Sequence[float],
        norms: Sequence[float],
        probe: float,
        seconds: float,
        *,
        healed: bool,
        reproduced: bool | None = None,
        steps: Sequence[TapeStep] | None = None,
        note: str = "",
    ) -> Experiment:
        """Return a row of the replay table."""
        numbers = [s.number for s in (self.bad if steps is None else steps)][: len(losses)]
        return Experiment(
            change=change,
            steps=tuple(numbers),
            losses=tuple(losses),
            norms=tuple(norms),
            probe=probe,
            healed=healed,
            reproduced=reproduced,
            seconds=seconds,
            note=note,
        )

    def _verdict(
        self,
        rule: IncidentRule,
        change: Change | None,
        *,
        restored: bool,
        lost: Sequence[int],
        differs: int | None = None,
    ) -> Verdict:
        first = next((s for s in self.bad if s.number == self.first_bad), None)
        at = self.first_bad if differs is None else differs
        steps = sorted(change.without) if change is not None else []
        return Verdict(
            finding=describe(rule, change, self.limits, first, at, num_replays=len(self.done)),
            experiments=tuple(self.done),
            change=change,
            restored=restored,
            snapshot=self.base if restored else None,
            lost=frozenset(lost),
            suspects={"steps": steps or [at]},
        )
