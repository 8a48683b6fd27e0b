"""The guard at work: watches every step of one run, leaves bad ones out, brings the run back."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn
from torch.optim import Optimizer

from trimtab.findings import Finding
from trimtab.guard._change import Change
from trimtab.guard._chronicle import Chronicle
from trimtab.guard._folders import IncidentFolders
from trimtab.guard._gear import Gear
from trimtab.guard._guard import Guard
from trimtab.guard._incident import Incident
from trimtab.guard._outcome import Outcome, Return
from trimtab.guard._policy import Policy
from trimtab.guard._replayer import Replayer
from trimtab.guard._returning import Returning
from trimtab.guard._second_try import SecondTry
from trimtab.guard._standing import Standing
from trimtab.guard._tape import TapeStep

OVERFLOWS: Final = 40
"""Overflows of fp16 in a row that are no search for the loss scale any more: it halves each time,
and comes down from 2^40 to 1 in as many."""


REMEMBERED: Final = 20
"""Incidents that a checkpoint has with it; the run folder has more."""


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
        gear = self._gear = Gear.assemble(
            config,
            model,
            self.optimizers,
            parts=parts,
            replayer=replayer,
            agree=agree,
            slowest=slowest,
        )
        self.replayer: Final = replayer
        self.policies: Final = gear.policies
        self.rates, self.live, self.keeper = gear.rates, gear.live, gear.keeper
        self.ring, self.tape = gear.ring, gear.tape
        self._standing = Standing()
        self._folders = IncidentFolders(gear, folder=folder, run_config=run_config)
        self._chronicle = Chronicle(self._standing, gear.tape, self._folders, look=gear.suspects)
        self._second_try = SecondTry(gear, self._standing, self._chronicle)
        self._returning = Returning(gear, self._standing, self._chronicle, apply=apply)
        self._made_with: dict[int, tuple[list[float] | None, float | None]] = {}

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
        return self._gear.keeps_tape

    @property
    def run_config(self) -> Callable[[], Mapping[str, Any] | None]:
        """Returns the settings of the run, which incidents are written down with."""
        return self._folders.run_config

    @run_config.setter
    def run_config(self, run_config: Callable[[], Mapping[str, Any] | None]) -> None:
        self._folders.run_config = run_config

    @property
    def number(self) -> int:
        """Steps so far, those left out among them."""
        return self._standing.number

    @property
    def norm_limit(self) -> float | None:
        """Norm to which gradients are clipped besides, since an incident showed the need."""
        return self._standing.norm_limit

    @norm_limit.setter
    def norm_limit(self, limit: float | None) -> None:
        self._standing.norm_limit = limit

    def norm_limit_of(self, which: int) -> float | None:
        """Return the norm to which one optimizer's gradients are clipped besides, if to any."""
        return self._standing.limit_of(which)

    @property
    def goes_on_from_replay(self) -> bool:
        """Whether the run goes on from a replay of its last steps, since it was last put back."""
        return self._standing.goes_on_from_replay

    @property
    def healthy(self) -> bool:
        """Whether the state is believed to be good: no incident is under way."""
        return not self._standing.streak and not self._standing.overflows

    @property
    def incidents(self) -> list[Incident]:
        """What the guard had to do so far, oldest first."""
        return self._chronicle.incidents

    @property
    def findings(self) -> list[Finding]:
        """Causes of the incidents so far, oldest first."""
        return [incident.finding for incident in self.incidents]

    # One step, as the engine makes it.

    def judge(self, loss: Tensor | None, norm: Tensor, which: int = 0) -> Tensor:
        """Return 1 if the step is an outlier, 0-d, without waiting for the device."""
        return self.policies[which].judge(loss, norm)

    def before_update(self, which: int = 0) -> None:
        """Get ready for an update: wait for a snapshot's copies, and set the rates for the step.

        Args:
            which: The number of the optimizer that makes it.
        """
        if self.ring is not None:
            self.ring.before_update()
        if self.acts:
            self.rates.lower()
        limit = self._standing.limit_of(which)
        if self.rates.used is not None or limit is not None:
            self._made_with[self.number + 1] = self.rates.used_by(which), limit

    def after_update(self, skip: Tensor | float) -> None:
        """Count the step; set rates as the schedule had them, and buffers as before a skip."""
        self._standing.number += 1
        self.rates.put_back(stepped=True)
        self.keeper.put_back(skip if isinstance(skip, Tensor) else bool(skip))
        self.keeper.renew()

    def end_step(
        self,
        seconds: float,
        settle: Callable[[], None] | None = None,
        *,
        whole: bool = True,
    ) -> None:
        """Take a snapshot if one is due.

        Args:
            seconds: Since the step before ended.
            settle: Takes in the step's outcome if it is still on its way, so that schedule and
                counters in the snapshot are those of after the step.
            whole: Whether no optimizer has gradients left that it will use: a snapshot has none.
        """
        ring, standing = self.ring, self._standing
        if ring is None or standing.streak:
            return
        if ring.due(self.number, seconds) and whole and self.number >= standing.next_snapshot:
            if settle is not None:
                settle()
            began = time.perf_counter()
            if not standing.streak and not self._returning.if_broken():
                self._gear.take_snapshot(self.number, began=began)

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
        standing = self._standing
        number = self.number if outcome.number is None else outcome.number
        self._put_on_tape(outcome.tape, number)
        self._chronicle.remember(outcome, number)
        bad = outcome.flagged and not outcome.overflow
        standing.overflows = standing.overflows + 1 if outcome.overflow else 0
        standing.flags.append(bad)
        if not bad and standing.overflows < OVERFLOWS:
            return self._note_good(outcome, number)
        if not standing.streak:
            standing.every_limit = self._gear.read_limits()
            standing.limits = standing.every_limit[outcome.which]
        standing.note_bad(number, outcome.which)
        return self._note_bad(outcome, number)

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
        self._standing.note_good(outcome.which)
        if self.ring is None or self._standing.streak:
            return ""
        self.ring.confirm(number - self.config.delay)
        went = self._returning.if_diverged(outcome.loss, outcome.norm, number)
        return "went back" if went else ""

    def _note_bad(self, outcome: Outcome, number: int) -> Return:
        standing = self._standing
        if not self.acts:
            self._chronicle.enter_observed(number)
            return ""
        if self._second_try.succeeds(outcome, number):
            return "made again"
        if number <= standing.stale_until:
            standing.end_streak()
            standing.flags[-1] = False
            return ""
        self._chronicle.enter_skip(number)
        long = standing.is_long(self.config.escalate_after)
        if standing.escalated or not (long or standing.is_crowded(self.config.max_share)):
            return ""
        standing.escalated = True
        return "went back" if self._returning.escalate(standing.streak[0]) else ""

    def note_dropped(self, count: int, of: int, tape: TapeStep | None) -> None:
        """Enter micro-batches that were left out of a step that was made without them."""
        self._standing.limits = self._gear.read_limits()[0]
        self._chronicle.enter_dropped(count, of, tape)

    def take_num_made_again(self) -> int:
        """Return how many steps that had been left out were made after all since the last call."""
        number, self._standing.num_made_again = self._standing.num_made_again, 0
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
            **self._returning.state_dict(),
            **self._standing.state_dict(),
            "incidents": [each.to_dict() for each in self.incidents[-REMEMBERED:]],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        for policy, memory in zip(self.policies, state["policies"], strict=True):
            policy.load_state_dict(memory)
        self.rates.load_state_dict(state["rates"])
        self._returning.load_state_dict(state)
        self._standing.load_state_dict(state)
        self._chronicle.incidents[:] = map(Incident.from_dict, state.get("incidents", ()))
        self._made_with.clear()
        self.tape.drop_after(-1)
        self.keeper.renew()
        if self.ring is not None:
            self.ring.drop_after(-1)
            self._gear.take_snapshot(self.number)
