"""diagnose: train for a while, judge, and say what is wrong."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trimtab.checkpoint import seeded
from trimtab.diagnosis._answers import asks_plainly
from trimtab.diagnosis._batches import Batches, Pair
from trimtab.diagnosis._cause import find_cause, is_odd
from trimtab.diagnosis._diagnosis import Diagnosis
from trimtab.diagnosis._job import Job, Log, TrainStep, Watched
from trimtab.diagnosis._loop_rule import LoopRule
from trimtab.diagnosis._outcome import NUM_PROBED, Outcome, constant_loss, probe
from trimtab.diagnosis._reach import stateful
from trimtab.diagnosis._source import source_findings
from trimtab.diagnosis._state import State
from trimtab.diagnosis._trials import Trial, Trials
from trimtab.diagnosis._verdicts import verdicts
from trimtab.diagnosis._weighing import (
    ENOUGH,
    has_failed,
    is_ailing,
    is_cause,
    merged,
    sorted_out,
)
from trimtab.errors import ConfigError
from trimtab.findings import Finding, Selection, merge
from trimtab.preflight import LiveRule, preflight
from trimtab.rules import History, Judge, describe_setup, run_rules

COMPARING: Final = frozenset({"TT007", "TT008", "TT009", "TT024", "TT504"})
"""Codes that judge how outputs and targets fit, which a loop body may see to by itself."""

FULL_RECORDS: Final = 200
"""Steps up to which every one is recorded; of longer runs every second one."""


def diagnose(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_fn: Callable[..., Tensor],
    batches: Iterable[Pair],
    *,
    steps: int = 200,
    scheduler: Any = None,
    train_step: TrainStep | None = None,
    seed: int = 0,
    keep: bool = False,
    trials: bool = True,
    curvature: bool = False,
    selection: Selection | None = None,
) -> Diagnosis:
    """Train for some steps, judge what happened, and say what is wrong and why.

    Set-up and first batch are checked, the loop body is watched, every layer is measured, and what
    the run learned is compared with the best answer that ignores its inputs. If the run fails, and
    nothing found so far explains it, it is begun again from the same weights with one thing changed
    at a time, such as the learning rate, to find out which change heals it.

    Args:
        model: In the state that training begins with.
        optimizer: Over its parameters.
        loss_fn: Called as `loss_fn(model(x), y)`; returns the mean loss.
        batches: Pairs `(x, y)`: a DataLoader, a list or any iterable, begun anew when it ends. A
            tuple or dict of inputs is spread over the model's arguments.
        steps: Calls of the loop body, of which trials repeat up to 100 each.
        scheduler: Moved after each step, unless the loop body does it.
        train_step: The user's own loop body, `train_step(model, optimizer, loss_fn, x, y)`, faults
            and all; returns the loss. None takes a correct one.
        seed: Of dropout and of everything else that draws from the global random states, which are
            put back afterwards.
        keep: Whether model, optimizer and schedule stay as the training left them. Otherwise they
            are put back, bit for bit, and so is what else `train_step` has hold of and has a
            `state_dict`: a loss scaler, a schedule of its own, another model.
        trials: Whether a run that fails is tried again with changes; a trial costs up to 100 steps.
        curvature: Whether to measure the sharpness of the loss 20 times on the way, for a rule that
            compares it with what the learning rate bears; each costs about 60 backward passes.
        selection: Which rules judge, and with which thresholds.

    Returns:
        Findings, most causal first.

    Raises:
        ConfigError: An argument is of the wrong kind, or `batches` gives no pairs.

    Examples:
        >>> model = nn.Linear(4, 1)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> x = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
        >>> diagnose(model, optimizer, nn.MSELoss(), [(x, x[:, :1])], steps=50).healthy
        True
    """
    _check(model, optimizer, loss_fn, scheduler, steps)
    others = stateful(train_step, known=(model, optimizer, loss_fn, scheduler))
    job = Job(model, optimizer, loss_fn, scheduler, train_step, others=others)
    chosen = selection or Selection()
    source = Batches(batches)
    state = State(model, optimizer, scheduler, loss_fn, others)
    try:
        with seeded(seed):
            return _Examination(job, source, state, steps, seed, chosen).run(
                trials=trials, curvature=curvature
            )
    finally:
        source.put_back()
        if not keep:
            state.restore()


def _check(
    model: object, optimizer: object, loss_fn: object, scheduler: object, steps: object
) -> None:
    """Refuse arguments of the wrong kind.

    Raises:
        ConfigError: One is.
    """
    for name, value, kind in (
        ("model", model, nn.Module),
        ("optimizer", optimizer, torch.optim.Optimizer),
    ):
        if not isinstance(value, kind):
            raise ConfigError(f"{name} must be a {kind.__name__}, got {type(value).__name__}.")
    if not callable(loss_fn):
        raise ConfigError(f"loss_fn must be callable, got {type(loss_fn).__name__}.")
    if isinstance(model, nn.Module) and any(is_lazy(p) for p in model.parameters()):
        raise ConfigError(
            "The model has lazy parameters without a shape yet. Call it once on a batch before."
        )
    if scheduler is not None and not hasattr(scheduler, "load_state_dict"):
        raise ConfigError(
            "scheduler must have state_dict and load_state_dict, so that it can be put back; got "
            f"{type(scheduler).__name__}."
        )
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps must be a whole number of at least 1, got {steps!r}.")


class _Examination:
    """One run of diagnose."""

    def __init__(
        self, job: Job, source: Batches, state: State, steps: int, seed: int, chosen: Selection
    ) -> None:
        self.job, self.source, self.state = job, source, state
        self.steps, self.seed, self.chosen = steps, seed, chosen
        self.judge = Judge(describe_setup(job.model, [job.optimizer]), rules=run_rules(chosen))
        self.trials: Sequence[Trial] = ()

    def run(self, *, trials: bool, curvature: bool) -> Diagnosis:
        pairs = self.source.take(self.steps)
        first = next(iter(pairs))
        before = self._preflight(first)
        self.state.restore()
        every = 1 if self.steps <= FULL_RECORDS else 2
        often = max(1, self.steps // 20) if curvature else 0
        watched = Watched(self.job, judge=self.judge, traced=True, curvature=often)
        with seeded(self.seed):  # as each trial does
            log = watched.run(_chained(first, pairs), every)
        job = self.job
        trained = State(job.model, job.optimizer, job.scheduler, job.loss_fn, job.others)
        job.reshapes = not log.supervised and job.train_step is not None
        end = probe(job, self.source.first(NUM_PROBED), self.seed)
        self.state.restore()
        if not asks_plainly(job, first):  # asked now: a loop body may count its calls
            before = [f for f in before if f.code not in COMPARING]
        self.state.restore()
        outcome = self._outcome(log, end)
        if log.nonfinite_call is not None and log.nonfinite is not None:
            self.judge.see_source(log.nonfinite_call, log.nonfinite)
        found = [*before, *source_findings(job.train_step, self.chosen)]
        found += [*self._loop_findings(log), *reversed(self.judge.all_findings)]
        found += self._verdicts(log, outcome, found)
        proven = self._try(outcome, log, found) if trials else None
        trained.restore()
        known = outcome.start is not None
        failed = has_failed(outcome, log) or (not known and is_ailing(outcome, found))
        found, advice = sorted_out(
            found, proven, failed=failed, sound=outcome.is_sound if known else None
        )
        return Diagnosis(
            findings=merged(found, proven),
            advice=merge(advice),
            history=self.judge.history,
            outcome=outcome,
            trials=self.trials,
            log=log,
        )

    def _preflight(self, pair: Pair) -> list[Finding]:
        job = self.job
        result = preflight(
            job.model,
            job.optimizer,
            job.loss_fn,
            pair,
            scheduler=job.scheduler,
            rules=[r for r in self.chosen.rules("live") if isinstance(r, LiveRule)],
            overfit_s=0,  # the trials do that, if need be
        )
        return list(result.findings)

    def _outcome(self, log: Log, end: Any) -> Outcome:
        """Compare with the beginning; the model is at its beginning now."""
        if end is None or log.adversary:  # with which what is to be learned changes all the time
            return Outcome(None, None, None, log.losses)
        start = probe(self.job, self.source.first(NUM_PROBED), self.seed)
        constant = constant_loss(self.job, self.source.first(NUM_PROBED))
        self.state.restore()
        return Outcome(start, end, constant, log.losses)

    def _loop_findings(self, log: Log) -> list[Finding]:
        if log.trace is None:
            return []
        own = self.job.train_step is not None
        loop = [r for r in self.chosen.rules("loop") if isinstance(r, LoopRule)]
        rules = [r for r in loop if own or not r.needs_loop]
        return [finding for rule in rules for finding in rule.check(log.trace)]

    def _verdicts(self, log: Log, outcome: Outcome, found: Sequence[Finding]) -> list[Finding]:
        one_batch = self.source.num_given == 1
        made = verdicts(log, outcome, self.judge.history, found, one_batch=one_batch)
        return [finding for finding in made if self.chosen.allows(finding.code)]

    def _try(self, outcome: Outcome, log: Log, found: Sequence[Finding]) -> Finding | None:
        if outcome.start is None or any(is_cause(f, found) for f in found) or log.error is not None:
            return None
        failed = has_failed(outcome, log) or is_ailing(outcome, found)
        slow = outcome.fell < 0.2 and not outcome.learned > ENOUGH
        odd = not outcome.is_sound and is_odd(self.job)
        if not (failed or slow or odd):
            return None
        trials = Trials(
            self.job,
            self.state,
            self.source,
            steps=self.steps,
            seed=self.seed,
            base=outcome,
            update_ratio=_update_ratio(self.judge.history),
        )
        proven = find_cause(trials, {f.code for f in found}, failed=failed)
        self.trials = trials.done
        return proven if proven is None or self.chosen.allows(proven.code) else None


def _update_ratio(history: History) -> float:
    """Return the median update ratio of weight matrices; NaN without any."""
    table = history.table("parameters", "update.ratio")
    weights = {p.name for p in history.setup.params if p.role == "weight"}
    values = table.only([site in weights for site in table.sites]).values
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _chained(first: Pair, rest: Iterable[Pair]) -> Iterable[Pair]:
    yield first
    yield from rest
