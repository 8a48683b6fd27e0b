"""What a change that removes an incident says of its cause: the rule, the words and the remedy."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from trimtab.findings import Evidence, Finding, Fix
from trimtab.guard._change import Change
from trimtab.guard._incident_rule import IncidentRule
from trimtab.guard._passes import with_partners
from trimtab.guard._policy import Limits
from trimtab.guard._rates import JUMP
from trimtab.guard._tape import TapeStep
from trimtab.guard.tt109_gradient_spike import GradientSpike
from trimtab.guard.tt209_attention_logits_unbounded import AttentionLogitsUnbounded
from trimtab.guard.tt450_rate_jump import RateJump
from trimtab.guard.tt451_steps_too_long import StepsTooLong
from trimtab.guard.tt452_moments_out_of_date import MomentsOutOfDate
from trimtab.guard.tt453_precision_overflow import PrecisionOverflow
from trimtab.guard.tt512_bad_batch import BadBatch

ATTENTION_CAP: Final = 50.0
"""Of Gemma 2 (arXiv:2408.00118)."""


def candidates(
    steps: Sequence[TapeStep],
    *,
    start: int,
    first_bad: int,
    limits: Limits,
    which: int | None = None,
    max_norm: float,
    caps_attention: bool,
) -> Iterator[tuple[IncidentRule, Change]]:
    """Yield what may have caused an incident, and the change that would remove it; least first.

    Args:
        steps: All steps since the snapshot, the bad ones among them.
        start: Number of the step after which replays begin.
        first_bad: Number of the first bad step.
        limits: What was normal before, of the optimizer whose step was bad first.
        which: Its number; None if there is but one.
        max_norm: Norm to which the run clips its gradients anyway.
        caps_attention: Whether attention logits can be capped.
    """
    before = [s for s in steps if start < s.number < first_bad]
    accepted = with_partners(steps, {s.number for s in before if not s.skipped})
    yield from ((RateJump(), change) for change in _caps(steps, alone=which is None))
    if accepted:
        yield BadBatch(), Change(without=accepted)
    if 0 < limits.norm_level < max_norm:
        yield GradientSpike(), Change(clip=limits.norm_level, optimizer=which)
    yield StepsTooLong(), Change(lr=0.5)
    yield MomentsOutOfDate(), Change(fresh_moments=True)
    if is_narrow([s for s in steps if s.number >= first_bad]):
        yield PrecisionOverflow(), Change(precision="fp32")
    if caps_attention:
        yield AttentionLogitsUnbounded(), Change(attention_cap=ATTENTION_CAP)


def is_narrow(steps: Sequence[TapeStep]) -> bool:
    """Tell whether a forward pass of these steps ran in less than fp32."""
    return any(micro.precision != "fp32" for step in steps for micro in step.micro_steps)


def _caps(steps: Sequence[TapeStep], *, alone: bool) -> Iterator[Change]:
    """Yield the changes that undo jumps of the learning rate; of all optimizers at once first."""
    jumps = {i: rates_at_jump(steps, i) for i in sorted({step.which for step in steps})}
    before = {i: jump[0] for i, jump in jumps.items() if jump is not None}
    if alone or len(before) > 1:
        yield from [Change(lr_cap=max(before.values()))] if before else []
    if not alone:
        yield from (Change(lr_cap=rate, optimizer=i) for i, rate in before.items())


def rates_at_jump(
    steps: Sequence[TapeStep], which: int | None = None
) -> tuple[float, float] | None:
    """Return the learning rates before and after the last sudden rise; None without one.

    Args:
        steps: Of which the rates are taken.
        which: The optimizer that is meant; None takes the largest jump of any.
    """
    if which is None:
        found = [rates_at_jump(steps, i) for i in {step.which for step in steps}]
        return max((jump for jump in found if jump), key=lambda j: j[1] / j[0], default=None)
    own = [step for step in steps if step.which == which]
    rates = [max(float(group["lr"]) for group in step.settings) for step in own]
    for before, after in reversed(list(pairwise(rates))):
        if before > 0 and after > JUMP * before:
            return before, after
    return None


def describe(
    rule: IncidentRule,
    change: Change | None,
    limits: Limits,
    first: TapeStep | None,
    step: int,
    *,
    num_replays: int,
    why_not: str = "",
) -> Finding:
    """Return the finding of an incident's cause.

    Args:
        rule: What the cause is.
        change: What removed the incident; None if nothing did.
        limits: What was normal before.
        first: The first bad step; None if its numbers are not known.
        step: Its number.
        num_replays: How many were made.
        why_not: Why none was, or why they show nothing, where that is known.
    """
    loss = math.nan if first is None else first.loss
    norm = math.nan if first is None else first.norm
    evidence = (
        Evidence(name="loss", value=loss, normal=f"<= {limits.loss:.4g}"),
        Evidence(name="gradient norm", value=norm, normal=f"<= {limits.norm:.4g}"),
    )
    seen = f"loss {loss:.4g} and gradient norm {norm:.4g}"
    summary = (type(rule).__doc__ or "").split("\n\n")[0].replace("\n    ", " ").strip()
    if change is None and not num_replays:
        what = f"{seen}; nothing could be replayed" + (f": {why_not}" if why_not else "")
    elif change is None and why_not:
        what = f"{seen}; replays show nothing: {why_not}"
    elif change is None:
        what = f"{seen}, and none of {num_replays} replays removed it"
    elif change.is_none:
        what = f"{seen}, which did not happen again when the same steps were replayed"
    else:
        text = str(change)
        text = text if text.startswith(("in ", "without ")) else f"with {text}"
        what = f"{seen}, which do not happen {text}"
    return rule.finding(
        what=what,
        step=step,
        evidence=evidence,
        cause=summary,
        fix=_section(rule, "Fix"),
        remedy=remedy_of(change),
    )


def remedy_of(change: Change | None) -> Fix | None:
    """Return a change as what a program can apply."""
    if change is None or change.is_none:
        return None
    if change.without:
        return Fix(action="skip_batch", args={"steps": sorted(change.without)})
    if change.lr != 1:
        return Fix(action="scale_learning_rate", args={"factor": change.lr})
    if change.lr_cap is not None:
        return Fix(action="set_learning_rate", args={"lr": change.lr_cap})
    if change.clip is not None:
        return Fix(action="clip_gradients", args={"max_norm": change.clip})
    if change.precision is not None:
        return Fix(action="set_precision", args={"precision": change.precision})
    return None


def _section(rule: IncidentRule, label: str) -> str:
    """Return one section of a rule's docstring, in one line."""
    for part in (type(rule).__doc__ or "").split("\n\n"):
        text = " ".join(part.split())
        if text.startswith(f"{label}: "):
            return text.removeprefix(f"{label}: ").rstrip(".")
    return ""
