"""TT422 no-step: the optimizer is never called."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of
from trimtab.diagnosis._trace import Trace
from trimtab.findings import Evidence, Finding, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class NoStep(LoopRule):
    """The loop body never calls `optimizer.step()`.

    Why: gradients are computed, and nothing follows them.

    Measured: hooks on the optimizer saw no step in any call, and no parameter has changed.

    Silent on: accumulation, as long as a step comes at some time; steps that a GradScaler leaves
        out; optimizers whose steps have other names, such as `first_step()`.

    Fix: call `optimizer.step()` after `backward()`, on the optimizer that was built for this model.

    Source: Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT422"
    name: ClassVar = "no-step"
    symptom: ClassVar = Symptom.NO_LEARNING
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
""",
        steps=40,
    )

    min_calls: int = 32
    """Calls without a step after which none is expected any more."""

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if no step was seen."""
        stepped = trace.num_steps or trace.moved or of(trace.events, "step", "attempt")
        if trace.calls < self.min_calls or stepped:
            return
        yield self.finding(
            what=f"{trace.calls} calls of the loop body made no step of the optimizer",
            site="train_step",
            evidence=(Evidence(name="optimizer steps", value=0.0, normal=">= 1"),),
            cause="optimizer.step() is not called, or it is that of another optimizer",
            fix="call optimizer.step() after loss.backward()",
        )
