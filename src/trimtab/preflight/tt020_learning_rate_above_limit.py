"""TT020: a learning rate that the first weights do not stand."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import torch

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.preflight._live_rule import LiveRule
from trimtab.preflight._subject import Subject
from trimtab.preflight._trials import run_trial

ADAPTIVE: Final = frozenset({"Adam", "AdamW", "NAdam", "Adamax", "StableAdamW", "RMSprop", "Lion"})
"""Classes that move each weight by about the learning rate a step, whatever its gradient."""


@register
@dataclass(frozen=True, kw_only=True)
class LearningRateAboveLimit(LiveRule):
    """The learning rate is too high for these weights: the first steps throw the loss up.

    Why: in a bowl of sharpness s gradient descent jumps from wall to wall, ever higher, once its
    learning rate exceeds 2 / s. Adam moves every weight by about its learning rate in each step,
    so one above the size of the weights replaces them rather than adjusting them.

    Measured: ten steps with the user's own optimizer and schedule on the one batch, taken back
    afterwards; the learning rate against the typical weight; and with `curvature=True` the largest
    eigenvalue of the (preconditioned) Hessian.

    Silent on: a rate somewhat above the limit, which training often survives by moving to where the
    loss is flatter.

    Fix: divide the learning rate by ten, or warm up.

    Source: Cohen et al. 2021, arXiv:2103.00065; Cohen et al. 2022, arXiv:2207.14484; Lewkowycz et
    al. 2020, arXiv:2003.02218 (up to twice the limit is survived).
    """

    code: ClassVar[str] = "TT020"
    name: ClassVar[str] = "learning-rate-above-limit"
    severity: ClassVar[Severity] = Severity.WARNING
    symptom: ClassVar[Symptom] = Symptom.DIVERGENCE
    leads_to: ClassVar[tuple[str, ...]] = ("TT1", "TT2", "TT3", "TT4")
    rank: ClassVar[int] = 42
    example: ClassVar[str] = """
import torch
import trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3))
optimizer = torch.optim.Adam(model.parameters(), lr=3.0)
x, y = torch.randn(32, 8), torch.randint(3, (32,))
findings = trimtab.preflight(model, optimizer, nn.CrossEntropyLoss(), (x, y)).findings
"""

    max_rise: float = 3.0
    """Factor by which the loss may rise within ten steps on one batch, where it should fall."""
    max_ratio: float = 2.0
    """Largest healthy ratio of the learning rate to its limit at the first weights. At 1.1 the loss
    of most networks rose before it fell, at 2 15 of 18 runs were lost
    (`benchmarks/results/curvature-*.json`)."""

    def check(self, subject: Subject) -> Iterator[Finding]:
        """Yield one finding, by the strongest evidence."""
        found = self._weights(subject) or self._trial(subject) or self._curvature(subject)
        if found is not None:
            what, evidence, cause = found
            rate = max((float(g["lr"]) for _, g, _ in subject.groups), default=0.0)
            yield self.finding(
                what=what,
                evidence=evidence,
                cause=cause,
                fix=f"lower the learning rate to {rate / 10:.2g} or less to begin with, or reach "
                "it by warmup, and clip gradients",
                remedy=Fix(action="scale_learning_rate", args={"factor": 0.1}),
            )

    def _weights(self, subject: Subject) -> "_Found | None":
        for index, group, optimizer in subject.groups:
            if not any(cls.__name__ in ADAPTIVE for cls in type(optimizer).__mro__):
                continue
            lr = float(group.get("initial_lr", group["lr"]))
            typical = _median_rms(group["params"])
            if typical is not None and lr > typical:
                return (
                    f"the learning rate of param group {index}, {lr:g}, is above the typical "
                    f"weight, {typical:.2g}",
                    (
                        Evidence(
                            name="lr / RMS of the weights", value=lr / typical, normal="<= 0.1"
                        ),
                    ),
                    f"The learning rate is too high: one step of {type(optimizer).__name__} moves "
                    "every weight by about that much, and so replaces the weights.",
                )
        return None

    def _trial(self, subject: Subject) -> "_Found | None":
        if subject.settings.overfit_s <= 0 or not subject.measured.has_gradient:
            return None
        trial = subject.once(run_trial)
        if trial is None or len(trial.losses) < 2:
            return None
        first, *others = trial.losses
        worst = max((v if math.isfinite(v) else math.inf) for v in others)
        rise = worst / first if first > 1e-6 else 0.0
        later = trial.losses[-1]
        if rise <= self.max_rise or (math.isfinite(later) and later < first):
            return None
        shown = f"{worst:.3g}" if math.isfinite(worst) else "NaN or infinity"
        return (
            f"within {len(others)} steps at a learning rate of {max(trial.rates):.2g} the loss on "
            f"one batch went from {first:.3g} to {shown}",
            (
                Evidence(
                    name="rise of the loss",
                    value=rise if math.isfinite(rise) else "without bound",
                    normal=f"<= {self.max_rise:g}",
                ),
            ),
            "The learning rate is too high for the curvature at these weights: each step "
            "overshoots further than the one before.",
        )

    def _curvature(self, subject: Subject) -> "_Found | None":
        curvature = subject.curvature
        if curvature is None or curvature.lr <= self.max_ratio * curvature.largest_stable_lr:
            return None
        ratio = curvature.lr / curvature.largest_stable_lr
        kind = "preconditioned sharpness" if curvature.preconditioned else "sharpness"
        steps = curvature.warmup_steps
        warmup = f"; {steps} steps of warmup would let the sharpness fall first" if steps else ""
        return (
            f"the first learning rate {curvature.lr:.2g} is {ratio:.2g} times the largest stable "
            f"one, {curvature.largest_stable_lr:.2g}, that a {kind} of "
            f"{curvature.sharpness:.3g} allows",
            (
                Evidence(
                    name="lr / largest stable lr", value=ratio, normal=f"<= {self.max_ratio:g}"
                ),
            ),
            "The learning rate is too high for the curvature at these weights, so the loss rises "
            f"until it is flatter, or for good{warmup}.",
        )


_Found = tuple[str, tuple[Evidence, ...], str]


@torch.no_grad()
def _median_rms(params: list[torch.Tensor]) -> float | None:
    """Return the median over matrices of their RMS; None without a matrix that is not zero."""
    sizes = [float(p.float().square().mean().sqrt()) for p in params if p.ndim >= 2 and p.numel()]
    sizes = sorted(size for size in sizes if size > 0)
    return sizes[len(sizes) // 2] if sizes else None
