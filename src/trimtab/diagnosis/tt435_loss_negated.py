"""TT435 loss-negated: the backward pass starts from minus the loss."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class LossNegated(LoopRule):
    """The backward pass starts from minus the loss, so the optimizer climbs.

    Why: optimizers minimise. With the sign turned, each step makes the loss larger, without a
        bound.

    Measured: in the loop body's own calls: the value that `backward()` starts from against the loss
        function's.

    Silent on: objectives that are maximised on purpose and computed by the loop itself; a loss that
        one part of a step minimises and another maximises, as in a GAN.

    Fix: call `backward()` on the loss as it is.

    Source: Humbatova et al. 2020, arXiv:1910.11015.
    """

    code: ClassVar = "TT435"
    name: ClassVar = "loss-negated"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.DIVERGENCE
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    (-loss).backward()
    optimizer.step()
"""
    )

    tolerance: float = 0.01
    """Relative difference up to which one value counts as minus the other."""

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if most backward passes start from minus the loss."""
        passes = [e for w in windows(trace) for e in self._of_one_sign(w, trace)]
        turned = [e for e in passes if self._is_turned(e, trace)]
        if len(turned) < 4 or 2 * len(turned) < len(passes):
            return
        yield self.at(
            turned[0],
            what=f"{len(turned)} of {len(passes)} backward passes started from minus the loss",
            evidence=(Evidence(name="loss given to backward() over the loss", value=-1.0,
                               normal="> 0"),),
            cause="the sign of the loss is wrong, so the optimizer maximises it (gradient ascent)",
            fix="call loss.backward() without the minus sign",
            remedy=Fix(action="negate_loss"),
        )  # fmt: skip

    def _of_one_sign(self, window: Sequence[Event], trace: Trace) -> Sequence[Event]:
        passes = of(window, "backward")
        signs = {self._is_turned(e, trace) for e in passes}
        return passes if len(signs) == 1 else []

    def _is_turned(self, event: Event, trace: Trace) -> bool:
        before = trace.events[: trace.events.index(event)]
        losses, scales = of(before, "loss"), of(before, "scale")
        loss, value = (losses[-1].facts["value"] if losses else None), event.facts["value"]
        if not loss or value is None:
            return False
        scale = scales[-1].facts["scale"] if scales else 1.0
        return bool(abs(value / scale / loss + 1) <= self.tolerance)
