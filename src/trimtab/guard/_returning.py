"""The way back: the cause of an incident is looked for, and the run goes on from a sound state."""

import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from trimtab.checkpoint import random_state, restore_random_state
from trimtab.errors import DivergedError
from trimtab.guard._change import Change
from trimtab.guard._chronicle import Chronicle
from trimtab.guard._divergence import Divergence
from trimtab.guard._finite import FiniteWatch
from trimtab.guard._gear import Gear
from trimtab.guard._investigation import Investigation
from trimtab.guard._naming import describe, rates_at_jump
from trimtab.guard._passes import begins_whole, leader, without_leftovers
from trimtab.guard._snapshots import Snapshot
from trimtab.guard._standing import Standing
from trimtab.guard._tape import TapeStep, settings_of
from trimtab.guard._verdict import Verdict
from trimtab.guard.tt310_unexplained_incident import UnexplainedIncident

ROLLBACK_SPAN: Final = 1000
"""Steps within which returns to a snapshot are counted."""


class Returning:
    """Brings a run back whose state is at fault.

    Args:
        gear: Of the guard.
        standing: Where the run stands.
        chronicle: Where returns are entered.
        apply: Keeps up what removed an incident, as far as it is not a learning rate; returns False
            if it cannot.
    """

    def __init__(
        self,
        gear: Gear,
        standing: Standing,
        chronicle: Chronicle,
        *,
        apply: Callable[[Change], bool | None],
    ) -> None:
        self._gear, self._standing, self._chronicle = gear, standing, chronicle
        self._apply = apply
        self._finite = FiniteWatch(gear.live)
        self._divergence = Divergence()
        self._rollbacks: deque[int] = deque()

    # When to.

    def if_broken(self) -> bool:
        """Look whether the state has turned non-finite unseen, and put it back if it has.

        Returns:
            Whether it had.

        Raises:
            DivergedError: It has been put back too often.
        """
        gear, standing = self._gear, self._standing
        if not gear.agree(self._finite.has_broken()):
            return False
        standing.every_limit = gear.read_limits()
        standing.limits = standing.every_limit[0]
        if gear.ring is not None and gear.ring.snapshots:
            self.escalate(standing.number, corrupt=True)
        if gear.agree(self._finite.has_broken()):
            self._finite.accept()  # the run itself makes it so
            return False
        return True

    def if_diverged(self, loss: float, norm: float, number: int) -> bool:
        """Take in a good step; put the run back if it has left what it learned.

        Returns:
            Whether it went back.

        Raises:
            DivergedError: It has been put back too often.
        """
        alone = len(self._gear.live.optimizers) == 1
        if not alone or not self._divergence.see(loss, norm):
            return False
        self._standing.every_limit = self._gear.read_limits()
        self._standing.limits = self._standing.every_limit[0]
        return self.escalate(number, diverged=True)

    def escalate(self, first_bad: int, *, diverged: bool = False, corrupt: bool = False) -> bool:
        """Find the cause, and put the run back if its state is at fault.

        Args:
            first_bad: Number of the first bad step.
            diverged: Whether the run has left what it learned, though no step was an outlier.
            corrupt: Whether the state is known to be bad, though no step has shown it.

        Returns:
            Whether it went back.

        Raises:
            DivergedError: It has been put back too often.
        """
        ring = self._gear.ring
        if ring is None:
            return False
        base = self._base(first_bad)
        if diverged and ring.snapshots:
            base = ring.snapshots[0]
        random, settings = random_state(), self._settings()
        verdict = self._verdict(base, first_bad, corrupt=corrupt)
        restore_random_state(random)
        if not verdict.restored:
            action = "Its data are left out; the state is sound."
            if verdict.change is None:
                action = "Its steps are left out; there is no other state to go back to."
            elif self._gear.config.apply and not verdict.change.without:
                action += self._keep_up(verdict.change, ())
            self._chronicle.enter_verdict(verdict, first_bad, "skip", action)
            return False
        self._go_on(verdict, settings, first_bad, diverged=diverged)
        return True

    # What to.

    def _base(self, first_bad: int) -> Snapshot | None:
        """Return the newest snapshot before a bad step, one known to be healthy if there is any.

        With several optimizers, one that steps can be replayed from comes before others.
        """
        gear = self._gear
        assert gear.ring is not None
        earlier = [s for s in reversed(gear.ring.snapshots) if s.step < first_bad]
        ranked = sorted(earlier, key=lambda s: not s.healthy)  # stable: the newest first of each
        if len(gear.live.optimizers) > 1:
            for snapshot in ranked:
                steps = without_leftovers(gear.tape.since(snapshot.step) or [])
                if not gear.agree(not steps or not begins_whole(steps)):
                    return snapshot
        return ranked[0] if ranked else None

    def _verdict(self, base: Snapshot | None, first_bad: int, *, corrupt: bool) -> Verdict:
        gear, standing = self._gear, self._standing
        ring = gear.ring
        assert ring is not None
        case, why_not = self._case(base, first_bad)
        if case is not None:
            return case.run(corrupt=corrupt)
        if not corrupt and self._leads_nowhere():
            base = None
        if base is not None:
            ring.restore(base)
        lost = range(base.step + 1, standing.number + 1) if base is not None else standing.streak
        seen = self._chronicle.as_step(first_bad)
        return Verdict(
            finding=describe(
                UnexplainedIncident(),
                None,
                standing.limits,
                seen,
                first_bad,
                num_replays=0,
                why_not=why_not,
            ),
            experiments=(),
            change=None,
            restored=base is not None,
            snapshot=base,
            lost=frozenset(lost),
            suspects={"steps": list(standing.streak) or [first_bad]},
        )

    def _case(self, base: Snapshot | None, first_bad: int) -> tuple[Investigation | None, str]:
        """Return what looks for the cause; None and the reason if steps cannot be replayed."""
        gear = self._gear
        if not gear.config.explain:
            return None, "the guard was made with explain=False"
        if not gear.keeps_tape:
            return None, "no batches are kept in this run"
        if base is None:
            return None, "there was no snapshot to replay from yet"
        steps = without_leftovers(gear.tape.since(base.step) or [])
        if gear.agree(not steps):
            why = "its batches were no longer kept, for want of tape_bytes"
            if not len(gear.tape):
                why = "its loss was not given as a function, as in loss(lambda: ...)"
            return None, why
        source = leader(steps, first_bad)
        since = first_bad if source is None else source.number
        before = [s for s in steps if s.number < since and not s.skipped]
        bad = [s for s in steps if s.number >= first_bad]
        limits = self._standing.every_limit or gear.read_limits()
        case = gear.investigation(before, bad, steps, base, first_bad=first_bad, limits=limits)
        if case.can_replay(steps):
            return case, ""
        return None, case.why_not(steps) or "another process could not replay it"

    def _leads_nowhere(self) -> bool:
        """Tell whether it is better to leave steps out than to go back without a replay.

        So it is if the state is finite, and only losses and gradients are not; and if the run has
        just gone back and what followed was no better.
        """
        streak = self._standing.streak
        rows = self._chronicle.rows(streak)
        odd = all(not math.isfinite(row["gradient.norm"]) for row in rows)
        at_once = streak and streak[0] <= self._standing.stale_until + 2
        if self._rollbacks and at_once:
            return True
        return bool(rows) and odd and not self._gear.agree(self._finite.has_broken())

    # And on from there.

    def _go_on(
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
        gear, standing = self._gear, self._standing
        assert gear.ring is not None
        assert verdict.snapshot is not None
        base = verdict.snapshot.step
        kept = gear.tape.since(base) or []
        if "schedule" not in gear.live.parts:
            self._restore_settings(settings)
        over = self._count_return()
        action = self._choose(verdict, kept, over=over, diverged=diverged)
        self._chronicle.enter_verdict(
            verdict, first_bad, "stop" if over else "rollback", action, tape=kept
        )
        gear.tape.drop_after(base)
        gear.ring.drop_after(base)
        if verdict.change is not None:
            standing.num_made_again += len(set(standing.streak) - verdict.lost)
        standing.end_streak()
        standing.stale_until = standing.number
        standing.goes_on_from_replay = verdict.change is not None
        self._divergence.forget()
        gear.keeper.renew()
        gear.take_snapshot(standing.number)  # the tape begins anew there
        if over:
            raise DivergedError(
                f"The run broke at step {first_bad} and has gone back to a healthy state "
                f"{len(self._rollbacks)} times within {ROLLBACK_SPAN} steps, which is more than "
                f"max_rollbacks={gear.config.max_rollbacks}. It is as after step {base} now; save "
                f"it. {self._chronicle.incidents[-1].finding.message}"
            )

    def _count_return(self) -> bool:
        """Count one more return; tell whether there have been too many."""
        number = self._standing.number
        while self._rollbacks and self._rollbacks[0] <= number - ROLLBACK_SPAN:
            self._rollbacks.popleft()
        over = len(self._rollbacks) >= self._gear.config.max_rollbacks
        self._rollbacks.append(number)
        return over

    def _choose(
        self, verdict: Verdict, kept: Sequence[TapeStep], *, over: bool, diverged: bool
    ) -> str:
        """Set what the run goes on with otherwise than before; return what was done, in words."""
        assert verdict.snapshot is not None
        went = f"The run went back to step {verdict.snapshot.step}"
        config, rates = self._gear.config, self._gear.rates
        if over:
            return f"{went} and was stopped: it had gone back {len(self._rollbacks) - 1} times."
        if verdict.change is None:
            rates.begin_rewarm()
            if diverged and config.apply:
                rates.factor *= 0.5
            return f"{went} and warms up again; {_counted(verdict.lost)} lost."
        action = f"{went} and made its steps again, {verdict.change}"
        action += f"; {_counted(verdict.lost)} left out." if verdict.lost else "."
        if config.apply:
            action += self._keep_up(verdict.change, kept)
        return action

    def _keep_up(self, change: Change, tape: Sequence[TapeStep]) -> str:
        """Go on as it went well in the replay of a tape; return it in words."""
        rates = self._gear.rates
        if change.lr_cap is not None:
            caps = change.lr_cap, change.lr_cap
            before, after = rates_at_jump(tape, change.optimizer) or caps
            rates.hold(before, after, change.optimizer)
            whose = "" if change.optimizer is None else f" of optimizers[{change.optimizer}]"
            return (
                f" From now on the learning rate{whose} is divided by its jump, {rates.jump:.3g}."
            )
        if change.lr != 1:
            rates.factor *= change.lr
            return f" The learning rate stays at {rates.factor:g} of the schedule's."
        if change.clip is not None:
            self._standing.norm_limit = change.clip
            self._standing.norm_limited = change.optimizer
            return f" Gradients are clipped to {change.clip:.3g} from now on."
        if change.fresh_moments or change.is_none or change.without:
            return ""  # what was done once has been done
        return "" if self._apply(change) is False else f" From now on it runs {change}."

    def _settings(self) -> list[list[dict[str, Any]]]:
        return [settings_of(optimizer) for optimizer in self._gear.live.optimizers]

    def _restore_settings(self, settings: list[list[dict[str, Any]]]) -> None:
        for optimizer, groups in zip(self._gear.live.optimizers, settings, strict=True):
            for group, values in zip(optimizer.param_groups, groups, strict=False):
                group.update(values)

    # Resuming.

    def state_dict(self) -> dict[str, Any]:
        """Return what later decisions depend on."""
        return {"divergence": self._divergence.state_dict(), "rollbacks": list(self._rollbacks)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self._divergence.load_state_dict(state["divergence"])
        self._rollbacks = deque(state["rollbacks"])


def _counted(steps: Collection[int]) -> str:
    """Return how many steps, in words that a participle can follow."""
    return "1 step is" if len(steps) == 1 else f"{len(steps)} steps are"
