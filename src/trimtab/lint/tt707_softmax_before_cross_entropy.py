"""A softmax in front of a loss that applies one itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._losses import LossCall, culprit, loss_calls, unwrap
from trimtab.lint._names import CROSS_ENTROPIES, NLL_LOSSES
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source


@register
@dataclass(frozen=True, kw_only=True)
class SoftmaxBeforeCrossEntropy(SourceRule):
    """The cross-entropy loss is given probabilities where it wants logits.

    Why: `CrossEntropyLoss` applies log-softmax itself. A softmax before it squeezes the logits into
    0 to 1: the loss of a perfect prediction among 10 classes cannot fall below 1.46, and gradients
    are small everywhere, so training is slow and stops early.
    Measured: the argument of `CrossEntropyLoss` or `F.cross_entropy`, followed back through
    names, reshapings, the file's functions and the `forward` of its networks, comes from a softmax.
    `NLLLoss` of a softmax without a logarithm counts too. A log-softmax before the cross-entropy
    changes nothing, since the second one has no effect, and is named as advice.
    Silent on: outputs whose last operation the source does not show.
    Fix: give the loss the logits, and apply softmax where predictions are read only.
    Source: torch.nn.CrossEntropyLoss: "the input is expected to contain the unnormalized logits";
    Humbatova et al. 2020, arXiv:1910.11015 (wrong loss or activation).
    """

    code: ClassVar = "TT707"
    name: ClassVar = "softmax-before-cross-entropy"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    leads_to: ClassVar = ("TT1", "TT3")
    example: ClassVar = """\
import torch
import torch.nn.functional as F

for x, y in loader:
    optimizer.zero_grad()
    probabilities = F.softmax(model(x), dim=1)
    loss = F.cross_entropy(probabilities, y)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch
import torch.nn.functional as F

for x, y in loader:
    optimizer.zero_grad()
    logits = model(x)
    loss = F.cross_entropy(logits, y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loss that is given probabilities."""
        told = False
        for loss in loss_calls(source, CROSS_ENTROPIES | NLL_LOSSES):
            if not loss.kinds & {"softmax", "log_softmax"} or len(loss.kinds) > 1:
                continue
            finding = self._judge(source, loss)
            if finding is not None and (not told or loss.is_local):
                told = told or not loss.is_local
                yield finding

    def _judge(self, source: Source, loss: LossCall) -> Finding | None:
        if loss.name in NLL_LOSSES:
            return self._without_log(source, loss) if "softmax" in loss.kinds else None
        return (
            self._twice(source, loss) if "softmax" in loss.kinds else self._harmless(source, loss)
        )

    def _twice(self, source: Source, loss: LossCall) -> Finding:
        made = culprit(source, loss.prediction, "softmax")
        where = f"line {made.lineno}" if made is not None else "the model's last layer"
        return self.at(
            source,
            loss.node,
            what=f"the loss {loss.name} is given the output of a softmax ({where}), and applies "
            "one itself",
            cause=(
                "probabilities between 0 and 1 taken for logits make a nearly flat distribution: "
                "the loss cannot come near zero, gradients are small and learning is slow"
            ),
            fix=f"remove the softmax and give {loss.name} the logits",
            remedy=None if made is None else unwrap(source, made, loss.prediction),
        )

    def _harmless(self, source: Source, loss: LossCall) -> Finding:
        made = culprit(source, loss.prediction, "log_softmax")
        return self.at(
            source,
            loss.node,
            severity=Severity.ADVICE,
            what=f"the loss {loss.name} is given the output of a log_softmax, and applies one",
            cause="the second one changes nothing and costs time and memory",
            fix=f"give {loss.name} the logits, or use NLLLoss",
            remedy=None if made is None else unwrap(source, made, loss.prediction),
        )

    def _without_log(self, source: Source, loss: LossCall) -> Finding:
        return self.at(
            source,
            loss.node,
            what=f"the loss {loss.name} is given a softmax's output, and wants log-probabilities",
            cause=(
                "it returns minus the probability in place of minus its logarithm, so the loss is "
                "negative and wrong predictions are hardly punished"
            ),
            fix="use log_softmax in place of softmax, or CrossEntropyLoss on the logits",
        )
