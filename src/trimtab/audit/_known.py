"""Faults of accumulation that `diagnose` knows already, found here by an audit."""

from collections.abc import Iterator

from trimtab.audit._split import SplitBatch, percent
from trimtab.diagnosis import (
    AccumulationNotDivided,
    GradientsClearedTooEarly,
    GradientsNotCleared,
)
from trimtab.findings import Evidence, Finding, Fix

NEAR = 0.02
"""Relative difference up to which a ratio is a whole number; bfloat16 has two to three digits."""
LEFT = 0.1
"""Share of earlier gradients that counts; rounding to bfloat16 makes up to 0.02."""


def known_faults(split: SplitBatch) -> Iterator[Finding]:
    """Yield what is said of undivided losses, and of gradients cleared too early or not at all."""
    if not split.tells:
        return
    yield from _undivided(split)
    yield from _cleared_too_early(split)
    yield from _not_cleared(split)


def is_undivided(split: SplitBatch) -> bool:
    """Tell whether micro-batches were added up without dividing them by their number."""
    ratio = split.ratio if split.even is None else split.even / float(split.right.mean())
    return ratio is not None and abs(ratio / split.num - 1) < NEAR


def is_cleared_too_early(split: SplitBatch) -> bool:
    """Tell whether only the last micro-batch is in the gradient."""
    return split.lost == list(range(1, split.num))


def is_weighed_equally(split: SplitBatch) -> bool:
    """Tell whether micro-batches count alike that should not, but are right together."""
    if split.even is None or split.is_even:
        return False
    return abs(split.even / float(split.right.mean()) - 1) < NEAR


def _undivided(split: SplitBatch) -> Iterator[Finding]:
    if not is_undivided(split):
        return
    num = split.num
    yield AccumulationNotDivided().finding(
        what=f"the gradient of {num} micro-batches is {num} times that of the whole batch",
        evidence=(
            Evidence(
                name="gradient over that of the whole batch",
                value=round(float(split.got.sum() / split.right.sum()), 4),
                normal="1",
            ),
        ),
        cause="the loss was not divided by the number of micro-batches, which acts like a learning "
        f"rate {num} times as high",
        fix=f"call (loss / {num}).backward(), weigh unequal micro-batches by their examples or "
        f"tokens, or use trimtab.Stepper(accumulate={num}), which does both",
        remedy=Fix(action="divide_loss", args={"by": num}),
    )


def _cleared_too_early(split: SplitBatch) -> Iterator[Finding]:
    if not is_cleared_too_early(split):
        return
    yield GradientsClearedTooEarly().finding(
        what=f"only the last of {split.num} micro-batches is in the gradient",
        evidence=(
            Evidence(
                name="micro-batches in the gradient", value=1, normal=str(split.num)
            ),
        ),
        cause="gradients are cleared before every backward(), so that nothing accumulates",
        fix="call optimizer.zero_grad() once for each optimizer.step(), not for each micro-batch",
        remedy=Fix(action="clear_gradients"),
    )  # fmt: skip


def _not_cleared(split: SplitBatch) -> Iterator[Finding]:
    if split.left_over is None or abs(split.left_over) < LEFT:
        return
    yield GradientsNotCleared().finding(
        what=f"the second window holds {split.left_over:.3g} times the gradient of the first",
        evidence=(
            Evidence(
                name="weight of earlier gradients", value=round(split.left_over, 4), normal="0"
            ),
        ),
        cause="gradients of earlier steps are left over and go into the next step again",
        fix="call optimizer.zero_grad() after every optimizer.step()",
        remedy=Fix(action="clear_gradients"),
    )


def weights_evidence(split: SplitBatch) -> Evidence:
    """Return the weights of the micro-batches beside what they should be."""
    return Evidence(
        name="weights of the micro-batches", value=percent(split.got), normal=percent(split.right)
    )
