"""TT413 scaled-gradients-clipped: the threshold meets gradients that still carry the loss scale."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of, windows
from trimtab.diagnosis._trace import Event, Trace
from trimtab.findings import Evidence, Finding, register


@register
@dataclass(frozen=True, kw_only=True)
class ScaledGradientsClipped(LoopRule):
    """Gradients are clipped while they are still multiplied by the loss scale.

    Why: with a loss scale of 65536 a threshold of 1 clips every step to a norm of 1/65536, so the
        run crawls, and nothing says so. The scale changes, and the effective threshold with it.

    Measured: in the loop body's own calls: `clip_grad_norm_` after `scaler.scale(loss).backward()`
        and before `scaler.unscale_(optimizer)`.

    Silent on: clipping after `unscale_`, or with a loss scale of 1.

    Fix: call `scaler.unscale_(optimizer)` before clipping.

    Source: PyTorch, "Automatic Mixed Precision examples", section "Gradient clipping"; Micikevicius
        et al. 2018, arXiv:1710.03740, section 3.2.
    """

    code: ClassVar = "TT413"
    name: ClassVar = "scaled-gradients-clipped"
    leads_to: ClassVar = (*LoopRule.leads_to, "TT432")
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    loss = loss_fn(model(x), y)
    scaler.scale(loss).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # still scaled
    scaler.step(optimizer)
    scaler.update()
""",
        before='scaler = torch.amp.GradScaler("cpu")',
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if it happens in every second step or more."""
        seen = []
        steps = windows(trace)
        for window in steps:
            scales = of(window, "scale")
            clips = of(_from_first(window, scales), "clip")
            unscaled = of(window, "unscale")
            if not (scales and clips) or scales[-1].facts["scale"] == 1:
                continue
            first = unscaled[0] if unscaled else window[-1]
            if window.index(clips[0]) < window.index(first):
                seen.append((clips[0], scales[-1].facts["scale"]))
        if seen and 2 * len(seen) >= len(steps):
            clip, scale = seen[0]
            threshold = clip.facts["threshold"]
            yield self.at(
                clip,
                what=f"gradients were clipped to {threshold:g} before unscaling, in {len(seen)} of "
                f"{len(steps)} watched steps",
                evidence=(Evidence(name="loss scale while clipping", value=scale, normal="1"),),
                cause=f"they still carried the loss scale of {scale:g}, so the true threshold was "
                f"{threshold / scale:.2g}",
                fix="call scaler.unscale_(optimizer) right before clip_grad_norm_",
            )


def _from_first(window: Sequence[Event], scales: Sequence[Event]) -> Sequence[Event]:
    """Return what comes after the first scaling; before it are leftovers of an earlier step."""
    return window[window.index(scales[0]) :] if scales else []
