"""TT821 micro-batches-weighed-equally: a mean of means over micro-batches of unequal size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.audit._audit_rule import AccumulationRule, accumulation_example
from trimtab.audit._known import is_weighed_equally, weights_evidence
from trimtab.audit._split import SplitBatch
from trimtab.findings import Finding, Severity, register


@register
@dataclass(frozen=True, kw_only=True)
class MicroBatchesWeighedEqually(AccumulationRule):
    """Micro-batches of unequal size count alike: the mean of their means is not the batch's mean.

    Why: an example or token in a small micro-batch counts for more than one in a large one. In
        language models, where micro-batches hold very different numbers of tokens, the loss was
        visibly worse than without accumulation, in most training libraries until the end of 2024.

    Measured: the gradient that the optimizer gets is a weighted sum of the micro-batches' own; the
        weights are all alike, although those of the whole batch are not.

    Silent on: micro-batches that hold the same number of examples, and tokens.

    Fix: multiply each loss by its share of the examples or tokens of the window, or give their
        number to `trimtab.Stepper.backward(loss, weight=...)`.

    Source: Unsloth and Hugging Face 2024, "Bugs in LLM training: gradient accumulation fix".
    """

    code: ClassVar = "TT821"
    name: ClassVar = "micro-batches-weighed-equally"
    severity: ClassVar = Severity.WARNING
    example: ClassVar = accumulation_example("""
    optimizer.zero_grad()
    for x, y in micro_batches:
        (loss_fn(model(x), y) / len(micro_batches)).backward()
    optimizer.step()
""")

    def check(self, split: SplitBatch) -> Iterator[Finding]:
        """Yield one finding if unequal micro-batches count alike."""
        if not split.tells or split.is_right:
            return
        sizes = ", ".join(map(str, split.sizes))
        if is_weighed_equally(split):
            how = "count alike in the gradient"
            cause = "the mean of the micro-batches' mean losses is not the mean over the batch: "
            cause += "examples or tokens of small micro-batches count for more"
        elif split.is_by_examples:
            how = "count by their examples, of which the loss is not the mean"
            cause = "the loss is a mean over something else, such as tokens that are not masked, "
            cause += "and those of micro-batches with few of them count for more"
        else:
            return
        yield self.finding(
            what=f"{split.num} micro-batches of {sizes} examples {how}",
            evidence=(weights_evidence(split),),
            cause=cause,
            fix="multiply each loss by its share of the window's examples or tokens, or use "
            "trimtab.Stepper.backward(loss, weight=number of examples or tokens)",
        )
