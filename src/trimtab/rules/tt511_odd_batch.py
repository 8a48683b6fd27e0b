"""TT511 odd-batch: a batch far from all others, and a loss or gradient that jumps with it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import Floats, History, Series
from trimtab.rules._loss_curve import spread
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import values_at


@register
@dataclass(frozen=True, kw_only=True)
class OddBatch(RunRule):
    """A batch was far from all others, and loss or gradient jumped with it.

    Why: a few corrupt examples (a broken file, a unit mixed up, garbage in a shard) are enough for
        a step in a wrong direction, and for a spike.

    Measured: mean, standard deviation and largest magnitude of the input in a record against the
        records before, where the loss or the gradient of the same step stands out as well.

    Silent on: odd batches that do no harm, and input that changes for good (another rule's).

    Fix: look at the batch of that step, drop examples that are out of range, and clip gradients so
        that one batch cannot do much.

    Source: Chowdhery et al. 2022, arXiv:2204.02311, section 5.1; Breck et al. 2019, "Data
        Validation for Machine Learning", MLSys.
    """

    code: ClassVar = "TT511"
    name: ClassVar = "odd-batch"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 11
    leads_to: ClassVar = ("TT102", "TT301", "TT302", "TT303", "TT401", "TT403", "TT406")
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, out=None, watch=1)
for step in range(60):
    x = torch.randn(32, 8) * (30 if step == 40 else 1)
    optimizer.zero_grad()
    trim.loss((model(x) - 1).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    baseline: int = 12
    """Records before that are needed."""
    newest: int = 12
    """Newest records that are looked at."""
    z: float = 10.0
    """Robust deviations between batches that one has to exceed."""
    shift: float = 1.0
    """Distance of the mean in standard deviations of the input, likewise."""
    factor: float = 2.0
    """Standard deviation, or largest magnitude, over the usual one, likewise."""
    harm: float = 4.0
    """Loss or gradient norm over its median of the steps before."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding for the first odd batch among the newest records that did harm."""
        scale = history.series("input.std").known().last(64)
        count = len(scale.values)
        start = max(self.baseline, count - self.newest)
        if count <= start:
            return
        width = float(np.median(scale.values[:start]))
        if width <= 0:
            return
        odd = self._odd(history, scale, start, width)
        for at in np.flatnonzero(odd) + start:
            step = int(scale.steps[at])
            harm = self._harm(history, step)
            if harm is None or odd[-2:].any():
                continue  # did nothing, or may be the beginning of what lasts
            mean = values_at(history.series("input.mean"), scale.steps)
            yield self.finding(
                step=step,
                what=f"the input of this step had mean {mean[at]:.3g} and deviation "
                f"{scale.values[at]:.3g}, those before {np.median(mean[:start]):.3g} and "
                f"{width:.3g}; the {harm[0]} was {harm[1]:.3g} times the "
                "usual one",
                evidence=(
                    Evidence(name="deviation of the input over the usual one",
                             value=float(scale.values[at] / width),
                             normal=f"{1 / self.factor:g} to {self.factor:g}"),
                    Evidence(name=f"{harm[0]} over its median", value=harm[1],
                             normal=f"<= {self.harm:g}"),
                ),
                cause="a corrupt batch, unlike all others, made a step in a wrong direction",
                fix="look at the data of that step and drop what is out of range; clip gradients "
                "so that one batch cannot do much",
                remedy=Fix(action="skip_batch", args={"step": step}),
            )  # fmt: skip
            return

    def _odd(self, history: History, scale: Series, start: int, width: float) -> NDArray[np.bool_]:
        """Tell which records from `start` on are far from those before."""
        mean = values_at(history.series("input.mean"), scale.steps)
        largest = np.nan_to_num(values_at(history.series("input.max"), scale.steps))
        least = float(np.log2(self.factor))
        logs = [np.log2(np.maximum(v, 1e-30)) for v in (scale.values, largest)]
        odd = _away(mean, start, max(self.shift * width, 1e-30), self.z)
        for values in logs:
            odd |= _away(values, start, least, self.z)
        return odd

    def _harm(self, history: History, step: int) -> tuple[str, float] | None:
        """Return what stood out in a step, and how far; None if nothing did."""
        for signal, name in (("loss", "loss"), ("gradient.norm", "gradient norm")):
            series = history.series(signal)
            at = int(np.searchsorted(series.steps, step))
            before = series.values[max(0, at - 64) : at]
            before = before[np.isfinite(before)]
            usual = float(np.median(before)) if len(before) else 0.0
            if usual > 0 and series.values[at] > self.harm * usual:
                return name, float(series.values[at] / usual)
        return None


def _away(values: Floats, start: int, least: float, z: float) -> NDArray[np.bool_]:
    """Tell which values from `start` on are far from the median of those before."""
    distance = np.abs(values[start:] - np.median(values[:start]))
    if not (distance > least).any():
        return np.zeros(len(distance), dtype=bool)
    return distance > max(least, z * spread(values[:start]))
