"""TT510 input-shift: mean or scale of the input changed in the middle of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from trimtab.findings import Evidence, Finding, Fix, Symptom, register
from trimtab.rules._history import Floats, History
from trimtab.rules._loss_curve import spread
from trimtab.rules._rule import RunRule
from trimtab.rules._updates import values_at


@register
@dataclass(frozen=True, kw_only=True)
class InputShift(RunRule):
    """Mean or scale of the input jumped in the middle of the run, and stays there.

    Why: the first layer and all running statistics fit the old input. The loss jumps, and what is
        learnt from here on belongs to other data: another shard with other preprocessing, a
        normalisation that was lost, a unit that changed.

    Measured: mean and standard deviation of the input in the newest records against median and
        robust spread of those before. The jump has to be large in units of the input itself too.

    Silent on: batches that differ by chance, slow change, single batches, inputs of whole numbers.

    Fix: apply the same preprocessing to all data, and shuffle sources together.

    Source: Breck et al. 2019, "Data Validation for Machine Learning", MLSys; Humbatova et al. 2020,
        "Taxonomy of Real Faults in Deep Learning Systems", ICSE.
    """

    code: ClassVar = "TT510"
    name: ClassVar = "input-shift"
    symptom: ClassVar = Symptom.LOSS_SPIKE
    rank: ClassVar = 10
    leads_to: ClassVar = ("TT10", "TT2", "TT301", "TT302", "TT303", "TT306", "TT401", "TT403",
                          "TT406")  # fmt: skip
    example: ClassVar = """\
import torch, trimtab
from torch import nn

model = nn.Linear(8, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
trim = trimtab.attach(model, optimizer, guard=None, out=None, watch=2)
for step in range(60):
    x = torch.randn(32, 8) if step < 40 else 5 * torch.randn(32, 8) + 20  # not normalised
    optimizer.zero_grad()
    trim.loss((model(x) - 1).square().mean()).backward()
    optimizer.step()
findings = trim.findings
"""

    newest: int = 5
    """Newest records, all of which have to be away."""
    steps: int = 20
    """Steps that these have to span at least: a few odd batches are another fault."""
    baseline: int = 10
    """Records before them that are needed."""
    z: float = 8.0
    """Robust deviations between batches that the jump has to exceed."""
    mean_shift: float = 1.0
    """Jump of the mean, in standard deviations of the input before."""
    scale_shift: float = 2.0
    """Factor by which the standard deviation has to have changed, up or down."""

    def check(self, history: History) -> Iterator[Finding]:
        """Yield one finding if the newest inputs differ from those before."""
        scale = history.series("input.std").known().last(128)
        mean = values_at(history.series("input.mean"), scale.steps)
        recent = int((scale.steps > history.step - self.steps).sum())
        newest = max(self.newest, recent)
        if len(scale.values) < self.baseline + newest:
            return
        width = float(np.median(scale.values[:-newest]))
        if width <= 0:
            return
        factor = max(self.scale_shift, 1.0 + 1e-9)
        logs = np.log2(np.maximum(scale.values, 1e-30))
        moved = self._jump(mean, newest, self.mean_shift * width)
        scaled = self._jump(logs, newest, float(np.log2(factor)))
        at = [a for a in (moved, scaled) if a is not None]
        if not at:
            return
        first = min(at)
        old = float(np.median(mean[:first])), float(np.median(scale.values[:first]))
        new = float(np.median(mean[first:])), float(np.median(scale.values[first:]))
        yield self.finding(
            step=int(scale.steps[first]),
            what=f"the input went from mean {old[0]:.3g} and deviation {old[1]:.3g} to "
            f"{new[0]:.3g} and {new[1]:.3g}, and stays there",
            evidence=(
                Evidence(name="jump of the mean in standard deviations",
                         value=abs(new[0] - old[0]) / width, normal=f"<= {self.mean_shift:g}"),
                Evidence(name="factor of the standard deviation", value=new[1] / width,
                         normal=f"{1 / factor:g} to {factor:g}"),
            ),
            cause="the data changed in the middle of the run: another source, another "
            "preprocessing, or a normalisation that was lost",
            fix="apply the same normalisation to all data, and shuffle sources together",
            remedy=Fix(action="normalise_inputs"),
        )  # fmt: skip

    def _jump(self, values: Floats, newest: int, least: float) -> int | None:
        """Return the first record after a jump that lasts; None if there is none."""
        before = values[:-newest]
        middle = float(np.median(before))
        if not (np.abs(values[-newest:] - middle) > least).all():
            return None
        limit = max(least, self.z * spread(before))
        away = np.abs(values - middle) > limit
        if not away[-newest:].all():
            return None
        first = len(values) - int(np.argmin(away[::-1])) if not away.all() else 0
        sudden = first > 0 and abs(values[first] - values[first - 1]) > 0.5 * limit
        return first if sudden else None
