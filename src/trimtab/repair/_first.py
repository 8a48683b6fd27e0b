"""The run as it is: trained like any plain loop, examined on the way, stopped if it is lost."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from trimtab.checkpoint import seeded
from trimtab.diagnosis import LoopRule, Outcome
from trimtab.diagnosis._answers import asks_plainly
from trimtab.diagnosis._batches import Batches, Pair
from trimtab.diagnosis._diagnose import COMPARING
from trimtab.diagnosis._job import Job, Log, Watched
from trimtab.diagnosis._outcome import LEARNED, NUM_PROBED, constant_loss, probe
from trimtab.diagnosis._source import source_findings
from trimtab.diagnosis._state import State
from trimtab.diagnosis._verdicts import verdicts
from trimtab.diagnosis._weighing import has_failed, is_cause, merged, sorted_out
from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError
from trimtab.findings import Finding, Selection
from trimtab.preflight import LiveRule, preflight
from trimtab.repair._goal import Goal
from trimtab.repair._rates import job_of
from trimtab.rules import Judge, describe_setup, run_rules

VAGUE: Final = frozenset({"TT302", "TT303", "TT304", "TT305", "TT306", "TT412", "TT507"})
"""Codes that say that a run goes badly, not why: it is given its time, since slow runs look so."""

FULL_RECORDS: Final = 200
"""Steps up to which every one is recorded; of longer runs every second one, as in `diagnose`."""


@dataclass
class First:
    """What the run as it is showed."""

    setup: TrainingSetup
    """As far as it was trained."""
    steps: int = 0
    """Calls of the loop body."""
    complete: bool = False
    """Whether all steps were made."""
    findings: list[Finding] = field(default_factory=list)
    outcome: Outcome = field(default_factory=lambda: Outcome(None, None, None, ()))
    metric: float = math.nan
    good: bool = False
    sample: list[Pair] = field(default_factory=list)
    """Copies of all batches that were seen and kept."""
    rates: list[tuple[float, float]] = field(default_factory=list)
    """Learning rate and loss of each step that was recorded."""
    adversary: bool = False
    """Whether the loop body steps another optimizer as well, or learns from several losses: then
    no other loop body can take its place."""


class FirstRun:
    """Trains a setup as it is, and examines it once on the way and once at the end.

    Whatever examines works on a second copy of the setup, so that the run itself is that of a plain
    loop, bit for bit.

    Args:
        build: Makes the setup.
        steps: Of the run.
        look: Calls after which it is examined for the first time.
        seed: Of setup and run.
        goal: What it has to reach.
    """

    def __init__(
        self, build: Callable[[int], TrainingSetup], *, steps: int, look: int, seed: int, goal: Goal
    ) -> None:
        self.build, self.steps, self.look = build, steps, look
        self.seed, self.goal = seed, goal
        self.first = First(built(build, seed))
        self.spare = job_of(built(build, seed))
        self.job: Final = job_of(self.first.setup)
        self.chosen: Final = Selection()
        self.judge: Final = Judge(
            describe_setup(self.job.model, [self.job.optimizer]), rules=run_rules(self.chosen)
        )
        self.watched: Final = Watched(self.job, judge=self.judge, traced=True)
        self.batches: Final = Batches(self.first.setup.batches)
        self.state = _state_of(self.spare)
        self._examined = False
        self._before: list[Finding] | None = None

    def run(self) -> First:
        """Train, and return what was seen."""
        every = 1 if self.steps <= FULL_RECORDS else 2
        with seeded(self.seed):
            log = self.watched.run(self._pairs(), every)
        first = self.first
        first.steps = len(log.losses)
        first.complete = first.steps == self.steps
        looked = first.steps in {self.look // 2, self.look}
        if first.complete or log.error is not None or not looked:
            self._examine()
            first.good = self._is_good()
        first.sample = self.batches.kept
        first.adversary = log.adversary or _has_parts(log)
        rates = self.judge.history.series("learning_rate")
        losses = self.judge.history.series("loss")
        at = dict(zip(losses.steps.tolist(), losses.values.tolist(), strict=True))
        first.rates = [
            (rate, at.get(step, math.nan))
            for step, rate in zip(rates.steps.tolist(), rates.values.tolist(), strict=True)
        ]
        return first

    def _pairs(self) -> Iterator[Pair]:
        for i, pair in enumerate(self.batches.take(self.steps)):
            if i in {self.look // 2, self.look} and i > 0 and self._is_lost(early=i < self.look):
                return
            yield pair

    def _is_lost(self, *, early: bool) -> bool:
        """Tell whether there is no use in going on.

        Args:
            early: Whether there was little time to learn: that nothing was learned says little.
        """
        log = self.watched.log
        adversary = log.adversary
        with seeded(self.seed):
            self._examine()
            log.adversary = adversary  # what examines makes steps with optimizers of its own
            if self.goal.reached(self.first.metric):
                return False
            if early:
                return has_cause(self.first.findings, self.first.outcome, log)
            return is_certain(self.first.findings, self.first.outcome, log)

    def _is_good(self) -> bool:
        log, first = self.watched.log, self.first
        if not first.complete or log.error is not None or first.outcome.broken:
            return False
        reached = self.goal.reached(first.metric)
        if reached is not None:
            return reached
        learned = not first.outcome.learned < LEARNED  # NaN where it cannot be told
        return learned and not first.findings and not has_failed(first.outcome, log)

    def _examine(self) -> None:
        """Measure outcome and metric of the present state, and collect what was found."""
        first, log = self.first, self.watched.log
        if self._examined:  # a loss may count its calls where no state of it can be put back
            self.spare = job_of(built(self.build, self.seed))
            self.state = _state_of(self.spare)
        self._examined = True
        first.outcome = self._outcome(log)
        first.metric = self.goal.measure(self._now())
        self.state.restore()
        found = [*self._preflight(), *self._of_loop(log), *reversed(self.judge.all_findings)]
        one_batch = self.batches.num_given == 1
        found += verdicts(log, first.outcome, self.judge.history, found, one_batch=one_batch)
        sound = first.outcome.is_sound if first.outcome.start is not None else None
        failed = has_failed(first.outcome, log)
        wrong, _ = sorted_out(found, None, failed=failed, sound=sound)
        first.findings = merged(wrong, None)

    def _now(self) -> Any:
        """Return a model in the present state of the run: a copy, while it still trains."""
        if len(self.watched.log.losses) == self.steps or self.watched.log.error is not None:
            return self.job.model
        spare = self.spare.model
        spare.load_state_dict(self.job.model.state_dict())
        spare.train(self.job.model.training)
        return spare

    def _outcome(self, log: Log) -> Outcome:
        """Compare the present state with the beginning."""
        if log.adversary or not self.batches.kept:
            return Outcome(None, None, None, log.losses)
        pairs, job = self.batches.first(NUM_PROBED), self.spare
        job.reshapes = not log.supervised and job.train_step is not None
        job.model.load_state_dict(self.job.model.state_dict())
        job.model.train(self.job.model.training)
        end = probe(job, pairs, self.seed)
        self.state.restore()
        start, constant = probe(job, pairs, self.seed), constant_loss(job, pairs)
        self.state.restore()
        return Outcome(start, end, constant, log.losses)

    def _preflight(self) -> list[Finding]:
        """Return what the setup shows before training."""
        if self._before is None and self.batches.kept:
            job, pair = self.spare, self.batches.first(1)[0]
            live = [r for r in self.chosen.rules("live") if isinstance(r, LiveRule)]
            result = preflight(
                job.model, job.optimizer, job.loss_fn, pair, scheduler=job.scheduler,
                rules=live, overfit_s=0,
            )  # fmt: skip
            self.state.restore()
            plain = asks_plainly(job, pair)
            self.state.restore()
            self._before = [f for f in result.findings if plain or f.code not in COMPARING]
        return self._before or []

    def _of_loop(self, log: Log) -> list[Finding]:
        """Return what the loop body shows, in its source and while it ran."""
        step = self.job.train_step
        rules = [r for r in self.chosen.rules("loop") if isinstance(r, LoopRule)]
        fitting = [r for r in rules if step is not None or not r.needs_loop]
        seen = [] if log.trace is None else [f for r in fitting for f in r.check(log.trace)]
        return [*source_findings(step, self.chosen), *seen]


def built(build: Callable[[int], TrainingSetup], seed: int) -> TrainingSetup:
    """Return a fresh setup; the global random states are left as they were."""
    with seeded(seed):
        return build(seed)


def checked(build: Callable[[int], TrainingSetup]) -> Callable[[int], TrainingSetup]:
    """Return a build function that raises where the user's returns something else."""

    def made(seed: int) -> TrainingSetup:
        setup = build(seed)
        if not isinstance(setup, TrainingSetup):
            raise ConfigError(
                f"build(seed) must return a trimtab.TrainingSetup, got {type(setup).__name__}."
            )
        return setup

    return made


def is_certain(findings: Sequence[Finding], outcome: Outcome, log: Log) -> bool:
    """Tell whether a run that is examined on its way is bad, and known well enough to mend it.

    Args:
        findings: So far.
        outcome: So far.
        log: Of the run.
    """
    return has_cause(findings, outcome, log) or (
        outcome.learned_nothing and any(f.code not in VAGUE for f in findings)
    )


def has_cause(findings: Sequence[Finding], outcome: Outcome, log: Log) -> bool:
    """Tell whether a run is ruined, or a cause of its failure is known.

    Args:
        findings: So far.
        outcome: So far.
        log: Of the run.
    """
    if log.error is not None or outcome.broken or outcome.worse:
        return True
    return any(is_cause(f, findings) for f in findings)


def _has_parts(log: Log) -> bool:
    """Tell whether one call of the loop body makes several backward passes."""
    events = [] if log.trace is None else log.trace.events
    calls = Counter(event.call for event in events if event.kind == "backward")
    return max(calls.values(), default=0) > 1


def _state_of(job: Job) -> State:
    return State(job.model, job.optimizer, job.scheduler, job.loss_fn, job.others)
