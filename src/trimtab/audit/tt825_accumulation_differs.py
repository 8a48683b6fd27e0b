"""TT825 accumulation-differs: micro-batches are missing, or something else is in the gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import AccumulationRule, accumulation_example
from trimtab.audit._known import is_cleared_too_early, is_undivided, weights_evidence
from trimtab.audit._split import UNEXPLAINED, SplitBatch
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class AccumulationDiffers(AccumulationRule):
    """The gradient of the micro-batches is not that of the whole batch, in no way that has a name.

    Why: some examples count for more than others, or not at all, or something else is added. The
        run is not the one that its batch size says.

    Measured: by the weights of the micro-batches' own gradients in that which the optimizer gets,
        and by what is left of it beside them.

    Fix: compare the weights that are named with the code; micro-batches that are left out are often
        those at the end of an epoch.
    """

    code: ClassVar = "TT825"
    name: ClassVar = "accumulation-differs"
    rank: ClassVar = 35
    example: ClassVar = accumulation_example("""
    optimizer.zero_grad()
    total = sum(len(x) for x, _ in micro_batches)
    for x, y in micro_batches[:-1]:
        (loss_fn(model(x), y) * len(x) / total).backward()
    optimizer.step()
""")

    max_unexplained: float = UNEXPLAINED
    """Largest share of the gradient that no weights explain; bfloat16 makes up to 0.01."""

    def check(self, split: SplitBatch) -> Iterator[Finding]:
        """Yield one finding for what no other rule names."""
        if split.mixes:
            return
        if split.got_error > self.max_unexplained:
            yield self.finding(
                what=f"{100 * split.got_error:.2g} % of the gradient comes from none of the "
                f"{split.num} micro-batches",
                evidence=(
                    Evidence(
                        name="share that no micro-batch explains",
                        value=split.got_error,
                        normal=f"<= {self.max_unexplained}",
                    ),
                ),
                cause="something else is added to the gradient, gradients are changed before the "
                "step, or the forward pass is random in eval mode too",
                fix="look at what changes gradients between backward() and optimizer.step(): "
                "clipping by value, noise, a penalty on weights, functional dropout",
            )
            return
        if not split.tells:
            return
        named = is_undivided(split) or is_cleared_too_early(split) or split.is_by_examples
        if split.is_right or named or split.ratio is not None or split.even is not None:
            return
        lost = ", ".join(map(str, split.lost))
        are = "is" if len(split.lost) == 1 else "are"
        yield self.finding(
            what=f"of {split.num} micro-batches, number {lost} {are} not in the gradient"
            if lost
            else f"{split.num} micro-batches have other weights in the gradient than they should",
            evidence=(weights_evidence(split),),
            cause="micro-batches are left out, such as the last ones of a window"
            if lost
            else "micro-batches are weighed neither alike nor by their examples or tokens",
            fix="let every micro-batch call backward() before optimizer.step(), with its share of "
            "the window's examples or tokens as weight, as trimtab.Stepper does",
        )
