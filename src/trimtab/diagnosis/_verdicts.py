"""What batches, losses and the outcome of a run say by themselves."""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from trimtab.diagnosis._job import Log
from trimtab.diagnosis._outcome import Outcome
from trimtab.diagnosis._trace import Event
from trimtab.diagnosis.tt430_loop_raises import LoopRaises
from trimtab.diagnosis.tt434_unsafe_operation import UnsafeOperation
from trimtab.findings import Evidence, Finding, find_rule
from trimtab.rules import History

BAD_DATA: Final = ("TT502", "TT504", "TT508")
"""Codes of values that are not finite, or out of range, in the batches themselves."""

SAME_BATCHES: Final = 8
"""Records in a row with the same inputs after which a loader counts as stuck."""

MODERATE: Final = 1e6
"""Largest activation of a run that does not explode; fp16 overflows at 65504."""


def verdicts(
    log: Log, outcome: Outcome, history: History, found: Sequence[Finding], *, one_batch: bool
) -> list[Finding]:
    """Return what batches and losses themselves say, where no rule has said it.

    Args:
        log: Of the run.
        outcome: What it learned.
        history: What was measured.
        found: What rules have said.
        one_batch: Whether all data are one batch.
    """
    said = {f.code for f in found}
    made = []
    prints = history.series("input.fingerprint").known().values
    if not one_batch and len(prints) >= SAME_BATCHES and bool((prints == prints[0]).all()):
        made.append(_stuck(history))
    if log.error is not None:
        made.append(_raised(log))
    if said.isdisjoint(BAD_DATA) and _is_unsafe(log, history):
        made.append(_unsafe(log))
    end = _end(log, outcome)
    return made if end is None or end.code in said else [*made, end]


def _end(log: Log, outcome: Outcome) -> Finding | None:
    """Return how the run ended, if it ended badly."""
    if log.nonfinite_call is not None:
        return _nonfinite(log)
    if outcome.worse:
        return _diverged(outcome)
    if outcome.learned_nothing and not outcome.broken:
        return _nothing_learned(outcome)
    return None


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
    if not largest.size:  # of the first step nothing is known but where it happened
        return source is not None and source.kind == "loss"
    return float(largest.max()) < MODERATE


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
        step=outcome.failed_at,
        evidence=(
            Evidence(name="loss at the end", value=outcome.end.loss,
                     normal=f"<= {max(outcome.start.loss, outcome.reference):.3g}"),
        ),
        cause="the steps lead away from the minimum",
        fix="lower the learning rate, warm it up, and clip gradients",
    )  # fmt: skip


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
