"""TT429 clipped-after-step: clipping comes when the gradients have been used."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Trace
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class ClippedAfterStep(LoopRule):
    """Gradients are clipped after the optimizer has used them, or before they are computed.

    Why: the clipping changes nothing, and the run is as unprotected as without it.

    Measured: in the loop body's own calls: clipping with no `backward()` between it and the step
        before it.

    Fix: clip between `backward()` and `optimizer.step()`.

    Source: Pascanu et al. 2013, arXiv:1211.5063, Algorithm 1.
    """

    code: ClassVar = "TT429"
    name: ClassVar = "clipped-after-step"
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    optimizer.step()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # too late
"""
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if clipping never has an effect."""
        steps = windows(trace)[1:]
        early = []
        for window in steps:
            clips, passes = of(window, "clip"), of(window, "backward")
            if clips and passes and window.index(clips[-1]) < window.index(passes[0]):
                early.append(clips[-1])
        if len(early) < 2 or 2 * len(early) < len(steps):
            return
        yield self.at(
            early[0],
            what=f"{len(early)} of {len(steps)} clippings came after the step that they were for",
            evidence=(Evidence(name="clippings before a step", value=0.0, normal=str(len(steps))),),
            cause="gradients are clipped when the optimizer has used them already",
            fix="move clip_grad_norm_ between loss.backward() and optimizer.step()",
        )
