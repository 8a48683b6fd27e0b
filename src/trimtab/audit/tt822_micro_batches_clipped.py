"""TT822 micro-batches-clipped: gradients are clipped before they are all there."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import AccumulationRule, accumulation_example
from trimtab.audit._known import is_cleared_too_early
from trimtab.audit._split import SplitBatch, percent
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class MicroBatchesClipped(AccumulationRule):
    """Gradients are clipped after each micro-batch, before the whole window has been added up.

    Why: clipping once keeps the direction of the gradient; clipping on the way shrinks what came
        first again and again, and what is large on its own although the sum is not. The step has
        another direction, and the bound holds for something that nobody uses.

    Measured: with a loss that is 1,000 times as large, so that clipping acts for certain, the
        shares of the micro-batches in the gradient are others than with one that is 1,000 times
        smaller.

    Silent on: clipping once before the step, which scales all shares alike.

    Fix: call `clip_grad_norm_` once, after the last `backward()` and before `optimizer.step()`.

    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """

    code: ClassVar = "TT822"
    name: ClassVar = "micro-batches-clipped"
    example: ClassVar = accumulation_example("""
    optimizer.zero_grad()
    total = sum(len(x) for x, _ in micro_batches)
    for x, y in micro_batches:
        (loss_fn(model(x), y) * len(x) / total).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
""")

    def check(self, split: SplitBatch) -> Iterator[Finding]:
        """Yield one finding if clipping changes the shares."""
        if not split.tells or is_cleared_too_early(split) or not split.is_clipped_apart:
            return
        assert split.loud is not None
        yield self.finding(
            what="gradients are clipped after each micro-batch: where clipping acts, the "
            f"micro-batches count {percent(split.loud / split.loud.sum())}",
            evidence=(
                Evidence(
                    name="shares of the micro-batches with clipping",
                    value=percent(split.loud / split.loud.sum()),
                    normal=percent(split.got / split.got.sum()),
                ),
            ),
            cause="clip_grad_norm_ is called before the window is complete, so what came first is "
            "scaled down again and again",
            fix="clip once, after the last backward() and before optimizer.step()",
        )
