"""The guard at work: watches every step of one run, leaves bad ones out, brings the run back."""

import math
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.checkpoint import random_state, restore_random_state
from trimtab.errors import DivergedError, StabilityWarning
from trimtab.findings import Finding
from trimtab.guard._buffers import BufferKeeper
from trimtab.guard._bundle import write_bundle
from trimtab.guard._change import Change
from trimtab.guard._divergence import Divergence
from trimtab.guard._finite import FiniteWatch
from trimtab.guard._guard import Guard
from trimtab.guard._incident import Experiment, Incident
from trimtab.guard._investigation import (
    NUM_CLEAN,
    Investigation,
    Replayer,
    Verdict,
    describe,
    rates_at_jump,
)
from trimtab.guard._live import LiveState
from trimtab.guard._policies import as_policy
from trimtab.guard._policy import Limits, Policy
from trimtab.guard._rates import Rates
from trimtab.guard._snapshots import Snapshot, SnapshotRing
from trimtab.guard._tape import Tape, TapeStep
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident
from trimtab.guard.tt512_bad_batch import BadBatch
from trimtab.guard.tt603_state_corrupted import StateCorrupted

SHOWN: Final = 100
"""Steps before an incident whose signals are kept for its page."""

ROLLBACK_SPAN: Final = 1000
"""Steps within which returns to a snapshot are counted."""

OVERFLOWS: Final = 40
"""Overflows of fp16 in a row that are no search for the loss scale any more: it halves each time,
and comes down from 2^40 to 1 in as many."""

TOLD: Final = 3
"""Steps left out that are warned of; later ones are in `incidents` and in the run folder."""

CONTEXT: Final = 32
"""Steps before one that was left out that go into its folder, so that it can be seen what healthy
batches do in a replay; more would take long to write."""

SMALL: Final = 2**28
"""Bytes of a state up to which it is written to disk for one step that was left out."""


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


@dataclass(frozen=True)
class _Written:
    """An incident's folder."""

    step: int
    kind: str
    path: Path


class ActiveGuard:
    """Guards one run; `Stepper.guard` and `Trim.guard`.

    Args:
        config: Settings.
        model: As it is called.
        optimizers: Over its parameters.
        parts: What else has a state and goes back with a snapshot: schedule, loss scale, clipper.
        replayer: Makes steps again; None if nobody can.
        folder: Returns where incidents are written to; None for nowhere.
        agree: Whether any rank says yes.
        slowest: Returns the largest value of any rank.
        apply: Keeps up what removed an incident, as far as it is not a learning rate; returns False
            if it cannot.
    """

    def __init__(
        self,
        config: Guard,
        model: nn.Module,
        optimizers: Sequence[Optimizer],
        *,
        parts: Mapping[str, Any],
        replayer: Replayer | None,
        folder: Callable[[], Path | None],
        agree: Callable[[bool], bool],
        slowest: Callable[[float], float],
        apply: Callable[[Change], bool | None],
        run_config: Callable[[], Mapping[str, Any] | None] = lambda: None,
    ) -> None:
        self.config: Final = config
        self.model, self.optimizers = model, list(optimizers)
        self.replayer, self._folder, self._apply = replayer, folder, apply
        self.run_config = run_config
        """Returns the settings of the run, which incidents are written down with."""
        self._agree, self._slowest = agree, slowest
        self._parts: Final = dict(parts)
        first = as_policy(config.policy)
        self.policies: Final[list[Policy]] = [
            first if i == 0 else first.fresh() for i in range(len(self.optimizers))
        ]
        self.rates: Final = Rates(self.optimizers, rewarm=config.rewarm)
        self.live: Final = LiveState(model, self.optimizers, self._parts)
        self.keeper: Final = BufferKeeper(model)
        self._finite = FiniteWatch(self.live)
        if not config.act:
            self.keeper.close()
        self.ring: Final = (
            SnapshotRing(
                self.live,
                slots=config.snapshots,
                memory_bytes=config.memory_bytes,
                overhead=config.overhead,
                slowest=slowest,
            )
            if config.snapshots and config.act
            else None
        )
        self.tape: Final = Tape(max_bytes=max(1, config.tape_bytes))
        self.number = 0
        """Steps so far, those left out among them."""
        self.incidents: list[Incident] = []
        self.norm_limit: float | None = None
        """Norm to which gradients are clipped besides, since an incident showed the need."""
        self._history: deque[dict[str, float]] = deque(maxlen=SHOWN)
        self._flags: deque[bool] = deque(maxlen=100)
        self._streak: list[int] = []
        self._overflows = 0
        self._escalated = False
        self._limits = Limits()
        self._divergence = Divergence()
        self._rollbacks: deque[int] = deque()
        self._next_snapshot = 0
        self._stale_until = 0  # steps up to this one were made from a state that has been put back
        self._made_with: dict[int, tuple[list[float] | None, float | None]] = {}
        self._num_made_again = 0
        self._disk_failed = False
        self._written: list[_Written] = []

    @property
    def acts(self) -> bool:
        """Whether outliers are left out, or only recorded."""
        return self.config.act

    @property
    def policy(self) -> Policy:
        """What says which steps are outliers."""
        return self.policies[0]

    @property
    def keeps_tape(self) -> bool:
        """Whether batches are kept for replays."""
        config = self.config
        return self.replayer is not None and config.act and config.explain and config.tape_bytes > 0

    @property
    def healthy(self) -> bool:
        """Whether the state is believed to be good: no incident is under way."""
        return not self._streak and not self._overflows

    @property
    def findings(self) -> list[Finding]:
        """Causes of the incidents so far, oldest first."""
        return [incident.finding for incident in self.incidents]

    # One step, as the engine makes it.

    def judge(self, loss: Tensor | None, norm: Tensor, which: int = 0) -> Tensor:
        """Return 1 if the step is an outlier, 0-d, without waiting for the device."""
        return self.policies[which].judge(loss, norm)

    def before_update(self) -> None:
        """Get ready for an update: wait for a snapshot's copies, and set the rates for the step."""
        if self.ring is not None:
            self.ring.before_update()
        if self.acts:
            self.rates.lower()
        if self.rates.used is not None or self.norm_limit is not None:
            self._made_with[self.number + 1] = self.rates.used, self.norm_limit

    def after_update(self, skip: Tensor | float) -> None:
        """Count the step; set rates as the schedule had them, and buffers as before a skip."""
        self.number += 1
        self.rates.put_back(stepped=True)
        self.keeper.put_back(skip if isinstance(skip, Tensor) else bool(skip))
        self.keeper.renew()

    def end_step(self, seconds: float, settle: Callable[[], None] | None = None) -> None:
        """Take a snapshot if one is due.

        Args:
            seconds: Since the step before ended.
            settle: Takes in the step's outcome if it is still on its way, so that schedule and
                counters in the snapshot are those of after the step.
        """
        ring = self.ring
        if ring is None or self._streak:
            return
        if ring.due(self.number, seconds) and self.number >= self._next_snapshot:
            if settle is not None:
                settle()
            if not self._streak and not self._has_broken():
                self._take_snapshot()

    def _has_broken(self) -> bool:
        """Look whether the state has turned non-finite unseen, and put it back if it has.

        Raises:
            DivergedError: It has been put back too often.
        """
        if not self._agree(self._finite.has_broken()):
            return False
        self._limits = self._read_limits()
        if self.ring is not None and self.ring.snapshots:
            self._escalate(self.number, corrupt=True)
        if self._agree(self._finite.has_broken()):
            self._finite.accept()  # the run itself makes it so
            return False
        return True

    def _take_snapshot(self) -> None:
        assert self.ring is not None
        self.ring.take(self.number)
        oldest = self.ring.snapshots[0].step if self.ring.snapshots else self.number
        self.tape.drop_before(oldest + 1)

    # What the host gets to know.

    def note(self, outcome: Outcome) -> Return:
        """Take in what a step did; look for the cause and put the run back where it must be.

        Args:
            outcome: Of the next step that has not been noted.

        Returns:
            Whether the state of training is another one now, and how: the step was `"made again"`,
            or the run `"went back"` to a snapshot. Empty if it is as the step left it.

        Raises:
            DivergedError: The run cannot be saved by going back any more.
        """
        number = self.number if outcome.number is None else outcome.number
        self._put_on_tape(outcome.tape, number)
        self._remember(outcome, number)
        bad = outcome.flagged and not outcome.overflow
        self._overflows = self._overflows + 1 if outcome.overflow else 0
        self._flags.append(bad)
        if not bad and self._overflows < OVERFLOWS:
            return self._note_good(outcome, number)
        if not self._streak:
            self._limits = self._read_limits()
        self._streak.append(number)
        if not self.acts:
            self._observe(number)
            return ""
        if self._made_again(outcome, number):
            return "made again"
        if number <= self._stale_until:
            self._streak.clear()
            self._flags[-1] = False
            return ""
        self._note_skip(number)
        share = sum(self._flags) / len(self._flags)
        crowded = len(self._flags) == self._flags.maxlen and share > self.config.max_share
        if self._escalated or not (len(self._streak) >= self.config.escalate_after or crowded):
            return ""
        self._escalated = True
        return "went back" if self._escalate(self._streak[0]) else ""

    def _put_on_tape(self, step: TapeStep | None, number: int) -> None:
        """Keep a step for replays, with the rates and the limit that it was made with."""
        rates, limit = self._made_with.pop(number, (None, None))
        if step is None:
            return
        step.norm_limit = limit
        for settings, rate in zip(step.settings, rates or (), strict=False):
            settings["lr"] = rate
        self.tape.add(step)

    def _note_good(self, outcome: Outcome, number: int) -> Return:
        self._streak.clear()
        self._escalated = False
        if self.ring is None:
            return ""
        self.ring.confirm(number - self.config.delay)
        if len(self.optimizers) > 1 or not self._divergence.see(outcome.loss, outcome.norm):
            return ""
        self._limits = self._read_limits()
        return "went back" if self._escalate(number, diverged=True) else ""

    def _remember(self, outcome: Outcome, number: int) -> None:
        values = {k: v for k, v in (outcome.values or {}).items() if isinstance(v, int | float)}
        self._history.append(
            {
                "step": float(number),
                "loss": outcome.loss,
                "gradient.norm": outcome.norm,
                "skipped": float(outcome.skipped),
                "flagged": float(outcome.flagged),
                **values,
            }
        )

    def _read_limits(self) -> Limits:
        return self.policy.limits()

    # A step that was left out.

    def _made_again(self, outcome: Outcome, number: int) -> bool:
        """Make a step again that was left out, if it is sound the second time; return whether."""
        step, replayer = outcome.tape, self.replayer
        if replayer is None or not outcome.skipped or len(self._streak) > 1:
            return False
        if self._agree(step is None) or step is None:
            return False
        case = self._investigation([], [step], [], None, number)
        if not case.can_replay([step]):
            return False
        random = random_state()
        try:
            losses, norms = replayer.measure([step])
        except Exception:  # noqa: BLE001 # of the user's own code: the step stays left out
            losses, norms = [math.nan], [math.nan]
        restore_random_state(random)
        same = losses[0] == outcome.loss and norms[0] == outcome.norm
        if self._agree(same or case.is_bad(losses[0], norms[0])):
            return False
        self._streak.clear()
        self._flags[-1] = False
        self._num_made_again += 1
        if number > self._stale_until:
            row = case.row(
                Change(), losses, norms, math.nan, 0.0, healed=True, reproduced=False, steps=[step]
            )
            self._report_made_again(step, row)
        self.keeper.put_back(skip=True)  # of the forward passes that are under way
        stale = number <= self._stale_until  # made at a rate that is held down since
        change = Change(lr_cap=self.rates.cap if stale else None)
        replayer.run([step], change, decide=lambda *_: False)
        restore_random_state(random)
        self.keeper.renew()
        self.tape.drop_after(number - 1)
        self._next_snapshot = number + 1
        self._take_after_change()
        return True

    def _report_made_again(self, step: TapeStep, row: Experiment) -> None:
        at = step.number
        self._report(
            Incident(
                step=at,
                detected=at,
                kind="skip",
                finding=describe(StateCorrupted(), Change(), self._limits, step, at, num_replays=1),
                action="The step was made again, and went well.",
                limits=self._limit_numbers(),
                signals=self._signals(),
                experiments=(row,),
                suspects={"steps": [at]},
            ),
            tape=[step],
        )

    def _note_skip(self, number: int) -> None:
        """Enter the steps left out in a row as one incident."""
        known = self._is_known()
        if self._escalated and known:  # its cause has been looked for
            suspects = [*self.incidents[-1].suspects.get("steps", ()), number]
            self.incidents[-1] = replace(
                self.incidents[-1],
                detected=number,
                lost_steps=self.incidents[-1].lost_steps + 1,
                suspects={**self.incidents[-1].suspects, "steps": suspects},
            )
            return
        first, count = self._streak[0], len(self._streak)
        steps = "1 step was" if count == 1 else f"{count} steps were"
        tape = self.tape.since(first - 1) or []
        seen = next((s for s in tape if s.number == first), None) or self._as_step(first)
        change = Change(without=frozenset(self._streak))
        incident = Incident(
            step=first,
            detected=number,
            kind="skip",
            finding=describe(BadBatch(), change, self._limits, seen, first, num_replays=0),
            action=f"{steps} left out; parameters, optimizer and buffers are untouched.",
            limits=self._limit_numbers(),
            signals=self._signals(),
            lost_steps=count,
            suspects={"steps": list(self._streak)},
        )
        if known:
            self.incidents[-1] = incident
        else:
            self._report(incident, tape=tape)

    def _is_known(self) -> bool:
        """Tell whether the steps left out in a row are an incident that has been entered."""
        return bool(self.incidents) and self.incidents[-1].step == self._streak[0]

    def note_dropped(self, count: int, of: int, tape: TapeStep | None) -> None:
        """Enter micro-batches that were left out of a step that was made without them."""
        step = tape or self._as_step(self.number)
        micro_steps = [] if tape is None else tape.micro_steps
        which = [i for i, micro in enumerate(micro_steps) if bool(micro.dropped)]
        losses = [float(micro_steps[i].loss or math.nan) for i in which]
        named = f" (number {', '.join(str(i + 1) for i in which)})" if which else ""
        self._limits = self._read_limits()
        finding = BadBatch().finding(
            what=f"{count} of {of} micro-batches{named} had a loss or gradient that is not finite "
            "or far out"
            + (f": loss {', '.join(f'{loss:.4g}' for loss in losses)}" if losses else ""),
            step=self.number,
            cause="its data have nothing to do with the task, or are damaged",
            fix="look at these examples; the incident's folder has them",
        )
        self._report(
            Incident(
                step=self.number,
                detected=self.number,
                kind="skip",
                finding=finding,
                action="The step was made without it, divided by the weight of the rest.",
                limits=self._limit_numbers(),
                signals=self._signals(),
                suspects={"steps": [self.number], "micro_batches": which},
            ),
            tape=[step],
            made=True,
        )

    def _observe(self, number: int) -> None:
        first = self._streak[0]
        seen = self._as_step(first)
        change = Change(without=frozenset(self._streak))
        incident = Incident(
            step=first,
            detected=number,
            kind="observed",
            finding=describe(BadBatch(), change, self._limits, seen, first, num_replays=0),
            action="Nothing was done: the guard only observes.",
            limits=self._limit_numbers(),
            signals=self._signals(),
            suspects={"steps": list(self._streak)},
        )
        if self._is_known():
            self.incidents[-1] = incident
        else:
            self.incidents.append(incident)

    def _as_step(self, number: int) -> TapeStep:
        """Return a step without batches, for its loss and norm."""
        row = next((r for r in self._history if r["step"] == number), {})
        return TapeStep(
            number=number,
            micro_steps=[],
            settings=[],
            divisor=1.0,
            loss=row.get("loss", math.nan),
            norm=row.get("gradient.norm", math.nan),
            skipped=True,
            flagged=True,
        )

    # Going back.

    def _investigation(
        self,
        clean: Sequence[TapeStep],
        bad: Sequence[TapeStep],
        steps: Sequence[TapeStep],
        base: Snapshot | None,
        first_bad: int,
    ) -> Investigation:
        assert self.replayer is not None
        return Investigation(
            ring=self.ring,
            scratch=lambda: SnapshotRing(self.live, slots=2, slowest=self._slowest),
            replayer=self.replayer,
            limits=self._limits,
            clean=clean,
            bad=bad,
            steps=steps,
            base=base,
            first_bad=first_bad,
            budget_s=self.config.explain_s,
            agree=self._agree,
        )

    def _escalate(self, first_bad: int, *, diverged: bool = False, corrupt: bool = False) -> bool:
        """Find the cause, and put the run back if its state is at fault.

        Args:
            first_bad: Number of the first bad step.
            diverged: Whether the run has left what it learned, though no step was an outlier.
            corrupt: Whether the state is known to be bad, though no step has shown it.

        Raises:
            DivergedError: It has been put back too often.
        """
        ring = self.ring
        if ring is None:
            return False
        base = ring.newest(before=first_bad, healthy=True) or ring.newest(before=first_bad)
        if diverged and ring.snapshots:
            base = ring.snapshots[0]
        random, settings = random_state(), self._settings()
        verdict = self._verdict(base, first_bad, corrupt=corrupt)
        restore_random_state(random)
        if not verdict.restored:
            action = "Its data are left out; the state is sound."
            if verdict.change is None:
                action = "Its steps are left out; there is no other state to go back to."
            elif self.config.apply and not verdict.change.without:
                action += self._keep_up(verdict.change, ())
            self._enter(verdict, first_bad, "skip", action)
            return False
        self._after_return(verdict, settings, first_bad, diverged=diverged)
        return True

    def _verdict(self, base: Snapshot | None, first_bad: int, *, corrupt: bool) -> Verdict:
        ring = self.ring
        assert ring is not None
        steps = self.tape.since(base.step) if base is not None else None
        if self.keeps_tape and not self._agree(not steps) and steps:
            before = [s for s in steps if s.number < first_bad and not s.skipped]
            bad = [s for s in steps if s.number >= first_bad]
            clean = before[-NUM_CLEAN:]
            case = self._investigation(clean, bad, steps, base, first_bad)
            if case.can_replay(steps):
                return case.run(corrupt=corrupt)
        if not corrupt and self._leads_nowhere():
            base = None
        if base is not None:
            ring.restore(base)
        lost = range(base.step + 1, self.number + 1) if base is not None else self._streak
        return Verdict(
            finding=describe(
                UnexplainedIncident(), None, self._limits, self._as_step(first_bad), first_bad,
                num_replays=0,
            ),
            experiments=(),
            change=None,
            restored=base is not None,
            snapshot=base,
            lost=frozenset(lost),
            suspects={"steps": list(self._streak) or [first_bad]},
        )  # fmt: skip

    def _leads_nowhere(self) -> bool:
        """Tell whether it is better to leave steps out than to go back without a replay.

        So it is if the state is finite, and only losses and gradients are not; and if the run has
        just gone back and what followed was no better.
        """
        rows = [row for row in self._history if row["step"] in self._streak]
        odd = all(not math.isfinite(row["gradient.norm"]) for row in rows)
        at_once = self._streak and self._streak[0] <= self._stale_until + 2
        if self._rollbacks and at_once:
            return True
        return bool(rows) and odd and not self._agree(self._finite.has_broken())

    def _after_return(
        self,
        verdict: Verdict,
        settings: list[list[dict[str, Any]]],
        first_bad: int,
        *,
        diverged: bool,
    ) -> None:
        """Set the run going again from another state.

        Raises:
            DivergedError: It has been put back too often.
        """
        assert self.ring is not None
        assert verdict.snapshot is not None
        base = verdict.snapshot.step
        kept = self.tape.since(base) or []
        if "schedule" not in self._parts:
            self._restore_settings(settings)
        while self._rollbacks and self._rollbacks[0] <= self.number - ROLLBACK_SPAN:
            self._rollbacks.popleft()
        over = len(self._rollbacks) >= self.config.max_rollbacks
        self._rollbacks.append(self.number)
        went = f"The run went back to step {base}"
        if over:
            action = f"{went} and was stopped: it had gone back {len(self._rollbacks) - 1} times."
        elif verdict.change is None:
            self.rates.begin_rewarm()
            if diverged and self.config.apply:
                self.rates.factor *= 0.5
            action = f"{went} and warms up again; {len(verdict.lost)} steps are lost."
        else:
            action = f"{went} and made its steps again, {verdict.change}"
            action += f"; {len(verdict.lost)} are left out." if verdict.lost else "."
            if self.config.apply:
                action += self._keep_up(verdict.change, kept)
        self._enter(verdict, first_bad, "stop" if over else "rollback", action, tape=kept)
        self.tape.drop_after(base)
        self.ring.drop_after(base)
        if verdict.change is not None:
            self._num_made_again += len(set(self._streak) - verdict.lost)
        self._streak.clear()
        self._escalated = False
        self._stale_until = self.number
        self._divergence.forget()
        self.keeper.renew()
        self._take_after_change()
        if over:
            raise DivergedError(
                f"The run broke at step {first_bad} and has gone back to a healthy state "
                f"{len(self._rollbacks)} times within {ROLLBACK_SPAN} steps, which is more than "
                f"max_rollbacks={self.config.max_rollbacks}. It is as after step {base} now; save "
                f"it. {self.incidents[-1].finding.message}"
            )

    def _take_after_change(self) -> None:
        """Take a snapshot of the state that the run goes on from: the tape begins anew there."""
        if self.ring is not None:
            self._take_snapshot()

    def _keep_up(self, change: Change, tape: Sequence[TapeStep]) -> str:
        """Go on as it went well in the replay of a tape; return it in words."""
        if change.lr_cap is not None:
            before, after = rates_at_jump(tape) or (change.lr_cap, change.lr_cap)
            self.rates.hold(before, after)
            return f" From now on the learning rate is divided by its jump, {self.rates.jump:.3g}."
        if change.lr != 1:
            self.rates.factor *= change.lr
            return f" The learning rate stays at {self.rates.factor:g} of the schedule's."
        if change.clip is not None:
            self.norm_limit = change.clip
            return f" Gradients are clipped to {change.clip:.3g} from now on."
        if change.fresh_moments or change.is_none or change.without:
            return ""  # what was done once has been done
        return "" if self._apply(change) is False else f" From now on it runs {change}."

    def _settings(self) -> list[list[dict[str, Any]]]:
        return [
            [{k: v for k, v in group.items() if k != "params"} for group in o.param_groups]
            for o in self.optimizers
        ]

    def _restore_settings(self, settings: list[list[dict[str, Any]]]) -> None:
        for optimizer, groups in zip(self.optimizers, settings, strict=True):
            for group, values in zip(optimizer.param_groups, groups, strict=False):
                group.update(values)

    # Saying it.

    def _enter(
        self,
        verdict: Verdict,
        first_bad: int,
        kind: Any,
        action: str,
        *,
        tape: Sequence[TapeStep] | None = None,
    ) -> None:
        incident = Incident(
            step=first_bad,
            detected=self.number,
            kind=kind,
            finding=verdict.finding,
            action=action,
            limits=self._limit_numbers(),
            signals=self._signals(),
            experiments=verdict.experiments,
            snapshot_step=None if verdict.snapshot is None else verdict.snapshot.step,
            lost_steps=len(verdict.lost),
            suspects=verdict.suspects,
        )
        if self.incidents and self.incidents[-1].step == first_bad:
            self.incidents.pop()  # it was entered as a step left out
        steps = tape if tape is not None else self.tape.since(first_bad - 1) or []
        self._report(incident, tape=steps, snapshot=verdict.snapshot)

    def _report(
        self,
        incident: Incident,
        *,
        tape: Sequence[TapeStep],
        snapshot: Snapshot | None = None,
        made: bool = False,
    ) -> None:
        """Keep an incident, write it down, and say it.

        Args:
            incident: What happened.
            tape: Steps to replay.
            snapshot: From before them, if there is one.
            made: Whether the step was made, so that the state is not that of before it.
        """
        self.incidents.append(incident)
        if incident.kind != "skip" or len(self.incidents) <= TOLD:
            text = f"{incident.finding}. {incident.action}"
            warnings.warn(text, StabilityWarning, stacklevel=2)
        folder = self._folder() if self.config.out is None else Path(self.config.out)
        if dist.is_available() and dist.is_initialized() and dist.get_rank() > 0:
            folder = None  # the first rank writes
        before = next((w for w in self._written if w.step == incident.step), None)
        if folder is None or not (before or self._has_room(incident)):
            return
        state, tape = self._to_replay(incident, tape, snapshot, made=made)
        if state is not None:
            incident = replace(incident, snapshot_step=state["step"])
        try:
            path = write_bundle(
                folder,
                incident,
                snapshot=state,
                batches=[_as_plain(step) for step in tape],
                config=self.run_config(),
                replaces=None if before is None else before.path,
            )
            self._note_written(_Written(incident.step, incident.kind, path))
        except OSError as error:
            if not self._disk_failed:
                warnings.warn(
                    f"The incident of step {incident.step} could not be written to {folder}: "
                    f"{error.strerror}. It is in memory, and training goes on.",
                    StabilityWarning,
                    stacklevel=2,
                )
            self._disk_failed = True

    def _has_room(self, incident: Incident) -> bool:
        """Tell whether a folder may be written: one more, or in the place of a lesser one."""
        keep = self.config.keep_incidents
        return len(self._written) < keep or (keep > 0 and incident.kind != "skip")

    def _note_written(self, written: "_Written") -> None:
        """Remember a folder of this run, and remove what is too many."""
        self._written = [*(w for w in self._written if w.step != written.step), written]
        while len(self._written) > self.config.keep_incidents:
            lesser = [w for w in self._written if w.kind == "skip"] or self._written
            shutil.rmtree(lesser[0].path, ignore_errors=True)
            self._written.remove(lesser[0])

    def _to_replay(
        self,
        incident: Incident,
        tape: Sequence[TapeStep],
        snapshot: Snapshot | None,
        *,
        made: bool,
    ) -> tuple[Mapping[str, Any] | None, Sequence[TapeStep]]:
        """Return the state that an incident's replay begins with, if any, and the steps from it."""
        if snapshot is not None:
            return snapshot.state_dict(), tape
        if incident.kind != "skip" or self.live.nbytes > SMALL:
            return None, tape
        near = None if self.ring is None else self.ring.newest(before=incident.step)
        if near is not None and incident.step - near.step <= CONTEXT:
            steps = self.tape.since(near.step)
            if steps:
                return near.state_dict(), steps
        if made:
            return None, tape
        now = SnapshotRing(self.live, slots=2).take(incident.step - 1)
        return None if now is None else now.state_dict(), tape

    def _limit_numbers(self) -> dict[str, float]:
        limits = self._limits
        return {
            "loss_level": limits.loss_level,
            "loss_limit": limits.loss,
            "norm_level": limits.norm_level,
            "norm_limit": limits.norm,
        }

    def _signals(self) -> dict[str, list[float]]:
        names = list(dict.fromkeys(name for row in self._history for name in row))
        return {name: [row.get(name, math.nan) for row in self._history] for name in names}

    def take_num_made_again(self) -> int:
        """Return how many steps that had been left out were made after all since the last call."""
        number, self._num_made_again = self._num_made_again, 0
        return number

    def close(self) -> None:
        """Take the hooks off."""
        self.keeper.close()

    # Resuming.

    def state_dict(self) -> dict[str, Any]:
        """Return what later decisions depend on; snapshots are taken anew."""
        return {
            "policies": [policy.state_dict() for policy in self.policies],
            "rates": self.rates.state_dict(),
            "divergence": self._divergence.state_dict(),
            "number": self.number,
            "flags": list(self._flags),
            "streak": list(self._streak),
            "overflows": self._overflows,
            "escalated": self._escalated,
            "rollbacks": list(self._rollbacks),
            "norm_limit": self.norm_limit,
            "limits": asdict(self._limits),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for policy, memory in zip(self.policies, state["policies"], strict=True):
            policy.load_state_dict(memory)
        self.rates.load_state_dict(state["rates"])
        self._divergence.load_state_dict(state["divergence"])
        self.number = state["number"]
        self._flags = deque(state["flags"], maxlen=100)
        self._streak = list(state["streak"])
        self._overflows, self._escalated = state["overflows"], state["escalated"]
        self._rollbacks = deque(state["rollbacks"])
        self.norm_limit = state["norm_limit"]
        self._limits = Limits(**state.get("limits", {}))
        self._made_with.clear()
        self.tape.drop_after(-1)
        self.keeper.renew()
        if self.ring is not None:
            self.ring.drop_after(-1)
            self._take_snapshot()


def _as_plain(step: TapeStep) -> dict[str, Any]:
    """Return a step as an incident's folder holds it."""
    return {
        "number": step.number,
        "micro_steps": [
            {
                "batch": micro.batch,
                "weight": micro.weight,
                "factor": micro.factor,
                "random": micro.random,
                "loss": micro.loss,
                "precision": micro.precision,
                "dropped": bool(micro.dropped),
            }
            for micro in step.micro_steps
        ],
        "settings": step.settings,
        "divisor": step.divisor,
        "norm_limit": step.norm_limit,
        "loss": step.loss,
        "norm": step.norm,
        "skipped": step.skipped,
        "flagged": step.flagged,
    }
