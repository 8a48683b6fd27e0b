"""TT303 nonfinite-loss: the loss is NaN or infinite."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History, Series
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import streak

USUALLY: Final = 0.9
"""Share of earlier steps whose loss has to be known before a missing one counts as NaN."""


@register
@dataclass(frozen=True, kw_only=True)
class NonfiniteLoss(RunRule):
    """The loss became NaN or infinite.

    Why: a gradient of such a loss is NaN as well, and one update with it makes every weight NaN for
        good. A step that was left out does no harm by itself, but its cause is still there.

    Measured: in every step. A loss that was not given reads as NaN too, so a NaN counts only where
        the loss was known before and the gradient of the step is not finite either.

    Silent on: losses that were never given or only now and then.

    Fix: look at the batch and at the logarithms, divisions, square roots and exponentials of the
        loss; use the versions that take logits (`cross_entropy` and
        `binary_cross_entropy_with_logits`), and add an epsilon inside of roots and logarithms.
        Lower the learning rate if the loss rose before.

    Source: Goodfellow et al. 2016, "Deep Learning", section 4.1.
    """

    code: ClassVar = "TT303"
    name: ClassVar = "nonfinite-loss"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NAN
    rank: ClassVar = 95
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, guard=None, out=None, watch=2)
for step in range(30):
    x = torch.rand(32, 8)
    loss = (model(x) - 1).square().mean()
    if step == 20:
        loss = loss + (0 * model(x)).log().mean()  # log(0)
    optimizer.zero_grad()
    trim.loss(loss).backward()
    optimizer.step()
findings = trim.findings
"""

    lasting: int = 5
    """Steps in a row without a finite loss that are an error although they were left out."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding with the first step whose loss was not finite."""
        loss, norm = history.series("loss"), history.series("gradient.norm")
        bad = _is_bad(loss, norm)
        if not bad.any():
            return
        first, lost = int(bad.argmax()), streak(bad)
        skipped = history.series("step.skipped").values[bad]
        spared = bool((skipped == 1).all()) and lost < self.lasting
        value = "infinite" if np.isinf(loss.values[first]) else "NaN"
        before = loss.values[:first][np.isfinite(loss.values[:first])]
        trend = f", after {before[-1]:.3g} in the step before" if len(before) else ""
        ending = "and the step was left out" if spared else "and has not been finite since"
        yield self.finding(
            severity=Severity.WARNING if spared else Severity.ERROR,
            step=int(loss.steps[first]),
            what=f"the loss was {value}{trend}"
            + (f", {ending}" if spared or lost > 1 else ""),
            evidence=(
                Evidence(name="steps with a loss that is not finite", value=int(bad.sum()),
                         normal="0"),
            ),
            cause="a value overflowed, or the loss took a logarithm, root or quotient where it is "
            "not defined, or the batch held NaN",
            fix="look at the batch of that step and at logarithms, roots and divisions in the "
            "loss; use losses that take logits, and lower the learning rate if the loss rose "
            "before",
            remedy=Fix(action="locate_nonfinite"),
        )  # fmt: skip


def _is_bad(loss: Series, norm: Series) -> NDArray[np.bool_]:
    """Tell in which steps the loss was not finite; not those in which it was just not given."""
    finite = np.isfinite(loss.values)
    broken = ~np.isfinite(norm.values) & ~finite
    first = int(broken.argmax()) if broken.any() else 0
    usually_known = first > 0 and finite[:first].mean() > USUALLY
    return np.isinf(loss.values) | (broken & usually_known)
