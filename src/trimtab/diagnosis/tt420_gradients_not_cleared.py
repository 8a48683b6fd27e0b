"""TT420 gradients-not-cleared: every step still holds the gradients of all steps before."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Trace
from trimtab.findings import Evidence, Finding, Fix, register


@register
@dataclass(frozen=True, kw_only=True)
class GradientsNotCleared(LoopRule):
    """Gradients of earlier steps are still there when the next backward pass begins.

    Why: `backward()` adds to `.grad`. Without clearing, each step follows the sum of all gradients
        since the start: the run overshoots, oscillates and often diverges.

    Measured: whether the optimizer's parameters hold a gradient that is not zero whenever a
        backward pass between two of its steps begins.

    Silent on: gradient accumulation, which clears after each step; several models that take turns,
        where the gradients that one leaves with another are cleared before they are used.

    Fix: call `optimizer.zero_grad()` before each backward pass, or after each step.

    Source: Islam et al. 2019, arXiv:1906.01388; Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT420"
    name: ClassVar = "gradients-not-cleared"
    example: ClassVar = example_of(
        """
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()  # and no zero_grad() anywhere
""",
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if most steps begin with old gradients."""
        steps = [passes for w in windows(trace)[1:] if (passes := of(w, "backward"))]
        dirty = [passes for passes in steps if all(e.facts["dirty"] for e in passes)]
        if len(dirty) < 2 or 2 * len(dirty) < len(steps):
            return
        share = len(dirty) / len(steps)
        yield self.at(
            dirty[0][0],
            what=f"in {len(dirty)} of {len(steps)} steps backward() added to gradients that an "
            "earlier optimizer step had used already",
            evidence=(Evidence(name="share of steps that start with old gradients", value=share,
                               normal="0"),),
            cause="zero_grad() is missing, so each step follows the sum of all gradients so far",
            fix="call optimizer.zero_grad() before loss.backward()",
            remedy=Fix(action="clear_gradients"),
        )  # fmt: skip
