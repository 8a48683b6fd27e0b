"""Logits given to a loss that wants log-probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._losses import loss_calls
from trimtab.lint._names import NLL_LOSSES
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source


@register
@dataclass(frozen=True, kw_only=True)
class MissingLogSoftmax(SourceRule):
    """The negative log-likelihood is given logits where it wants log-probabilities.

    Why: `NLLLoss` only picks the entry of the right class and changes its sign. On logits it has no
    lower end: the network makes all logits large for ever, and the loss runs to minus infinity.
    Measured: the argument of `NLLLoss` or `F.nll_loss`, followed back through names, reshapings,
    the file's functions and the `forward` of its networks, is the output of a linear or
    convolutional layer.
    Silent on: outputs whose last operation the source does not show.
    Fix: use `CrossEntropyLoss`, or apply `log_softmax` first.
    Source: torch.nn.NLLLoss: "the input is expected to contain log-probabilities".
    """

    code: ClassVar = "TT728"
    name: ClassVar = "missing-log-softmax"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.DIVERGENCE
    leads_to: ClassVar = ("TT3",)
    example: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 10))
criterion = nn.NLLLoss()
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 10), nn.LogSoftmax(dim=1))
criterion = nn.NLLLoss()
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loss that is given logits."""
        told = False
        for loss in loss_calls(source, NLL_LOSSES):
            if loss.kinds == {"logits"} and not told:
                told = True
                yield self.at(
                    source,
                    loss.node,
                    what=f"the loss {loss.name} is given logits, and wants log-probabilities",
                    cause=(
                        "without log_softmax the loss has no lower end: the logits grow for ever "
                        "and the loss runs to minus infinity"
                    ),
                    fix="use CrossEntropyLoss, or apply log_softmax first",
                )
