"""TT426 backward-not-scaled: fp16 gradients without a loss scale."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from trimtab.diagnosis._loop_rule import LoopRule, example_of, of
from trimtab.diagnosis._trace import Trace
from trimtab.findings import Evidence, Finding, register

BY_HAND: Final = 4
"""Times the loss from which on a backward pass counts as scaled: auxiliary losses add less."""


@register
@dataclass(frozen=True, kw_only=True)
class BackwardNotScaled(LoopRule):
    """The forward pass runs in fp16, and the backward pass starts without a loss scale.

    Why: gradients below 6e-8 become zero in fp16. Small ones vanish silently, and the layers far
        from the loss stop learning first.

    Measured: the forward pass is called under autocast with float16, and `backward()` on a loss
        that no GradScaler has scaled.

    Silent on: bf16, which has the range of float32; a loss that is multiplied by hand.

    Fix: use `torch.amp.GradScaler`, or bf16.

    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2.
    """

    code: ClassVar = "TT426"
    name: ClassVar = "backward-not-scaled"
    example: ClassVar = example_of(
        """
    optimizer.zero_grad()
    with torch.autocast("cpu", torch.float16):
        loss = loss_fn(model(x), y)
    loss.backward()  # without a loss scale
    optimizer.step()
"""
    )

    def check(self, trace: Trace) -> Iterator[Finding]:
        """Yield one finding if fp16 losses go backwards as they are."""
        half = [e for e in of(trace.events, "forward") if e.facts["fp16"]]
        passes = of(trace.events, "backward")
        if len(half) < 2 or not passes or of(trace.events, "scale") or _scaled_by_hand(trace):
            return
        yield self.at(
            passes[0],
            what=f"{len(passes)} backward passes of an fp16 forward pass began without a loss "
            "scale",
            evidence=(Evidence(name="loss scale", value=1.0, normal=">= 1024"),),
            cause="fp16 gradients below 6e-8 become zero, so small ones are lost",
            fix="use torch.amp.GradScaler: scaler.scale(loss).backward(), scaler.step(optimizer), "
            "scaler.update(); or run autocast in bfloat16",
        )


def _scaled_by_hand(trace: Trace) -> bool:
    """Tell whether `backward()` starts from far more than the loss."""
    loss = 0.0
    for event in of(trace.events, "loss", "backward"):
        value = event.facts["value"] or 0.0
        if event.kind == "loss":
            loss = abs(value)
        elif 0 < BY_HAND * loss <= abs(value):
            return True
    return False
