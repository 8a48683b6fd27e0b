"""TT403 stale-second-moments: Adam divides by second moments that are out of date."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import is_interleaved, loss_curve, spread
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import is_matrix, row_medians


@register
@dataclass(frozen=True, kw_only=True)
class StaleSecondMoments(RunRule):
    """Adam's second moments are out of date: gradients grew faster than they follow.

    Why: Adam divides by the root of a running mean of squared gradients. When gradients grow
        quickly, that mean lags, updates are several times as large as the learning rate means them
        to be, and the loss spikes.

    Measured: sqrt(mean(g^2 / v)) of at least a quarter of the weights, 1 in health, above 2.3, and
        the loss above its noise in the steps that follow. The ratio alone says little: most steps
        with a high one do no harm.

    Silent on: sparse gradients, the first 50 steps, and high ratios without consequences.

    Fix: lower beta2 to 0.95, clip the update by its RMS (`trimtab.optim.StableAdamW`), or clip
        gradients.

    Source: Wortsman et al. 2023, arXiv:2304.13013, section 3.4; Shazeer and Stern 2018,
        arXiv:1804.04235, section 5.
    """

    code: ClassVar = "TT403"
    name: ClassVar = "stale-second-moments"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 44
    leads_to: ClassVar = ("TT301", "TT302", "TT303", "TT406")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.Adam(model.parameters(), lr=0.03, betas=(0.9, 0.999))
trim = trimtab.attach(model, optimizer, clip=None, guard=None, out=None, watch=2)
for step in range(140):
    x = torch.randn(32, 8) * (1 if step < 120 else 30)  # gradients grow at once
    optimizer.zero_grad()
    trim.loss((model(x) - x[:, :1] - 1).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    largest: float = 2.3
    """RMS of g / sqrt(v) above which second moments are stale (Wortsman et al. 2023)."""
    share: float = 0.25
    """Share of the weights that have to be above it."""
    first_step: int = 50
    """Steps that are not judged: moments are young."""
    delay: int = 8
    """Steps within which the loss follows (Wortsman et al. 2023: 1 to 8)."""
    z: float = 8.0
    """Robust deviations above its median that the loss has to reach."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if stale moments were followed by a jump of the loss."""
        table = history.table("parameters", "adam.rms_ratio").last(16)
        table = table.only(is_matrix(history, table.sites))
        known = np.isfinite(table.values)
        high = (table.values > self.largest) & known
        shares = high.sum(axis=1) / np.maximum(known.sum(axis=1), 1)
        stale = np.flatnonzero((shares >= self.share) & (table.steps > self.first_step))
        curve = loss_curve(history)
        if not len(stale) or is_interleaved(history):
            return
        for at in stale:
            step = int(table.steps[at])
            split = int(np.searchsorted(curve.steps, step - 1))
            before, after = curve.values[max(0, split - 40) : split], curve.values[split:]
            after = after[: self.delay + 2]
            if len(before) < 20 or len(after) < 3:
                continue
            level, noise = float(np.median(before)), spread(before)
            progress, highest = curve.start - level, float(before.max()) - level
            limit = level + max(self.z * noise, 2 * highest, 0.2 * progress)
            if progress < 5 * noise or int((after > limit).sum()) < 3:
                continue
            ratio = float(row_medians(table.values[at : at + 1])[0])
            yield self.finding(
                step=step,
                what=f"{int(high[at].sum())} of {int(known[at].sum())} weights got gradients far "
                f"above what Adam's second moments remember, and the loss rose from {level:.3g} "
                f"to {after.max():.3g}",
                evidence=(
                    Evidence(name="median of rms(g / sqrt(v))", value=ratio,
                             normal=f"about 1, <= {self.largest:g}"),
                ),
                cause="gradients grew faster than beta2 lets the second moments follow, so that "
                "updates were several times too large",
                fix="lower beta2 to 0.95, use StableAdamW, which clips such updates, or clip "
                "gradients",
                remedy=Fix(action="set_beta2", args={"beta2": 0.95}),
            )  # fmt: skip
            return
