"""A sigmoid in front of a loss that applies one itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.findings import Finding, Severity, Symptom, register
from trimtab.lint._losses import culprit, loss_calls, unwrap
from trimtab.lint._names import LOGIT_BCES
from trimtab.lint._rule import SourceRule
from trimtab.lint._source import Source


@register
@dataclass(frozen=True, kw_only=True)
class SigmoidBeforeBceWithLogits(SourceRule):
    """The binary cross-entropy with logits is given probabilities.

    Why: `BCEWithLogitsLoss` applies the sigmoid itself. Applied twice, every prediction is between
    0.5 and 0.73: no example can be called negative, the loss stays above 0.31 for positives and
    0.69 for negatives, and learning stalls.
    Measured: the argument of `BCEWithLogitsLoss` or `F.binary_cross_entropy_with_logits`, followed
    back through names, reshapings, the file's functions and the `forward` of its networks, comes
    from a sigmoid.
    Silent on: outputs whose last operation the source does not show.
    Fix: give the loss the logits, and apply the sigmoid where predictions are read only.
    Source: torch.nn.BCEWithLogitsLoss; Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT708"
    name: ClassVar = "sigmoid-before-bce-with-logits"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    leads_to: ClassVar = ("TT1", "TT3")
    example: ClassVar = """\
import torch
from torch import nn

criterion = nn.BCEWithLogitsLoss()
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(torch.sigmoid(model(x)), y)
    loss.backward()
    optimizer.step()
"""
    good: ClassVar = """\
import torch
from torch import nn

criterion = nn.BCELoss()
for x, y in loader:
    optimizer.zero_grad()
    loss = criterion(torch.sigmoid(model(x)), y)
    loss.backward()
    optimizer.step()
"""

    def check(self, source: Source) -> Iterator[Finding]:
        """Yield one finding for each loss that is given probabilities."""
        told = False
        for loss in loss_calls(source, LOGIT_BCES):
            if loss.kinds != {"sigmoid"} or (told and not loss.is_local):
                continue
            told = told or not loss.is_local
            made = culprit(source, loss.prediction, "sigmoid")
            where = f"line {made.lineno}" if made is not None else "the model's last layer"
            yield self.at(
                source,
                loss.node,
                what=f"the loss {loss.name} is given the output of a sigmoid ({where}), and "
                "applies one itself",
                cause=(
                    "after two sigmoids every prediction lies between 0.5 and 0.73, so no example "
                    "can be called negative and learning stalls"
                ),
                fix=f"remove the sigmoid and give {loss.name} the logits",
                remedy=None if made is None else unwrap(source, made, loss.prediction),
            )
