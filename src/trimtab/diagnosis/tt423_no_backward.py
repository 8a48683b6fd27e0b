"""TT423 no-backward: the optimizer steps without a new gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Trace
from trimtab.findings import Evidence, Finding, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class NoBackward(LoopRule):
    """The optimizer steps although no gradient was computed since its last step.

    Why: without a backward pass there is no gradient; the step does nothing, or follows an old one.

    Measured: in the loop body's own calls: no `backward()` before `optimizer.step()`, and no
        gradient that came another way.

    Silent on: gradients set by hand or by `torch.autograd.grad`.

    Fix: call `loss.backward()` before `optimizer.step()`.

    Source: Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT423"
    name: ClassVar = "no-backward"
    symptom: ClassVar = Symptom.NO_LEARNING
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    optimizer.step()  # no backward()
""",
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if most steps come without a backward pass."""
        steps = windows(trace)
        idle = [w[-1] for w in steps if not of(w, "backward") and not w[-1].facts["has_gradients"]]
        if len(idle) < 2 or 2 * len(idle) < len(steps):
            return
        yield self.at(
            idle[0],
            what=f"{len(idle)} of {len(steps)} optimizer steps came without a backward pass",
            evidence=(Evidence(name="steps without a gradient", value=float(len(idle)),
                               normal="0"),),
            cause="loss.backward() is missing, so there is no gradient to follow",
            fix="call loss.backward() before optimizer.step()",
        )  # fmt: skip
