"""What is measured of the parameters of one optimizer around its steps."""

import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from trimtab.optim import GradNorms
from trimtab.signals._gauges import PARAMETER_COLUMNS
from trimtab.signals._probe import Probe

UNUSUAL_NORM: Final = 2.0
"""Ratio of a gradient norm to the median of the last ones that starts a burst. In 31 of 31 runs
with a natural spike the norm doubled beforehand, and in 5 % of calm steps."""
NORM_WINDOW: Final = 32

NOISE_DECAY: Final = 0.9
"""Of the running means behind the noise scale, for each record."""

PARAMETER_NAMES: Final = ("gradient.norm", "gradient.rms", *PARAMETER_COLUMNS)
WEIGHT_NORM: Final = PARAMETER_NAMES.index("weight.norm")
_ADAM_RATIO: Final = PARAMETER_NAMES.index("adam.rms_ratio")
_UNCHANGED: Final = PARAMETER_NAMES.index("update.unchanged_fraction")


class Parameters:
    """The parameters of one optimizer, as they are measured around its steps.

    Args:
        params: Those that are measured, in the order of the rows.
        names: A name for each parameter, by identity.
        size: Elements of a sample.
        device: Where the samples are kept.
    """

    def __init__(
        self,
        params: Sequence[nn.Parameter],
        names: Mapping[int, str],
        *,
        size: int,
        device: torch.device,
    ) -> None:
        self.steps = 0
        """Steps of this optimizer so far."""
        self.probe: Final = Probe(params, size=size, device=device)
        self.sites = [names[id(p)] for p in params]
        self._rows = {id(p): i for i, p in enumerate(params)}
        self._recent_norms: deque[float] = deque(maxlen=NORM_WINDOW)
        self._noise = (0.0, 0.0)  # |g|^2, g.g'

    def grow(self, params: Sequence[nn.Parameter], names: Mapping[int, str]) -> None:
        """Measure these too."""
        self._rows |= {id(p): len(self._rows) + i for i, p in enumerate(params)}
        self.sites = self.sites + [names[id(p)] for p in params]
        self.probe.grow(params)

    def measure(
        self,
        optimizer: torch.optim.Optimizer,
        params: Sequence[nn.Parameter],
        norms: GradNorms,
        divisor: Tensor | float,
        coefficient: Tensor | float,
        skipped: Tensor | float = 0.0,
    ) -> Tensor:
        """Measure the step since `probe.before()`.

        Args:
            optimizer: That made it.
            params: Its parameters with a gradient.
            norms: Of their gradients, before clipping and after unscaling.
            divisor: What the gradients were multiplied by when they were sampled.
            coefficient: What they were clipped by afterwards.
            skipped: Not 0 if the step was left out.

        Returns:
            `(num_params, len(PARAMETER_NAMES))`.
        """
        probe, device = self.probe, self.probe.device
        states = [optimizer.state.get(p, {}) for p in probe.params]
        probe.after(states)
        corrections = _bias_corrections(optimizer, probe.params, states, device)
        sampled = probe.measure(divisor, corrections)
        exact = torch.full((len(probe.params),), torch.nan, device=device)
        seen = [(self._rows[id(p)], i) for i, p in enumerate(params) if id(p) in self._rows]
        if seen:
            rows, places = torch.tensor(seen, device="cpu").to(device, non_blocking=True).T
            exact[rows] = norms.each.to(device, torch.float32)[places]
        rms = exact / probe.sizes.sqrt()
        gauges = torch.cat([exact[:, None], rms[:, None], sampled], dim=1)
        gauges[:, _ADAM_RATIO] *= coefficient  # Adam saw the clipped gradient
        left_out = torch.as_tensor(skipped).to(device, non_blocking=True) != 0
        gauges[:, _UNCHANGED] += torch.where(left_out, torch.nan, 0.0)
        return gauges

    def estimate_noise(self, square: float, cross: float) -> float | None:
        """Return the gradient noise scale, in units of the step's batch; None if not known yet.

        E|g|^2 = |G|^2 + tr(cov) and, for two steps, E[g.g'] = |G|^2.

        Args:
            square: |g|^2 of a record; one that is not finite is passed over.
            cross: g.g' of it and the record before, likewise.

        Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.
        """
        if not (np.isfinite(square) and np.isfinite(cross)):
            return None
        keep, add = NOISE_DECAY, 1 - NOISE_DECAY
        old_square, old_cross = self._noise
        self._noise = (keep * old_square + add * square, keep * old_cross + add * cross)
        mean_square, mean_cross = self._noise
        return max(0.0, mean_square - mean_cross) / mean_cross if mean_cross > 0 else None

    def is_unusual(self, norm: float) -> bool:
        """Tell whether a gradient norm calls for a burst, and remember it."""
        usual = self._recent_norms
        full = len(usual) == NORM_WINDOW
        unusual = full and norm > UNUSUAL_NORM * statistics.median(usual)
        finite = bool(np.isfinite(norm))
        if finite:
            usual.append(norm)
        return unusual or not finite

    def state_dict(self) -> dict[str, Any]:
        """Return what later measurements depend on."""
        return {
            "steps": self.steps,
            "recent_norms": list(self._recent_norms),
            "noise": list(self._noise),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up what `state_dict` returned."""
        self.steps = state["steps"]
        self._recent_norms = deque(state["recent_norms"], maxlen=NORM_WINDOW)
        self._noise = (state["noise"][0], state["noise"][1])


def _bias_corrections(
    optimizer: torch.optim.Optimizer,
    params: Sequence[nn.Parameter],
    states: Sequence[Mapping[str, Any]],
    device: torch.device,
) -> Tensor:
    """Return 1 - beta2^step of each parameter, `(num_params,)`; NaN without second moments."""
    betas = {
        id(p): float(group["betas"][1])
        for group in optimizer.param_groups
        if "betas" in group
        for p in group["params"]
    }
    known = [
        bool(s) and "step" in s and id(p) in betas for p, s in zip(params, states, strict=True)
    ]
    if not any(known):
        return torch.full((len(params),), torch.nan, device=device)
    none = torch.tensor(torch.nan)
    steps = [
        torch.as_tensor(s["step"], dtype=torch.float32) if k else none
        for s, k in zip(states, known, strict=True)
    ]
    where = steps[known.index(True)].device
    count = torch.stack([s.to(where) for s in steps]).to(device)
    beta = torch.tensor([betas.get(id(p), torch.nan) for p in params]).to(device)
    return -torch.expm1(count * beta.log())
