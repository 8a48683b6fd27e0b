"""repair: find out what is wrong with a run, change it, and train again until it is good."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from trimtab.checkpoint import seeded
from trimtab.engine import TrainingSetup
from trimtab.errors import ConfigError
from trimtab.findings import Finding
from trimtab.repair._apply import apply
from trimtab.repair._blind import CLEARLY, DONE, beyond_constant, is_ahead, is_fine
from trimtab.repair._first import First, FirstRun, built, checked
from trimtab.repair._goal import Goal, Metric
from trimtab.repair._pace import CHECKS, NEAR, is_falling, is_lost
from trimtab.repair._plans import (
    Plan,
    at_another_pace,
    candidates,
    direct,
    name_of,
    other_paces,
    with_gates,
    without_scaling,
)
from trimtab.repair._recurrent import is_recurrent
from trimtab.repair._result import Attempt, RepairResult, in_words
from trimtab.repair._run import Run
from trimtab.repair._tried import Tried

LOOK: Final = 100
"""Calls after which a run is examined, as those of a trial of `diagnose`; once more after half."""

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

LEARNED_SOME: Final = 0.1
"""Share of the loss that a run learned which all but reached its target: coming back from a ruin,
as from outputs that explode, looks alike."""

MAX_LAGGING: Final = 3
"""The same of recurrent nets, of which a trial says little: they learn nothing for a long time, and
then all at once (Hochreiter & Schmidhuber 1997, section 5)."""


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

    The run is trained as it is and examined after 50 and 100 steps. If it is certain by then that
    it fails, it is stopped; else it goes on to its end. A good run comes back as it is. Otherwise
    the setup is built anew, the remedies of what was found are applied to it, and it is trained
    again.
    Where findings name no certain remedy, several are tried for a fifth of the steps each, and the
    best of these runs is continued.

    Args:
        build: `build(seed)` returns the setup, fresh each time it is called: new model, new
            optimizer, new batches.
        steps: Calls of the loop body that make a whole run.
        seed: For `build`, and of the global random states while it trains; they are put back.
        metric: `metric(model)` tells how good the trained model is, in evaluation mode. A remedy
            may put a `trimtab.repair.Scaled` around the model, which is called in the same way.
        target: A run is good if its metric reaches this. Without one it is good if nothing is
            found wrong with it, and it has learned something that is there in evaluation mode
            too; until nearly all is learned, the same is tried at another pace, and the best kept.
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
    return _Repair(checked(build), steps, seed, goal, max_extra).run()


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
        self.changes: set[str] = set()
        self.tried: list[Tried] = []
        self.start = -math.inf
        """How good a model is before training."""

    def run(self) -> RepairResult:
        """Repair."""
        look = min(LOOK, self.steps)
        first = FirstRun(
            self.build, steps=self.steps, look=look, seed=self.seed, goal=self.goal
        ).run()
        self.spent = first.steps
        base = self.goal.value(first.metric, first.outcome)
        shown = self._shown(first.metric, base)
        self.attempts.append(
            Attempt(name="as it is", steps=first.steps, value=shown, good=first.good)
        )
        if first.good:
            return self._result(first, None)
        self.start = self._untrained(first)
        best = self._mend(first, max(base, self.start))
        useless = best is not None and first.complete and self._is_no_better(first, best, base)
        return self._result(first, None if useless else best)

    def _is_no_better(self, first: First, best: Tried, base: float) -> bool:
        """Tell whether a whole run with changes is no better than the complete one without."""
        if self.goal.metric is None and not first.findings:
            return best.value <= base + CLEARLY
        return not best.good and best.value <= base

    def _untrained(self, first: First) -> float:
        """Return how good a model is before training: to be better than a ruin is not enough."""
        start = replace(first.outcome, end=first.outcome.start, losses=())
        return self.goal.value(self.goal.measure(built(self.build, self.seed).model), start)

    def _mend(self, first: First, base: float) -> Tried | None:
        """Return the best that was reached with changes; None if there was no budget for any."""
        best: Tried | None = None
        plan, found = direct(first), list(first.findings)
        if plan:
            best = self._full(self._start(first, plan))
        while best is None or not best.good:
            next_plan = self._promising(first, best, base)
            if best is not None and next_plan:
                another = self._full(self._start(first, next_plan))
                best = max(best, another, key=lambda t: (t.good, t.value))
                continue
            kept = best.plan if best is not None and best.value > base else plan
            if best is not None and best.run.findings:
                found = best.run.findings
            gained = 0.0 if best is None or not best.value > base else best.value - base
            level = base + SHORT * gained if math.isfinite(gained) else base
            if best is not None and not math.isfinite(base):
                level = best.value
            now = best.outcome if best is not None and kept is best.plan else None
            plans = candidates(first, found, kept, now)
            bar = -math.inf if best is None else best.value
            tried = self._chosen(first, plans, level, bar, again=best is not None)
            if tried is None:
                break
            tried = self._full(tried)
            if best is None or tried.good or tried.value > best.value:
                best = tried
        return best if best is None or self.goal.target is not None else self._bettered(first, best)

    def _bettered(self, first: First, best: Tried) -> Tried:
        """Return what learns most of a good run and the same at other paces.

        Without a target nobody can say what is enough: a run that is healthy may be slow.
        """
        waiting = deque(other_paces(first, best.plan) if best.good else ())
        while waiting:
            plan = waiting.popleft()
            done = best.outcome is None or not beyond_constant(best.outcome) < DONE
            if done or best.outcome is None or self.spent + self.steps > self.budget:
                break
            if name_of(plan) in self.done:
                continue
            tried = self._start(first, plan)
            gated = any(order.action == "gate_recurrence" for order in plan)
            if not gated:
                self.done.add(name_of(plan))
                self._train(tried, self.trial, judged=False)
                self.tried.append(tried)
            ahead = is_ahead(tried.run.losses, best.run.losses, best.outcome)
            if gated or ahead or tried.value > best.early + CLEARLY:
                tried = self._full(tried)
                if tried.good and tried.value > best.value:
                    best = tried
                    waiting.extend(other_paces(first, best.plan))
        return best

    def _promising(self, first: First, best: Tried | None, base: float) -> Plan:
        """Return a plan that is worth a whole run without a trial; empty if there is none.

        That is the best one at another pace, if it all but reached the target, and gates for a
        recurrent net, whose trials say little.
        """
        if best is None or best.run.is_over or self.spent + self.steps > self.budget:
            return ()
        learned = math.nan if best.outcome is None else beyond_constant(best.outcome)
        whole = self.goal.gap(self.start)
        near = math.isfinite(whole) and self.goal.gap(best.value) < NEAR * whole
        plans = []
        if best.fell_back:
            plans.append(at_another_pace(first, best.plan, faster=False))
        if near and best.value > base and learned > LEARNED_SOME:
            plans.append(at_another_pace(first, best.plan, faster=is_falling(best.gaps)))
        if is_recurrent(first.setup.model) and not first.adversary:
            plans.append(with_gates(first, best.plan if best.value > base else direct(first)))
        return next((plan for plan in plans if name_of(plan) not in self.done), ())

    def _chosen(
        self, first: First, plans: Sequence[Plan], base: float, bar: float, *, again: bool
    ) -> Tried | None:
        """Try plans for some steps each, and return the best; None if there is nothing to try.

        Args:
            first: The run as it was.
            plans: The likeliest first.
            base: What a trial has to beat to be worth a whole run.
            bar: What it has to beat for no other to be tried.
            again: Whether a whole run was in vain before.
        """
        made: list[Tried] = []
        rest = self.steps - self.trial
        patience = MAX_LAGGING if is_recurrent(first.setup.model) else MAX_HOPELESS
        waiting = deque(plans)
        while waiting:
            plan = waiting.popleft()
            if name_of(plan) in self.done:
                continue
            if self.spent + self.trial + rest > self.budget:
                break
            hopeful = any(self.goal.is_hopeful(t.value, base) for t in made)
            if len(made) >= (MAX_TRIED if hopeful else patience):
                break
            tried = self._start(first, plan)
            self.done.add(name_of(plan))
            if not tried.edits or tried.changes in self.changes:
                continue
            self.changes.add(tried.changes)
            self._train(tried, self.trial, judged=False)
            if tried.run.steps == 0:  # it cannot be run like this
                waiting.extendleft(without_scaling(plan))
                continue
            if any(tried.is_like(other) for other in self.tried):
                continue
            self.tried.append(tried)
            made.append(tried)
            convinces = self.goal.is_convincing(tried.value, base, again=again)
            if convinces and tried.value > bar:
                return tried
        return self._best(made, base)

    def _best(self, made: Sequence[Tried], base: float) -> Tried | None:
        """Return the trial to go on with; None if there is none."""
        best = max(made, key=Tried.rank, default=None)
        floor = min(base, self.start) if math.isfinite(self.start) else base
        if best is None or self.goal.is_hopeful(best.value, floor):
            return best
        if self.goal.metric is None and best.value > made[0].value + LEARNED_SOME:
            return best  # it came further down from outputs that are worse than a constant
        return made[0]  # the likeliest: some models need longer than a trial to come to life

    def _start(self, first: First, plan: Plan) -> Tried:
        """Return a fresh setup with the remedies of a plan applied."""
        setup = built(self.build, self.seed)
        with seeded(self.seed):
            edits = apply(setup, plan, first.sample)
        return Tried(plan, Run(setup, self.seed), edits)

    def _full(self, tried: Tried) -> Tried:
        """Train to the end, as far as the budget allows, and check."""
        self.done.add(name_of(tried.plan))
        self.changes.add(tried.changes)
        if not tried.edits:
            return tried
        if not any(tried is other for other in self.tried):
            if self.tried and self.trial < self.steps:
                self._go(tried, min(self.trial, self.budget - self.spent), judged=False)
                if any(tried.is_like(other) for other in self.tried):
                    self._note(tried)
                    return tried
            self.tried.append(tried)
        if self.goal.target is not None and self._is_lost(tried):
            return tried
        left = min(self.steps - tried.run.steps, self.budget - self.spent)
        self._train(tried, left, judged=self.goal.target is None)  # else the target decides
        tried.gaps.append(self.goal.gap(tried.value))
        return tried

    def _is_lost(self, tried: Tried) -> bool:
        """Train on until it can be told whether a run may reach its target, and tell it."""
        for share in CHECKS:
            there = round(share * self.steps)
            if not tried.run.steps < there < tried.run.steps + self.budget - self.spent:
                return False
            self._go(tried, there - tried.run.steps, judged=False)
            tried.gaps.append(self.goal.gap(tried.value))
        lost = is_lost(self.goal.gap(self.start), tried.gaps[-2], tried.gaps[-1], tried.closest)
        if lost:
            self._note(tried)
        return lost

    def _train(self, tried: Tried, steps: int, *, judged: bool) -> None:
        self._go(tried, steps, judged=judged)
        self._note(tried)

    def _go(self, tried: Tried, steps: int, *, judged: bool) -> None:
        """Train on, and measure how good the model is now."""
        run = tried.run
        before = run.steps
        run.go(steps, judged=judged)
        self.spent += run.steps - before
        tried.outcome = outcome = run.outcome()
        tried.metric = math.nan if run.error is not None else self.goal.measure(run.setup.model)
        tried.value = self.goal.value(tried.metric, outcome)
        tried.closest = min(tried.closest, self.goal.gap(tried.value))
        if run.steps == self.trial:
            tried.early = tried.value
        if self.goal.metric is None:
            tried.highest = max(tried.highest, tried.value)
        complete = run.steps == self.steps and not run.is_over
        reached = self.goal.reached(tried.metric)
        if reached is None:
            reached = complete and is_fine(outcome, run.findings, run.evaluated())
            reached = reached and not tried.fell_back
        tried.good = complete and reached

    def _note(self, tried: Tried) -> None:
        self.attempts.append(
            Attempt(
                name=name_of(tried.plan),
                steps=tried.run.steps,
                value=self._shown(tried.metric, tried.value),
                good=tried.good,
                error=in_words(tried.run.error),
            )
        )

    def _shown(self, metric: float, value: float) -> float:
        return value if self.goal.metric is None else metric

    def _result(self, first: First, best: Tried | None) -> RepairResult:
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
