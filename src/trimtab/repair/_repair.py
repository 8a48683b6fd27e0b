"""repair: find out what is wrong with a run, change it, and train again until it is good."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from trimtab.checkpoint import seeded
from trimtab.diagnosis._weighing import is_ailing
from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError
from trimtab.findings import Finding
from trimtab.repair._apply import apply
from trimtab.repair._edit import Edit
from trimtab.repair._first import First, FirstRun, built
from trimtab.repair._goal import Goal, Metric
from trimtab.repair._plans import Plan, candidates, direct, name_of
from trimtab.repair._result import Attempt, RepairResult
from trimtab.repair._run import Run

LOOK: Final = 100
"""Calls after which a run is examined, as those of a trial of `diagnose`."""

TRIAL: Final = 0.2
"""Length of a trial as a share of a whole run."""

MAX_TRIAL: Final = 100
"""Steps of a trial at the most."""

MAX_TRIED: Final = 4
"""Plans that are tried before the best of them is trained to the end, if it is any better."""

SHORT: Final = 0.5
"""Share of what a whole run gained that a trial of the next plan has to beat, being shorter."""

MAX_HOPELESS: Final = 6
"""Plans that are tried while none of them is any better."""


def repair(
    build: Callable[[int], TrainingSetup],
    *,
    steps: int,
    seed: int = 0,
    metric: Metric | None = None,
    target: float | None = None,
    higher_is_better: bool = True,
    max_extra: float = 3.0,
) -> RepairResult:
    """Train, find out what is wrong, mend it, train again, and check, until the run is good.

    The run is trained as it is and examined after 100 steps. If it is certain by then that it
    fails, it is stopped; else it goes on to its end. A good run comes back as it is. Otherwise the
    setup is built anew, the remedies of what was found are applied to it, and it is trained again.
    Where findings name no certain remedy, several are tried for a fifth of the steps each, and the
    best of these runs is continued.

    Args:
        build: `build(seed)` returns the setup, fresh each time it is called: new model, new
            optimizer, new batches.
        steps: Calls of the loop body that make a whole run.
        seed: For `build`, and of the global random states while it trains; they are put back.
        metric: `metric(model)` tells how good the trained model is, in evaluation mode. A remedy
            may put a `trimtab.repair.Scaled` around the model, which is called in the same way.
        target: A run is good if its metric reaches this. Without one it is good if it has learned
            something, and nothing is found wrong with it.
        higher_is_better: Whether a metric is better the higher it is.
        max_extra: Training beyond one run that may be spent, as a multiple of `steps`.

    Returns:
        The trained setup with what was changed; `repaired` only if the last check was passed.

    Raises:
        ConfigError: An argument is out of range, or `build` returns something else than a setup.

    Examples:
        >>> import torch
        >>> def build(seed):
        ...     generator = torch.Generator().manual_seed(seed)
        ...     x = torch.randn(64, 4, generator=generator)
        ...     model = torch.nn.Linear(4, 1)
        ...     optimizer = torch.optim.SGD(model.parameters(), lr=50.0)
        ...     return TrainingSetup(model, optimizer, torch.nn.MSELoss(), [(x, x[:, :1])])
        >>> result = repair(build, steps=100)
        >>> result.repaired
        True
        >>> print(result.diff)
        learning rate: 50 -> 0.5
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ConfigError(f"steps must be a whole number of at least 1, got {steps!r}.")
    if not (math.isfinite(max_extra) and max_extra >= 0):
        raise ConfigError(f"max_extra must be finite and not negative, got {max_extra}.")
    goal = Goal(metric, target, higher_is_better, seed)
    return _Repair(_checked(build), steps, seed, goal, max_extra).run()


def _checked(build: Callable[[int], TrainingSetup]) -> Callable[[int], TrainingSetup]:
    """Return a build function that raises where the user's returns something else."""

    def checked(seed: int) -> TrainingSetup:
        setup = build(seed)
        if not isinstance(setup, TrainingSetup):
            raise ConfigError(
                f"build(seed) must return a trimtab.TrainingSetup, got {type(setup).__name__}."
            )
        return setup

    return checked


class _Tried:
    """One plan, and how far it was trained."""

    def __init__(self, plan: Plan, run: Run, edits: list[Edit]) -> None:
        self.plan, self.run, self.edits = plan, run, edits
        self.metric = self.value = math.nan
        self.good = False


class _Repair:
    """One call of repair."""

    def __init__(
        self,
        build: Callable[[int], TrainingSetup],
        steps: int,
        seed: int,
        goal: Goal,
        max_extra: float,
    ) -> None:
        self.build, self.steps, self.seed, self.goal = build, steps, seed, goal
        self.budget: Final = math.floor(steps * (1 + max_extra))
        self.trial: Final = max(1, min(MAX_TRIAL, round(TRIAL * steps)))
        self.spent = 0
        self.attempts: list[Attempt] = []
        self.done: set[str] = set()

    def run(self) -> RepairResult:
        """Repair."""
        look = min(LOOK, self.steps)
        first = FirstRun(
            self.build, steps=self.steps, look=look, seed=self.seed, goal=self.goal
        ).run()
        self.spent = first.steps
        base = self.goal.value(first.metric, first.outcome)
        self.attempts.append(
            Attempt(
                name="as it is",
                steps=first.steps,
                value=self._shown(first.metric, base),
                good=first.good,
            )
        )
        if first.good:
            return self._result(first, None)
        best = self._mend(first, max(base, self._untrained(first)))
        useless = best is not None and not best.good and first.complete and best.value <= base
        return self._result(first, None if useless else best)

    def _untrained(self, first: First) -> float:
        """Return how good a model is before training: to be better than a ruin is not enough."""
        start = replace(first.outcome, end=first.outcome.start, losses=())
        return self.goal.value(self.goal.measure(built(self.build, self.seed).model), start)

    def _mend(self, first: First, base: float) -> _Tried | None:
        """Return the best that was reached with changes; None if there was no budget for any."""
        best: _Tried | None = None
        plan, found = direct(first), list(first.findings)
        if plan:
            best = self._full(self._start(first, plan))
        while best is None or not best.good:
            kept = best.plan if best is not None and best.value > base else plan
            if best is not None and best.run.findings:
                found = best.run.findings
            gained = 0.0 if best is None or not best.value > base else best.value - base
            level = base + SHORT * gained if math.isfinite(gained) else base
            plans = candidates(first, found, kept)
            tried = self._chosen(first, plans, level, again=best is not None)
            if tried is None:
                break
            tried = self._full(tried)
            if best is None or tried.good or tried.value > best.value:
                best = tried
        return best

    def _chosen(
        self, first: First, plans: Sequence[Plan], base: float, *, again: bool
    ) -> _Tried | None:
        """Try plans for some steps each, and return the best; None if there is nothing to try."""
        made: list[_Tried] = []
        rest = self.steps - self.trial
        for plan in plans:
            if name_of(plan) in self.done:
                continue
            if self.spent + self.trial + rest > self.budget:
                break
            hopeful = any(self.goal.is_hopeful(t.value, base) for t in made)
            if len(made) >= (MAX_TRIED if hopeful else MAX_HOPELESS):
                break
            tried = self._start(first, plan)
            self.done.add(name_of(plan))
            if not tried.edits:
                continue
            self._train(tried, self.trial, judged=False)
            if tried.run.steps == 0:  # it cannot be run like this
                continue
            made.append(tried)
            if self.goal.is_convincing(tried.value, base, again=again):
                return tried
        best = max(made, key=lambda t: t.value, default=None)
        if best is None or self.goal.is_hopeful(best.value, base):
            return best
        return made[0]  # the likeliest: some models need longer than a trial to come to life

    def _start(self, first: First, plan: Plan) -> _Tried:
        """Return a fresh setup with the remedies of a plan applied."""
        setup = built(self.build, self.seed)
        with seeded(self.seed):
            edits = apply(setup, plan, first.sample)
        return _Tried(plan, Run(setup, self.seed), edits)

    def _full(self, tried: _Tried) -> _Tried:
        """Train to the end, as far as the budget allows, and check."""
        self.done.add(name_of(tried.plan))
        left = min(self.steps - tried.run.steps, self.budget - self.spent)
        if tried.edits:
            self._train(tried, left, judged=self.goal.target is None)  # else the target decides
        return tried

    def _train(self, tried: _Tried, steps: int, *, judged: bool) -> None:
        run = tried.run
        before = run.steps
        run.go(steps, judged=judged)
        self.spent += run.steps - before
        outcome = run.outcome()
        tried.metric = math.nan if run.error is not None else self.goal.measure(run.setup.model)
        tried.value = self.goal.value(tried.metric, outcome)
        complete = run.steps == self.steps and not run.is_over
        reached = self.goal.reached(tried.metric)
        if reached is None:
            reached = not (
                run.findings
                or outcome.broken
                or outcome.worse
                or outcome.learned_nothing
                or is_ailing(outcome, run.findings)
            )
        tried.good = complete and reached
        name = name_of(tried.plan)
        self.attempts.append(
            Attempt(
                name=name,
                steps=run.steps,
                value=self._shown(tried.metric, tried.value),
                good=tried.good,
            )
        )

    def _shown(self, metric: float, value: float) -> float:
        return value if self.goal.metric is None else metric

    def _result(self, first: First, best: _Tried | None) -> RepairResult:
        found: list[Finding] = first.findings
        changed = best is not None and bool(best.edits)
        advice = [f.fix for f in found if f.fix] if best is None or not best.good else []
        if best is not None:
            advice = [e.advice for e in best.edits if e.advice] + advice
        return RepairResult(
            repaired=best is not None and best.good and changed,
            healthy_before=first.good,
            setup=first.setup if best is None else best.run.setup,
            metric=first.metric if best is None else best.metric,
            edits=[] if best is None else best.edits,
            advice=list(dict.fromkeys(advice)),
            findings=found,
            attempts=self.attempts,
            extra=max(0, self.spent - self.steps) / self.steps,
        )
