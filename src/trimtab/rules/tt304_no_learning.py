"""TT304 no-learning: the loss never left where it started."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Severity, Symptom, register
from trimtab.rules._history import History
from trimtab.rules._loss_curve import LossCurve, is_interleaved, loss_curve, spread
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import gradient_share, row_medians, weight_updates

_CAUSE = (
    "nothing that the loss depends on is being learnt: the weights hardly move, no gradient "
    "reaches them, or the labels do not go with the inputs"
)
_FIX = (
    "check that the learning rate is right, that a gradient reaches every layer, and that a single "
    "batch can be learnt by heart; if it can, check that labels and inputs belong together"
)


@register
@dataclass(frozen=True, kw_only=True)
class NoLearning(RunRule):
    """The loss is still where it started, after many steps.

    Why: the run costs as much as one that learns. Frozen weights, a dead or saturated layer,
        labels that do not go with the inputs, or a learning rate far from the right one all look
        like this.

    Measured: median of the newest losses against that of the first, in units of the noise. That
        alone is advice, because hard tasks have plateaus. It is a warning if something else says
        that nothing can be learnt: updates near zero or far too large, or an output that hardly
        differs between examples.

    Silent on: losses that are low because all was learnt before, losses around zero as in
        reinforcement learning, losses too noisy to tell, runs in which several optimizers take
        turns.

    Fix: check that the learning rate is right, that a gradient reaches every layer, and that a
        single batch can be learnt by heart. If it can, check that labels and inputs go together.

    Source: Karpathy 2019, "A Recipe for Training Neural Networks", step 2; Zhang et al. 2021,
        "AutoTrainer", ICSE.
    """

    code: ClassVar = "TT304"
    name: ClassVar = "no-learning"
    symptom: ClassVar = Symptom.NO_LEARNING
    rank: ClassVar = 80
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))
optimizer = torch.optim.SGD(model.parameters(), lr=1e-7)  # a million times too low
trim = trimtab.attach(model, optimizer, out=None, watch=5)
for step in range(160):
    x = torch.randn(32, 8)
    optimizer.zero_grad()
    trim.loss(nn.functional.cross_entropy(model(x), (x[:, 0] > 0).long())).backward()
    optimizer.step()
findings = trim.findings
"""

    patience: int = 150
    """Steps after which a loss has to have moved."""
    window: int = 25
    """Newest losses whose median is compared with that of the first."""
    share: float = 0.01
    """Part of the loss by which it has to have fallen."""
    noise: float = 2.0
    """Standard errors by which it has to have fallen."""
    resolution: float = 0.05
    """Part of the loss that the noise has to let one see; noisier losses are not judged."""
    healthy_gradient: float = 2e-3
    """Joint gradient norm over joint weight norm below which a model may have nothing to learn."""
    smallest_update: float = 1e-6
    """Typical update ratio of weights, in health about 1e-3, below which nothing can be learnt."""
    largest_update: float = 0.1
    """Typical update ratio above which what was learnt is thrown away at once."""
    variation: float = 1e-3
    """Relative difference of the output between examples below which it says nothing of them."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the loss has not moved for as long as the run lasts."""
        curve = loss_curve(history)
        if len(curve.values) < self.patience or is_interleaved(history):
            return
        first = float(np.median(curve.values[: self.window]))
        now = float(np.median(curve.values[-self.window :]))
        if self._has_moved(curve, first, now):
            return
        proof = self._proof(history)
        if not proof and not gradient_share(history, 32) > self.healthy_gradient:
            return  # as where all was learnt before
        yield self.finding(
            severity=Severity.WARNING if proof else Severity.ADVICE,
            step=int(curve.steps[0]),
            what=f"after {curve.steps[-1]} steps the loss is {now:.3g}, and at the start it was "
            f"{first:.3g}",
            evidence=(
                Evidence(
                    name="part of the loss that was learnt",
                    value=(first - now) / max(abs(first), 1e-12),
                    normal=f"> {self.share:g}",
                ),
                *proof,
            ),
            cause=_CAUSE,
            fix=_FIX,
            remedy=Fix(action="overfit_one_batch"),
        )

    def _has_moved(self, curve: LossCurve, first: float, now: float) -> bool:
        head, tail = curve.values[: self.window], curve.values[-self.window :]
        noise = max(spread(head), spread(tail))
        error = noise * (np.pi / self.window) ** 0.5  # of a difference of two medians
        least = max(self.share * abs(first), self.noise * error)
        if abs(first) < noise or least > self.resolution * abs(first):
            return True  # around zero, or too noisy to tell
        _, levels = curve.levels(self.window)
        best = min(now, float(levels.min()))
        fell = first - best > least or curve.start - best > max(0.1 * abs(curve.start), 4 * noise)
        return fell or now - first > max(0.1 * abs(first), least)

    def _proof(self, history: History) -> tuple[Evidence, ...]:
        """Return what else says that nothing can be learnt."""
        proof = []
        ratio = row_medians(weight_updates(history, 32).ratios[1:])
        typical = float(np.median(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else None
        tiny = typical is not None and typical < self.smallest_update
        if tiny and not gradient_share(history, 32) > self.healthy_gradient:
            typical = None  # nothing to learn
        if typical is not None and not self.smallest_update < typical < self.largest_update:
            normal = f"{self.smallest_update:g} to {self.largest_update:g}"
            proof.append(Evidence(name="typical update ratio", value=typical, normal=normal))
        varies = _output_variation(history)
        if varies is not None and varies < self.variation:
            proof.append(
                Evidence(name="variation of the output between examples", value=varies,
                         normal=f">= {self.variation:g}")
            )  # fmt: skip
        return tuple(proof)


def _output_variation(history: History) -> float | None:
    """Return how much the output of the last layer differs between examples; None if unknown."""
    table = history.table("modules", "activation.variation").last(8)
    last = next((m.name for m in reversed(history.setup.modules) if m.leaf), None)
    if last not in table.sites:
        return None
    values = table.values[:, table.sites.index(last)]
    values = values[np.isfinite(values)]
    return float(np.median(values)) if len(values) else None
