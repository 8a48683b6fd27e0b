"""TT404 loss-scale-collapse: the loss scale of fp16 keeps falling."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class LossScaleCollapse(RunRule):
    """The loss scale keeps falling, because gradients overflow again and again.

    Why: the scaler halves the scale at each overflow and leaves the step out. Below a scale of
        about 16, small gradients vanish in fp16; when every step overflows, nothing is trained at
        all. The values that overflow are usually NaN or infinite already before scaling.

    Measured: the scale against its highest value, and the share of steps left out.

    Silent on: the first overflows, by which a scaler finds its scale, and an overflow now and then.

    Fix: find what is not finite (logits, a division, a mask of -inf, a loss computed in fp16), use
        bfloat16, which needs no scale, or lower the learning rate if activations grow.

    Source: Micikevicius et al. 2018, arXiv:1710.03740; Zhang et al. 2022 (OPT), arXiv:2205.01068,
        section 2.5.
    """

    code: ClassVar = "TT404"
    name: ClassVar = "loss-scale-collapse"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.NAN
    rank: ClassVar = 70
    leads_to: ClassVar = ("TT303", "TT304", "TT408")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
scaler = torch.amp.GradScaler("cpu")
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(30):
    loss = (model(torch.randn(32, 8)) - 1).square().mean() * 3e37  # overflows when scaled
    optimizer.zero_grad()
    scaler.scale(trim.loss(loss)).backward()
    scaler.step(optimizer)
    scaler.update()
findings = trim.findings
"""

    lowest: float = 16.0
    """Scale below which small gradients vanish: fp16 has no numbers below 6e-8, and healthy runs
    keep scales of 2^10 to 2^20."""
    fall: float = 2.0**8
    """Highest scale over the present one."""
    window: int = 20
    """Newest steps over which overflows are counted."""
    share: float = 0.3
    """Share of these that were left out."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the scale has fallen low, or falls on and on."""
        scale = history.series("loss_scale").known()
        if len(scale.values) < self.window // 2:
            return
        highest, now = float(scale.values.max()), float(scale.values[-1])
        if highest <= 1 or now * self.fall > highest:
            return
        skipped = history.series("step.skipped").last(self.window).values
        share = float(np.mean(skipped == 1))
        if now > self.lowest and (share < self.share or now * 2.0**12 > highest):
            return
        falling = np.flatnonzero(np.diff(scale.values) < 0)
        yield self.finding(
            step=int(scale.steps[falling[0] + 1]) if len(falling) else int(scale.steps[0]),
            what=f"the loss scale fell from {highest:g} to {now:g}, and {share:.0%} of the last "
            f"{len(skipped)} steps were left out",
            evidence=(
                Evidence(name="loss scale", value=now, normal=f"> {self.lowest:g}"),
                Evidence(name="share of steps left out", value=share, normal="< 0.01"),
            ),
            cause="gradients in fp16 overflow again and again, whatever the scale: something is "
            "infinite or NaN before it is scaled, or activations grow",
            fix="find the first value that is not finite, use bfloat16 in place of fp16, and "
            "compute the loss in float32",
            remedy=Fix(action="set_precision", args={"dtype": "bfloat16"}),
        )
