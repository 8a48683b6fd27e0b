"""Why did it happen? The steps before an incident, made again with one thing changed at a time."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from trimtab.guard._change import Change
from trimtab.guard._frozen import Frozen
from trimtab.guard._incident import Experiment
from trimtab.guard._incident_rule import IncidentRule
from trimtab.guard._naming import candidates, describe, is_narrow
from trimtab.guard._passes import begins_whole, leader, with_partners
from trimtab.guard._policy import Limits
from trimtab.guard._replayer import Replayed, Replayer
from trimtab.guard._snapshots import Snapshot, SnapshotRing
from trimtab.guard._tape import TapeStep
from trimtab.guard._verdict import Verdict
from trimtab.guard._yardstick import Yardstick
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident
from trimtab.guard.tt453_precision_overflow import PrecisionOverflow
from trimtab.guard.tt512_bad_batch import BadBatch
from trimtab.guard.tt603_state_corrupted import StateCorrupted

NEAR: Final = 8
"""Steps of each optimizer before the first bad one from which changes are replayed: most causes lie
there, and a replay from the snapshot would take many times as long."""

FEW: Final = 3
"""Steps whose data can be at fault before another cause is looked for: what takes long to build up
is also gone if many steps are left out, whatever their data."""


UNKNOWN_CHANGE: Final = (
    "the loop changes gradients between backward and step in a way that is not known; leave "
    "clipping to clip= of attach"
)


class OutOfTimeError(Exception):
    """The replays have taken as long as they may."""


class Investigation:
    """Finds the least change that removes an incident.

    Args:
        ring: Snapshots to begin from.
        scratch: Makes a ring for one further snapshot on the way.
        replayer: Makes steps again.
        limits: Above which loss and norm are outliers, for each optimizer.
        clean: Steps before the incident; their batches are known to be good.
        bad: The steps from the incident on.
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
        limits: Sequence[Limits],
        clean: Sequence[TapeStep],
        bad: Sequence[TapeStep],
        steps: Sequence[TapeStep],
        base: Snapshot | None,
        first_bad: int,
        budget_s: float,
        agree: Callable[[bool], bool],
    ) -> None:
        self.ring, self.scratch, self.replayer = ring, scratch, replayer
        self.bad, self.steps, self.base = bad, steps, base
        first = next((s for s in bad if s.number == first_bad), None)
        self.which = 0 if first is None else first.which
        """The optimizer whose step was the first bad one."""
        source = leader([*clean, *bad], first_bad)
        self.yardstick = Yardstick(
            clean,
            limits,
            probed=self.which if source is None else source.which,
            replayer=replayer,
            agree=agree,
        )
        self.first_bad, self.agree = first_bad, agree
        self._ends = time.perf_counter() + budget_s
        self.done: list[Experiment] = []
        self._unknown = ""
        self._near: Snapshot | None = None
        self._near_ring: SnapshotRing | None = None

    def why_not(self, steps: Sequence[TapeStep]) -> str:
        """Return why steps cannot be made again; empty if nothing is known to speak against it."""
        if not begins_whole(steps):
            return (
                "an optimizer used gradients from before the snapshot; let every zero_grad() stand "
                "before the backward() whose gradients its step() uses"
            )
        computes = [micro.compute for step in steps for micro in step.micro_steps]
        reasons = (each.why_not() for each in computes if isinstance(each, Frozen))
        return next((reason for reason in reasons if reason), "").rstrip(".")

    def can_replay(self, steps: Sequence[TapeStep]) -> bool:
        """Tell whether nothing is known to speak against making steps again, on any rank."""
        return not self.agree(bool(self.why_not(steps)))

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
        probe = self.yardstick.probe()
        if self.yardstick.clean and not corrupt and self.yardstick.is_sound(probe):
            return self._of_data(probe, time.perf_counter() - began)
        if self.base is None or not self.steps:
            return None
        return self._replay_as_it_was() or self._try_changes()

    # The state is sound: the batches are at fault, or their precision.

    def _of_data(self, probe: float, seconds: float) -> Verdict:
        numbers = [step.number for step in self.bad if step.skipped or step.flagged]
        without = Change(without=with_partners(self.steps, numbers))
        self.done.append(self.row(without, [], [], probe, seconds, healed=True))
        if is_narrow(self.bad):
            wide = Change(precision="fp32")
            own = [step for step in self.bad if step.micro_steps]
            losses, norms = self.replayer.measure(own, wide)
            rows = zip(own, losses, norms, strict=True)
            bad = any(self.yardstick.is_bad(a, b, step.which) for step, a, b in rows)
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
        place = self._place()

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
        if not same and self._is_changed_by_the_loop():
            self._unknown = UNKNOWN_CHANGE
            return self._unexplained()
        lost = self._go_on(Change())
        return self._verdict(
            StateCorrupted(), Change(), restored=True, lost=lost, differs=replay.first_difference
        )

    def _is_changed_by_the_loop(self) -> bool:
        """Tell whether gradients were changed before a step in a way that cannot be repeated.

        A replay then differs in any case, and shows nothing of the state.
        """
        clips = (step.own_clip for step in self.steps)
        return self.agree(any(clip is not None and clip.max_norm is None for clip in clips))

    def _place(self) -> int:
        """Return the number of a step after which replays with a change can begin."""
        assert self.base is not None
        latest = self.first_bad - 1 - NEAR * len(self.yardstick.limits)
        numbers = [step.number for step in self.steps if step.number <= latest]
        for number in reversed(numbers):
            if begins_whole([step for step in self.steps if step.number > number]):
                return number
        return self.base.step

    def _try_changes(self) -> Verdict | None:
        """Replay with one thing changed at a time, the least first."""
        second: tuple[IncidentRule, Change] | None = None
        for rule, change in self._changes():
            if not self._heals(change):
                continue
            least = self._fewest(change) if change.without else change
            if len(least.without) > FEW * len(self.yardstick.limits):
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
            limits=self.yardstick.limits[self.which],
            which=self.which if len(self.yardstick.limits) > 1 else None,
            max_norm=self.replayer.max_norm,
            caps_attention=self.replayer.caps_attention,
        )

    def _fewest(self, change: Change) -> Change:
        """Return the fewest steps, by halving, whose data have to go."""
        suspects = sorted(change.without)
        while len(suspects) > 1:
            half = len(suspects) // 2
            for part in (suspects[half:], suspects[:half]):  # the later is the likelier
                whole = with_partners(self.steps, part)
                if len(whole) < len(suspects) and self._heals(Change(without=whole)):
                    suspects = sorted(whole)
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
            steps, change, decide=self.yardstick.is_bad, after_step=lambda _: self._check_time()
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
        replay = self.replayer.run(steps, change, decide=self.yardstick.is_bad)
        made = [s for s in steps if s.number not in change.without]
        left_out = {s.number for s, skip in zip(made, replay.skipped, strict=True) if skip}
        before = {s.number for s in self.steps if s.number <= self._start and s.skipped}
        return sorted(before | left_out | set(change.without))

    def _judge(self, steps: Sequence[TapeStep], replay: Replayed) -> tuple[bool, float]:
        """Return whether a replay went well, and what known good batches say of its end."""
        rows = zip(steps, replay.losses, replay.norms, strict=True)
        late = [(s, loss, norm) for s, loss, norm in rows if s.number >= self.first_bad]
        bad = any(self.yardstick.is_bad(loss, norm, s.which) for s, loss, norm in late)
        if self.agree(bad):
            return False, math.nan
        probe = self.yardstick.probe()
        return self.yardstick.is_sound(probe), probe

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
            finding=describe(
                rule,
                change,
                self.yardstick.limits[self.which],
                first,
                at,
                num_replays=len(self.done),
                why_not=self._unknown or ("" if self.done else self.why_not(self.steps)),
            ),
            experiments=tuple(self.done),
            change=change,
            restored=restored,
            snapshot=self.base if restored else None,
            lost=frozenset(lost),
            suspects={"steps": steps or [at]},
        )
