"""Logits given to a loss that wants probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._losses import loss_calls
from trimtab.lint._names import PROBABILITY_BCES
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source


@register
@dataclass(frozen=True, kw_only=True)
class MissingSigmoid(SourceRule):
    """The binary cross-entropy is given logits where it wants probabilities.

    Why: `BCELoss` takes logarithms of p and 1 - p. Logits lie outside 0 to 1, where it raises an
    error, and where they happen to lie inside, the loss is that of other predictions.
    Measured: the argument of `BCELoss` or `F.binary_cross_entropy`, followed back through names,
    reshapings, the file's functions and the `forward` of its networks, is the output of a
    linear or convolutional layer.
    Silent on: outputs whose last operation the source does not show.
    Fix: use `BCEWithLogitsLoss`, which is also safer in half precision, or apply a sigmoid.
    Source: torch.nn.BCEWithLogitsLoss.
    """

    code: ClassVar = "TT721"
    name: ClassVar = "missing-sigmoid"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    leads_to: ClassVar = ("TT3",)
    example: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
criterion = nn.BCELoss()
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch
from torch import nn

model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())
criterion = nn.BCELoss()
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loss that is given logits."""
        told = False
        for loss in loss_calls(source, PROBABILITY_BCES):
            if loss.kinds == {"logits"} and not told:
                told = True
                yield self.at(
                    source,
                    loss.node,
                    what=f"the loss {loss.name} is given logits, and wants probabilities in 0 to 1",
                    cause=(
                        "it takes the logarithm of the prediction: outside 0 to 1 that is an error "
                        "or NaN, and inside it is the loss of something else"
                    ),
                    fix="use BCEWithLogitsLoss, or apply torch.sigmoid first",
                )
