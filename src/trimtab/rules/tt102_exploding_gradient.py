"""TT102 exploding-gradient: gradients out of all proportion to the weights they belong to."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import values_at


@register
@dataclass(frozen=True, kw_only=True)
class ExplodingGradient(RunRule):
    """Gradients are larger than any step could follow: a product of many layers, or a runaway.

    Why: the gradient is a product over layers, or time steps. Where the factors are above 1 it
        grows with depth, and a step along it throws the weights far away. Clipping only hides that:
        the direction is that of a few paths, and the curvature along it is as large.

    Measured: the joint norm before clipping, over that of the weights, beyond 10, and at the same
        time a change of the loss by more than 50 times itself for a change of the weights by
        themselves: that does not depend on the scale of the loss. Or the norm has grown a
        thousandfold since the first steps, to more than 10 times that of the weights. In two
        records or steps in a row, or in one after which the weights are thrown away or a value is
        not finite.

    Silent on: single spikes; a sum in place of a mean, or large targets, which scale loss and
        gradient alike.

    Fix: initialise with `trimtab.init.auto_`, add norms or scale residual branches by depth; clip
        by the global norm, and lower the learning rate if the norm grew during training.

    Source: Pascanu et al. 2013, arXiv:1211.5063.
    """

    code: ClassVar = "TT102"
    name: ClassVar = "exploding-gradient"
    severity: ClassVar = Severity.ERROR
    symptom: ClassVar = Symptom.EXPLODING_GRADIENT
    rank: ClassVar = 60
    leads_to: ClassVar = ("TT104", "TT107", "TT3", "TT4")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

layers = [layer for _ in range(8) for layer in (nn.Linear(32, 32), nn.ReLU())]
model = nn.Sequential(*layers, nn.Linear(32, 10))
for p in model.parameters():
    nn.init.normal_(p)  # a standard deviation of 1 in place of sqrt(2 / 32)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)
trim = trimtab.attach(model, optimizer, out=None, watch=2)
for step in range(10):
    x = torch.randn(32, 32)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), x.argmax(1) % 10)).backward()
    optimizer.step()
findings = trim.findings
"""

    max_ratio: float = 10.0
    """Joint gradient norm over weight norm. Sound networks have 1e-3 to 1 at the start, and with
    targets in the hundreds up to 200: only together with one of the next two."""
    max_pull: float = 50.0
    """Gradient norm times weight norm over the loss, or that of the start if it is larger: by how
    much of itself the loss changes for a change of the weights by themselves. It is about the
    number of layers where nothing explodes."""
    max_throw: float = 1.3
    """Weight norm over that of the record before, for a single such gradient to count."""
    max_growth: float = 1e3
    """Gradient norm over that of the first steps."""
    baseline: int = 10
    """First steps whose median is the norm of the start."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if gradients explode, from the start or by growing."""
        yield from self._from_the_start(history) or self._by_growing(history)

    def _from_the_start(self, history: History) -> list[Finding]:
        steps, gradient = history.at_record("gradient.norm")
        weight = values_at(history.series("weight.norm"), steps)
        losses = history.series("loss")
        started = losses.known().values[:3]
        loss = np.abs(values_at(losses, steps))
        loss = np.fmax(loss, np.abs(np.median(started))) if len(started) else loss
        with np.errstate(all="ignore"):
            ratio, pull = gradient / weight, gradient * weight / loss
            thrown = weight[1:] > self.max_throw * weight[:-1]
        hot = np.isfinite(gradient) & (ratio > self.max_ratio) & (pull > self.max_pull)
        # What a step along it came to, in the next record.
        lasts = hot[:-1] & (hot[1:] | ~np.isfinite(gradient[1:]) | thrown)
        if not lasts.any():
            return []
        at = int(np.flatnonzero(lasts)[0])
        return [
            self._found(
                history,
                step=int(steps[at]),
                what=f"the gradient norm is {gradient[at]:.3g}, {ratio[at]:.3g} times that of the "
                f"weights, and one step along it would change the loss by {pull[at]:.3g} times "
                "itself",
                ratio=float(ratio[at]),
                cause="the gradient is a product over the layers, and most of them multiply it by "
                "more than 1: the initial weights are too large, or residual branches add up "
                "without a norm",
                fix="initialise with trimtab.init.auto_(model), add norm layers or scale residual "
                "branches by depth, and clip gradients by their global norm "
                "(trimtab.attach(..., clip=1.0))",
                remedy=Fix(action="reinitialise", args={"scheme": "auto"}),
            )
        ]

    def _by_growing(self, history: History) -> list[Finding]:
        series = history.series("gradient.norm")
        begun = series.values[: 4 * self.baseline]
        begun = begun[np.isfinite(begun)][: self.baseline]
        weights = history.series("weight.norm").last(64).known().values
        newest = series.last(3)
        if len(begun) < 3 or not len(weights):
            return []
        limit = max(
            self.max_growth * float(np.median(begun[: max(3, len(begun) // 2)])),
            self.max_ratio * float(weights[-1]),
        )
        finite = np.isfinite(newest.values)
        large = finite & (newest.values > limit)
        if not large.any() or int((large | ~finite).sum()) < 2:
            return []
        at = int(np.flatnonzero(large)[0])
        norm, start = float(newest.values[at]), float(np.median(begun))
        return [
            self._found(
                history,
                step=int(newest.steps[at]),
                what=f"the gradient norm has grown from {start:.3g} to {norm:.3g}, "
                f"{norm / weights[-1]:.3g} times that of the weights",
                ratio=norm / float(weights[-1]),
                cause="each step makes the next gradient larger: the learning rate is too high for "
                "the curvature, and nothing clips the gradient",
                fix="divide the learning rate by 10, warm up, and clip gradients by their global "
                "norm (trimtab.attach(..., clip=1.0))",
                remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
            )
        ]

    def _found(
        self,
        history: History,
        *,
        step: int,
        what: str,
        ratio: float,
        cause: str,
        fix: str,
        remedy: Fix,
    ) -> Finding:
        normal = f"<= {self.max_ratio:g}"
        return self.finding(
            site=_largest(history, step),
            step=step,
            what=what,
            evidence=(Evidence(name="gradient norm over weight norm", value=ratio, normal=normal),),
            cause=cause,
            fix=fix,
            remedy=remedy,
        )


def _largest(history: History, step: int) -> str:
    """Return the parameter whose gradient is largest, in the last record until a step."""
    table = history.table("parameters", "gradient.norm")
    at = int(np.searchsorted(table.steps, step, side="right")) - 1
    if at < 0:
        return ""
    norms = np.where(np.isfinite(table.values[at]), table.values[at], -1.0)
    return table.sites[int(norms.argmax())] if norms.max() > 0 else ""
