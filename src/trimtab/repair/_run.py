"""One training run of a setup, which can be paused and judged."""

import math
from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

from trimtab.checkpoint import random_state, restore_random_state, seeded
from trimtab.diagnosis import Outcome
from trimtab.diagnosis._batches import Batches
from trimtab.diagnosis._job import BROKEN, Log, Watched
from trimtab.diagnosis._outcome import NUM_PROBED, Probe, constant_loss, probe
from trimtab.diagnosis._state import State
from trimtab.diagnosis._verdicts import verdicts
from trimtab.diagnosis._weighing import has_failed, merged, sorted_out
from trimtab.engine import TrainingSetup
from trimtab.findings import Finding, Selection
from trimtab.repair._rates import job_of
from trimtab.rules import Judge, describe_setup, run_rules

ENDLESS: Final = 10**12


class Run:
    """Trains a setup, in as many parts as one likes, as a plain loop would in one.

    Args:
        setup: Trained in place.
        seed: Of the global random states, which are put back after each part.
    """

    def __init__(self, setup: TrainingSetup, seed: int) -> None:
        self.setup, self.seed = setup, seed
        self.job: Final = job_of(setup)
        self.batches: Final = Batches(setup.batches)
        self.losses: list[float] = []
        self.error: BaseException | None = None
        self.findings: list[Finding] = []
        """What was found in the last part that was judged."""
        self.start: Probe | None = None
        self.constant: float | None = None
        self._broken = False
        self._pairs = self.batches.take(ENDLESS)
        with seeded(seed):
            self._random = random_state()

    @property
    def steps(self) -> int:
        """Calls of the loop body so far."""
        return len(self.losses)

    @property
    def is_over(self) -> bool:
        """Whether it raised, or its losses stay broken."""
        return self.error is not None or self._broken

    def go(self, steps: int, *, judged: bool = False) -> None:
        """Train on.

        Args:
            steps: Calls of the loop body.
            judged: Whether the signals are measured, and `findings` filled.
        """
        if steps < 1 or self.is_over:
            return
        if self.steps == 0:
            self._begin()
        judge = self._judge() if judged else None
        watched = Watched(self.job, judge=judge)
        with seeded(self.seed):
            restore_random_state(self._random)
            log = watched.run(islice(self._pairs, steps), every=1 if steps <= 200 else 2)
            self._random = random_state()
        self.losses += log.losses
        self.error = log.error
        recent = log.losses[-BROKEN:]
        self._broken = log.nonfinite_call is not None and not any(map(math.isfinite, recent))
        if judge is not None:
            self.findings = self._found(judge, log)

    def outcome(self) -> Outcome:
        """Return what was learned so far, on the first batches."""
        end = None if self.error is not None else self._probe()
        return Outcome(self.start, end, self.constant, self.losses)

    def evaluated(self) -> Probe | None:
        """Return what the model answers to the first batches in evaluation mode."""
        modes = [(m, m.training) for m in self.setup.model.modules()]
        self.setup.model.eval()
        try:
            return None if self.error is not None else self._probe()
        finally:
            for module, training in modes:
                module.training = training

    def _begin(self) -> None:
        """Measure the model before it is trained; nothing of the run is touched."""
        job = self.job
        state = State(job.model, job.optimizer, job.scheduler, job.loss_fn, job.others)
        with seeded(self.seed):
            restore_random_state(self._random)
            pair = next(self._pairs)
            self._random = random_state()
        self._pairs = _chained([pair], self._pairs)
        self.start = self._probe()
        self.constant = constant_loss(self.job, self.batches.first(NUM_PROBED))
        state.restore()

    def _probe(self) -> Probe | None:
        job = self.job
        state = State(job.model, job.optimizer, job.scheduler, job.loss_fn, job.others)
        with seeded(self.seed):
            found = probe(self.job, self.batches.first(NUM_PROBED), self.seed)
        state.restore()
        return found

    def _judge(self) -> Judge:
        job = self.job
        return Judge(describe_setup(job.model, [job.optimizer]), rules=run_rules(Selection()))

    def _found(self, judge: Judge, log: Log) -> list[Finding]:
        outcome = self.outcome()
        found: list[Finding] = list(reversed(judge.all_findings))
        one_batch = self.batches.num_given == 1
        found += verdicts(log, outcome, judge.history, found, one_batch=one_batch)
        sound = outcome.is_sound if outcome.start is not None else None
        wrong, _ = sorted_out(found, None, failed=has_failed(outcome, log), sound=sound)
        return merged(wrong, None)


def _chained(first: Sequence[Any], rest: Any) -> Any:
    yield from first
    yield from rest
