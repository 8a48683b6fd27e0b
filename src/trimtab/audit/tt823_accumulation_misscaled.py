"""TT823 accumulation-misscaled: the gradient is a multiple of the whole batch's."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import AccumulationRule, accumulation_example
from trimtab.audit._known import NEAR, is_undivided
from trimtab.audit._split import SplitBatch
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class AccumulationMisscaled(AccumulationRule):
    """The gradient of the micro-batches is that of the whole batch times some number.

    Why: it acts like a learning rate that many times as high or low, also under Adam as soon as
        gradients are clipped, and changes whenever the number of micro-batches does.

    Measured: the gradient that the optimizer gets is compared with that of the loss over the whole
        batch, with a loss so small that clipping does not act.

    Fix: divide once: each mean loss by the number of micro-batches, or by shares; a loss that is a
        sum not at all.
    """

    code: ClassVar = "TT823"
    name: ClassVar = "accumulation-misscaled"
    leads_to: ClassVar = ("TT411", "TT412")
    example: ClassVar = accumulation_example("""
    optimizer.zero_grad()
    total = sum(len(x) for x, _ in micro_batches)
    for x, y in micro_batches:
        (loss_fn(model(x), y) * len(x) / total).backward()
    for p in model.parameters():
        p.grad /= len(micro_batches)
    optimizer.step()
""")

    def check(self, split: SplitBatch) -> Iterator[Finding]:
        """Yield one finding if the gradient is a multiple of the right one."""
        ratio = split.ratio
        if not split.tells or split.is_right or ratio is None or is_undivided(split):
            return
        yield self.finding(
            what=f"the gradient of {split.num} micro-batches is {ratio:.4g} times that of the "
            "whole batch",
            evidence=(
                Evidence(
                    name="gradient over that of the whole batch",
                    value=float(f"{ratio:.4g}"),
                    normal="1",
                ),
            ),
            cause=_cause(ratio, split.num),
            fix="divide once: each mean loss by the number of micro-batches, or multiply it by its "
            "share of the examples; a loss that is a sum is not divided at all",
        )


def _cause(ratio: float, num: int) -> str:
    if abs(ratio * num - 1) < NEAR:
        return (
            "the loss is divided by the number of micro-batches twice, or is a sum already; it "
            "acts like a learning rate that is too low"
        )
    if ratio < 0:
        return "the loss is negated on its way, so that the optimizer climbs"
    high = "too high" if ratio > 1 else "too low"
    return (
        f"the loss is divided by another number than that of the micro-batches ({num}); it "
        f"acts like a learning rate that is {high}"
    )
