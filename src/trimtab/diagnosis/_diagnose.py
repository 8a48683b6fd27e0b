"""diagnose: train for a while, judge, and say what is wrong."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from trimtab.diagnosis._batches import Batches, Pair
from trimtab.diagnosis._cause import find_cause
from trimtab.diagnosis._diagnosis import Diagnosis
from trimtab.diagnosis._job import Job, Log, TrainStep, Watched
from trimtab.diagnosis._loop_rule import LoopRule
from trimtab.diagnosis._outcome import NUM_PROBED, Outcome, constant_loss, probe
from trimtab.diagnosis._reach import stateful
from trimtab.diagnosis._state import State, seeded
from trimtab.diagnosis._trace import Event
from trimtab.diagnosis._trials import Trial, Trials
from trimtab.diagnosis.tt430_loop_raises import LoopRaises
from trimtab.diagnosis.tt434_unsafe_operation import UnsafeOperation
from trimtab.errors import ConfigError
from trimtab.findings import Evidence, Finding, Selection, Severity, explains, find_rule, merge
from trimtab.preflight import LiveRule, preflight
from trimtab.rules import History, Judge, describe_setup

SOFT: Final = frozenset(
    {"TT006", "TT007", "TT017", "TT018", "TT020", "TT304", "TT305", "TT306", "TT432", "TT505"}
)
"""What harms some runs and not others: said only of a run that fails."""

CAUSES: Final = (
    "TT0", "TT404", "TT405", "TT409", "TT413", "TT414", "TT415", "TT417", "TT419", "TT42", "TT432",
    "TT434", "TT435", "TT5", "TT6", "TT7",
)  # fmt: skip
"""Codes of faults that need no trial to be believed; of the soft ones only `TT432` does."""

BAD_DATA: Final = ("TT502", "TT504", "TT508")
"""Codes of values that are not finite, or out of range, in the batches themselves."""

SAME_BATCHES: Final = 8
"""Records in a row with the same inputs after which a loader counts as stuck."""

MODERATE: Final = 1e6
"""Largest activation of a run that does not explode; fp16 overflows at 65504."""

SUSPICIOUS: Final = ("TT1", "TT2", "TT3", "TT401", "TT406", "TT407")
"""Codes of what shows that a run suffers; whether it fails, its outcome tells."""

ENOUGH: Final = 0.5
"""Share of the loss taken off from which on a run is sound, whatever it looks like on the way."""

FULL_RECORDS: Final = 100
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
    job = Job(model, optimizer, loss_fn, scheduler, train_step, others)
    chosen = selection or Selection()
    source = Batches(batches)
    state = State(model, optimizer, scheduler, loss_fn, others)
    try:
        with seeded(seed):
            return _Examination(job, source, state, steps, seed, chosen).run(trials=trials)
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
        self.judge = Judge(describe_setup(job.model, [job.optimizer]), rules=chosen.rules("run"))
        self.trials: Sequence[Trial] = ()

    def run(self, *, trials: bool) -> Diagnosis:
        pairs = self.source.take(self.steps)
        first = next(iter(pairs))
        before = self._preflight(first)
        self.state.restore()
        every = 1 if self.steps <= FULL_RECORDS else 2
        watched = Watched(self.job, judge=self.judge, traced=True)
        with seeded(self.seed):  # as each trial does
            log = watched.run(_chained(first, pairs), every)
        job = self.job
        trained = State(job.model, job.optimizer, job.scheduler, job.loss_fn, job.others)
        end = probe(job, self.source.first(NUM_PROBED), self.seed) if log.supervised else None
        self.state.restore()
        outcome = self._outcome(log, end)
        found = [*before, *self._loop_findings(log), *self.judge.all_findings]
        found += self._verdicts(log, outcome, found)
        proven = self._try(outcome, log, found) if trials else None
        trained.restore()
        known = outcome.start is not None
        failed = _has_failed(outcome, log) or (not known and _is_ailing(outcome, found))
        found, advice = _sorted_out(found, proven, failed=failed)
        return Diagnosis(
            findings=_merged(found, proven),
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
        own = job.train_step is not None  # which may call the model in another way
        return [f for f in result.findings if not (own and f.code == "TT024")]

    def _outcome(self, log: Log, end: Any) -> Outcome:
        """Compare with the beginning; the model is at its beginning now."""
        if not log.supervised:
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
        """Return what the losses themselves say, where no rule has said it."""
        said = {f.code for f in found}
        made = []
        if self._is_stuck():
            made.append(_stuck(self.judge.history))
        if log.error is not None:
            made.append(_raised(log))
        if said.isdisjoint(BAD_DATA) and _is_unsafe(log, self.judge.history):
            made.append(_unsafe(log))
        if log.nonfinite_call is not None and "TT303" not in said:
            made.append(_nonfinite(log))
        elif outcome.worse and "TT302" not in said:
            made.append(_diverged(outcome))
        elif outcome.learned_nothing and not outcome.broken and "TT304" not in said:
            made.append(_nothing_learned(outcome))
        return [f for f in made if self.chosen.allows(f.code)]

    def _is_stuck(self) -> bool:
        """Tell whether batches that should differ are all the same."""
        prints = self.judge.history.series("input.fingerprint").known().values
        several = self.source.num_given != 1
        return several and len(prints) >= SAME_BATCHES and bool((prints == prints[0]).all())

    def _try(self, outcome: Outcome, log: Log, found: Sequence[Finding]) -> Finding | None:
        if outcome.start is None or any(_is_cause(f) for f in found) or log.error is not None:
            return None
        failed = _has_failed(outcome, log) or _is_ailing(outcome, found)
        slow = outcome.fell < 0.2 and not outcome.learned > ENOUGH
        if not (failed or slow):
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


def _is_soft(finding: Finding) -> bool:
    """Tell whether a finding counts only if the run fails."""
    if finding.severity is Severity.ERROR:
        return False
    first = finding.evidence[0].name if finding.evidence else ""
    return finding.code in SOFT and first != "first loss"  # which is known to be far too high


def _is_shown(finding: Finding, found: Sequence[Finding]) -> bool:
    """Tell whether what a soft finding would bring about was seen."""
    hard = (f for f in found if f.severity is not Severity.ADVICE and not _is_soft(f))
    return any(explains(finding, f) for f in hard)


def _is_cause(finding: Finding) -> bool:
    hard = not _is_soft(finding) or finding.code == "TT432"
    believed = hard and finding.code.startswith(CAUSES)
    return believed and finding.severity is not Severity.ADVICE


def _has_failed(outcome: Outcome, log: Log) -> bool:
    """Tell whether the run as such went wrong, whatever its set-up and its layers look like."""
    return log.error is not None or outcome.broken or outcome.worse or outcome.learned_nothing


def _is_ailing(outcome: Outcome, found: Sequence[Finding]) -> bool:
    """Tell whether layers or losses look ill, and the run has not learned well all the same."""
    ill = [f for f in found if f.code.startswith(SUSPICIOUS)]
    return not outcome.learned >= ENOUGH and any(f.severity is not Severity.ADVICE for f in ill)


def _sorted_out(
    found: Sequence[Finding], proven: Finding | None, *, failed: bool
) -> tuple[list[Finding], list[Finding]]:
    """Separate what is wrong from what is worth knowing."""
    wrong, advice = [], []
    for finding in found:
        other = proven is not None and proven.code != finding.code
        doubted = _is_soft(finding) and (other or not (failed or _is_shown(finding, found)))
        if finding.severity is Severity.ADVICE or doubted:
            advice.append(finding.with_(severity=Severity.ADVICE))
        else:
            wrong.append(finding)
    return wrong, advice


def _merged(found: Sequence[Finding], proven: Finding | None) -> list[Finding]:
    """Return one finding for each cause; what a trial has proven comes first."""
    if proven is None:
        return merge(found)
    others = merge(f for f in found if f.code != proven.code)
    effects = [f for f in others if f.code.startswith(("TT1", "TT2", "TT3", "TT4"))]
    rest = [f for f in others if f not in effects]
    same = [f for f in found if f.code == proven.code]
    steps = [f.step for f in [*same, *effects] if f.step is not None]
    first = proven.with_(
        step=proven.step if proven.step is not None or not steps else min(steps),
        site=proven.site or (same[0].site if same else ""),
        consequences=tuple(effects),
    )
    return [first, *rest]


def _stuck(history: History) -> Finding:
    steps = history.series("input.fingerprint").known().steps
    return find_rule("TT501")().finding(
        what=f"all {len(steps)} batches that were looked at were the same",
        site="batches",
        step=int(steps[0]),
        evidence=(Evidence(name="different batches", value=1.0, normal=f">= {SAME_BATCHES}"),),
        cause="the loader repeats one batch: its iterator is made anew in each step, or stuck",
        fix="make the iterator once an epoch, outside of the step; pass a list of one batch if all "
        "data are meant to be one",
    )


def _raised(log: Log) -> Finding:
    error, place = log.error, log.error_place
    text = str(error).strip().splitlines()[0] if str(error).strip() else "no message"
    return LoopRaises().finding(
        what=f"call {len(log.losses) + 1} of the loop raised {type(error).__name__}: {text}",
        file=None if place is None else place[0],
        line=None if place is None else place[1],
        step=len(log.losses) + 1,
        cause="the training step cannot be carried out as it is",
        fix="look at the line that is named, and at what was found beside it",
    )


def _is_unsafe(log: Log, history: History) -> bool:
    """Tell whether a value that is not finite came out of a run that was sound until then."""
    calls = [c for c in (log.nonfinite_call, log.bad_gradient_call) if c is not None]
    source = log.nonfinite
    in_forward = log.bad_gradient_call is None or min(calls, default=0) != log.bad_gradient_call
    if not calls or (in_forward and source is None):
        return False
    if in_forward and source is not None:
        given = source.kind in {"input", "parameter"} or not source.inputs_finite
        if given or any(e.facts.get("fp16") for e in _events(log)):
            return False
    before = log.losses[: min(calls) - 1]
    if not all(math.isfinite(v) for v in before) or (before and max(before) > 2 * abs(before[0])):
        return False
    largest = history.table("modules", "activation.max").values
    largest = largest[np.isfinite(largest)]
    return not largest.size or float(largest.max()) < MODERATE


def _events(log: Log) -> Sequence[Event]:
    return [] if log.trace is None else log.trace.events


def _unsafe(log: Log) -> Finding:
    """Return the finding for the place where a value stopped to be finite."""
    in_backward = log.bad_gradient_call is not None and (
        log.nonfinite_call is None or log.bad_gradient_call < log.nonfinite_call
    )
    call = log.bad_gradient_call if in_backward else log.nonfinite_call
    where = f"gradient of {log.bad_gradient}" if in_backward else _place(log)
    site = log.bad_gradient if in_backward else log.nonfinite and log.nonfinite.site
    earlier = log.losses[: (call or 1) - 1]
    level = f"{earlier[-1]:.3g} before" if earlier else "the first one"
    return UnsafeOperation().finding(
        what=f"the {where} was NaN or infinite in call {call}, although the loss was {level}",
        site=site or "",
        step=call,
        evidence=(Evidence(name="value", value="not finite", normal="finite"),),
        cause="an operation met the edge of what it is defined for: log or division at 0, the "
        "slope of sqrt or of a norm at 0, or exp of a large number",
        fix="join the operations (log_softmax, logsumexp, binary_cross_entropy_with_logits), or "
        "add a small eps before the log, the root or the division",
    )


def _place(log: Log) -> str:
    """Return where the first value that is not finite was, without an article."""
    return str(log.nonfinite).removeprefix("the ")


def _nonfinite(log: Log) -> Finding:
    where = "" if log.nonfinite is None else f"; the first such value was in the {_place(log)}"
    return find_rule("TT303")().finding(
        what=f"the loss was NaN or infinite in call {log.nonfinite_call}{where}",
        site="" if log.nonfinite is None else log.nonfinite.site,
        step=log.nonfinite_call,
        evidence=(Evidence(name="loss", value="not finite", normal="finite"),),
        cause="a value left the range of numbers, and everything computed from it is lost",
        fix="look at the place that is named first",
    )


def _diverged(outcome: Outcome) -> Finding:
    assert outcome.start is not None
    assert outcome.end is not None
    return find_rule("TT302")().finding(
        what=f"the loss went from {outcome.start.loss:.3g} to {outcome.end.loss:.3g}",
        step=_first_above(outcome),
        evidence=(
            Evidence(name="loss at the end", value=outcome.end.loss,
                     normal=f"<= {max(outcome.start.loss, outcome.reference):.3g}"),
        ),
        cause="the steps lead away from the minimum",
        fix="lower the learning rate, warm it up, and clip gradients",
    )  # fmt: skip


def _first_above(outcome: Outcome) -> int | None:
    assert outcome.start is not None
    level = max(outcome.start.loss, outcome.reference)
    above = [i + 1 for i, v in enumerate(outcome.losses) if not v <= level + 0.5 * abs(level)]
    return above[0] if above else None


def _nothing_learned(outcome: Outcome) -> Finding:
    assert outcome.end is not None
    knows = 0.0 if math.isnan(outcome.knows) else outcome.knows
    return find_rule("TT304")().finding(
        what=f"after {len(outcome.losses)} steps the loss is {outcome.end.loss:.3g}, no better "
        f"than the {outcome.reference:.3g} of one constant answer to everything",
        step=len(outcome.losses),
        evidence=(
            Evidence(name="share of the constant answer's loss taken off", value=outcome.learned,
                     normal=">= 0.03"),
            Evidence(name="share lost when targets are shuffled", value=knows, normal=">= 0.03"),
        ),
        cause="nothing of the inputs has found its way into the answers",
        fix="check that one batch can be overfitted, then learning rate, initialisation and data",
    )  # fmt: skip
