"""TT432 clipped-to-nothing: the clipping threshold is far below any gradient."""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of
from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register


@register
@dataclass(frozen=True, kw_only=True)
class ClippedToNothing(LoopRule):
    """Clipping shrinks every gradient a hundredfold or more.

    Why: the threshold, not the learning rate, then sets the length of each step. With SGD the run
        crawls; clipping by value keeps little more than the signs.

    Measured: in the loop body's own calls: joint norm of the gradients before and after clipping.

    Silent on: thresholds that are active at every step but shrink gradients less; runs that learn;
        gradients that still carry a loss scale (TT413).

    Fix: raise the threshold to about the median of the gradient norm, often 1.0.

    Source: Pascanu et al. 2013, arXiv:1211.5063, section 3.2; Zhang et al. 2020, arXiv:1905.11881.
    """

    code: ClassVar = "TT432"
    name: ClassVar = "clipped-to-nothing"
    severity: ClassVar = Severity.WARNING
    symptom: ClassVar = Symptom.SLOW_CONVERGENCE
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-5)
    optimizer.step()
"""
    )

    max_coefficient: float = 0.01
    """Median factor of the clipping below which it counts."""
    min_clips: int = 4
    """Clippings that have to be seen."""

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if gradients are clipped to next to nothing."""
        clips = [e for e in _unscaled(trace) if e.facts["before"]]
        factors = [e.facts["after"] / e.facts["before"] for e in clips if e.facts["after"]]
        if len(factors) < self.min_clips or not statistics.median(factors) < self.max_coefficient:
            return
        norm = statistics.median(e.facts["before"] for e in clips)
        yield self.at(
            clips[0],
            what=f"clipping at {clips[0].facts['threshold']:g} shrank gradients of norm {norm:.3g} "
            f"by a factor of {1 / statistics.median(factors):.3g}",
            evidence=(
                Evidence(
                    name="median clip coefficient",
                    value=statistics.median(factors),
                    normal=f">= {self.max_coefficient:g}",
                ),
            ),
            cause="the clipping threshold is far below any gradient, so every step is clipped to "
            "next to nothing",
            fix="raise the threshold to about the median gradient norm, such as 1.0",
            remedy=Fix(action="clip_gradients", args={"max_norm": norm}),
        )


def _unscaled(trace: Trace) -> Sequence[Event]:
    """Return the clippings of gradients that carry no loss scale."""
    found, scaled = [], False
    for event in of(trace.events, "scale", "unscale", "attempt", "step", "clip"):
        if event.kind == "scale":
            scaled = event.facts["scale"] != 1
        elif event.kind != "clip":
            scaled = False
        elif not scaled:
            found.append(event)
    return found
