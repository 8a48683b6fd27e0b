"""TT104 clipped-every-step: the clip threshold, not the learning rate, sets the step size."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule


@register
@dataclass(frozen=True, kw_only=True)
class ClippedEveryStep(RunRule):
    """Gradient clipping is active on nearly every step, and cuts far below the usual norm.

    Why: a threshold that is always below the norm makes every gradient the same length. With SGD it
        takes over from the learning rate, and learning slows down by its factor; with Adam, which
        does not feel the length, what is lost is the difference between a small gradient and a
        large one.

    Measured: the share of clipped steps and the median factor over the last hundred steps.

    Silent on: a threshold that bites lightly on most steps, such as 1.0 in front of norms of 2 to
        5. With Adam a median factor down to 1/50 is advice only: policy gradients are often clipped
        so.

    Fix: set the threshold to about the 90th percentile of the norm, so that it cuts outliers only.

    Source: Pascanu et al. 2013, arXiv:1211.5063, section 3.2: thresholds of half to ten times the
        average norm.
    """

    code: ClassVar = "TT104"
    name: ClassVar = "clipped-every-step"
    symptom: ClassVar = Symptom.SILENT_CONFIG_ERROR
    rank: ClassVar = 20
    leads_to: ClassVar = ("TT304", "TT305", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
trim = trimtab.attach(model, optimizer, clip=0.001, out=None, watch=2)
for step in range(80):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss((model(x) - x.sum(1, keepdim=True)).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    window: int = 100
    """Newest steps that are looked at."""
    min_steps: int = 50
    """Fewest of them."""
    max_share: float = 0.95
    """Largest healthy share of clipped steps, if the median factor is low as well."""
    min_factor: float = 0.1
    """Least healthy median factor: a tenth of the norm is left."""
    min_factor_adaptive: float = 0.02
    """The same for Adam and its kin, which do not feel the length of the gradient."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if nearly all of the last steps were clipped hard."""
        factors = history.series("gradient.clip_coefficient").last(self.window).known()
        if len(factors.values) < self.min_steps:
            return
        share = float((factors.values < 1).mean())
        median = float(np.median(factors.values))
        if share <= self.max_share or median >= self.min_factor:
            return
        groups = history.setup.groups
        adaptive = bool(groups) and all(g.adaptive for g in groups)
        mild = adaptive and median >= self.min_factor_adaptive
        norms = history.series("gradient.norm").last(self.window).known().values
        usual = float(np.percentile(norms, 90)) if len(norms) else float("nan")
        yield self.finding(
            severity=Severity.ADVICE if mild else Severity.WARNING,
            step=int(factors.steps[0]),
            what=f"{share:.0%} of the last {len(factors.values)} steps were clipped, to "
            f"{median:.2g} of their gradient norm",
            evidence=(
                Evidence(
                    name="share of clipped steps", value=share, normal=f"<= {self.max_share:g}"
                ),
                Evidence(name="median clip factor", value=median, normal=f">= {self.min_factor:g}"),
            ),
            cause="the clip threshold is far below the usual gradient norm, so it, and not the "
            "learning rate, sets the length of each step, and small gradients count like large "
            "ones",
            fix=f"raise the threshold of the gradient clipping to about {usual:.2g}, the 90th "
            "percentile of the norm, or find out why gradients are so large",
            remedy=Fix(action="clip_gradients", args={"max_norm": float(f"{usual:.2g}")}),
        )
