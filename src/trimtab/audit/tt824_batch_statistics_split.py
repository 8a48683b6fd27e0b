"""TT824 batch-statistics-split: examples look at each other, and now only within a micro-batch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import AccumulationRule, accumulation_example, named
from trimtab.audit._split import SplitBatch
from trimtab.findings import Evidence, Finding, Severity, register


@register
@dataclass(frozen=True, kw_only=True)
class BatchStatisticsSplit(AccumulationRule):
    """Model or loss let the examples of a batch look at each other, and cutting it changes them.

    Why: BatchNorm takes its statistics from a micro-batch, not from the whole batch, and moves its
        running statistics once for each. A contrastive loss has fewer negatives. No weighting makes
        accumulation equal to the whole batch then, and small micro-batches are noisy.

    Measured: the whole batch's gradient beside the weighted sum of the micro-batches' own, without
        dropout: in training mode where there is BatchNorm, in eval mode else.

    Fix: use GroupNorm or LayerNorm, micro-batches of 16 examples or more, or freeze BatchNorm in
        eval mode; with a contrastive loss gather the embeddings of all micro-batches first.

    Source: Wu and He 2018, arXiv:1803.08494; Gao et al. 2021, arXiv:2101.06983.
    """

    code: ClassVar = "TT824"
    name: ClassVar = "batch-statistics-split"
    severity: ClassVar = Severity.WARNING
    rank: ClassVar = 30
    example: ClassVar = accumulation_example(
        """
    optimizer.zero_grad()
    total = sum(len(x) for x, _ in micro_batches)
    for x, y in micro_batches:
        (loss_fn(model(x), y) * len(x) / total).backward()
    optimizer.step()
""",
        model="torch.nn.BatchNorm1d(6)",
    )

    max_difference: float = 0.01
    """Largest relative difference of the two gradients; rounding to bfloat16 makes less."""

    def check(self, split: SplitBatch) -> Iterator[Finding]:
        """Yield one finding if cutting the batch changes what its examples give."""
        apart = split.right_error if split.mixes else split.mixing
        if apart is None or apart <= self.max_difference:
            return
        norms = [] if split.mixes else split.norms
        whose = "BatchNorm" if norms else "the model or the loss"
        cause = (
            f"BatchNorm ({named(norms)}) takes its statistics from each micro-batch, not from the "
            "whole batch"
            if norms
            else "model or loss compare the examples of a batch with each other, as contrastive "
            "losses and batch statistics do"
        )
        yield self.finding(
            what=f"{whose} lets examples look at each other: the gradient of {split.num} "
            f"micro-batches is {100 * apart:.2g} % away from that of the whole batch",
            site=norms[0] if norms else "",
            evidence=(
                Evidence(
                    name="relative difference of the gradients",
                    value=apart,
                    normal=f"<= {self.max_difference}",
                ),
            ),
            cause=cause,
            fix="use GroupNorm or LayerNorm in place of BatchNorm, or larger micro-batches"
            if norms
            else "use larger micro-batches, or gather what is compared over all micro-batches "
            "before the loss",
        )
