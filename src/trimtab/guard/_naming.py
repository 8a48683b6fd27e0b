"""What a change that removes an incident says of its cause: the rule, the words and the remedy."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from trimtab.findings import Evidence, Finding, Fix
from trimtab.guard._change import Change
from trimtab.guard._incident_rule import IncidentRule
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
    max_norm: float,
    caps_attention: bool,
) -> Iterator[tuple[IncidentRule, Change]]:
    """Yield what may have caused an incident, and the change that would remove it; least first.

    Args:
        steps: All steps since the snapshot, the bad ones among them.
        start: Number of the step after which replays begin.
        first_bad: Number of the first bad step.
        limits: What was normal before.
        max_norm: Norm to which the run clips its gradients anyway.
        caps_attention: Whether attention logits can be capped.
    """
    before = [s for s in steps if start < s.number < first_bad]
    accepted = frozenset(s.number for s in before if not s.skipped)
    jump = rates_at_jump(steps)
    if jump is not None:
        yield RateJump(), Change(lr_cap=jump[0])
    if accepted:
        yield BadBatch(), Change(without=accepted)
    if 0 < limits.norm_level < max_norm:
        yield GradientSpike(), Change(clip=limits.norm_level)
    yield StepsTooLong(), Change(lr=0.5)
    yield MomentsOutOfDate(), Change(fresh_moments=True)
    if is_narrow([s for s in steps if s.number >= first_bad]):
        yield PrecisionOverflow(), Change(precision="fp32")
    if caps_attention:
        yield AttentionLogitsUnbounded(), Change(attention_cap=ATTENTION_CAP)


def is_narrow(steps: Sequence[TapeStep]) -> bool:
    """Tell whether a forward pass of these steps ran in less than fp32."""
    return any(micro.precision != "fp32" for step in steps for micro in step.micro_steps)


def rates_at_jump(steps: Sequence[TapeStep]) -> tuple[float, float] | None:
    """Return the learning rates before and after the last sudden rise; None without one."""
    rates = [max(float(group["lr"]) for group in step.settings) for step in steps]
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
) -> Finding:
    """Return the finding of an incident's cause."""
    loss = math.nan if first is None else first.loss
    norm = math.nan if first is None else first.norm
    evidence = (
        Evidence(name="loss", value=loss, normal=f"<= {limits.loss:.4g}"),
        Evidence(name="gradient norm", value=norm, normal=f"<= {limits.norm:.4g}"),
    )
    seen = f"loss {loss:.4g} and gradient norm {norm:.4g}"
    summary = (type(rule).__doc__ or "").split("\n\n")[0].replace("\n    ", " ").strip()
    if change is None:
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
