"""When a trained model is good: by the user's metric, else by what it learned."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from trimtab.checkpoint import seeded
from trimtab.diagnosis import Outcome
from trimtab.diagnosis._outcome import LEARNED
from trimtab.errors import ConfigError

Metric = Callable[[nn.Module], float]
"""How good a trained model is; called in evaluation mode, without gradients."""

FORWARD = 0.4
"""Share of the way to the target after which a trial, a fifth of a run, need not be compared with
others."""

FAR = 0.7
"""The same after a whole run that was in vain."""

HOPE = 0.1
"""Share of the way to the target below which a trial is no better than the run itself."""

LEARNED_MUCH = 0.5
"""The same without a target: share of the loss that was learned."""


@dataclass(frozen=True)
class Goal:
    """What a run has to reach.

    Raises:
        ConfigError: There is a target without a metric.
    """

    metric: Metric | None = None
    target: float | None = None
    higher_is_better: bool = True
    seed: int = 0
    """Of a metric that draws random numbers."""

    def __post_init__(self) -> None:
        if self.target is not None and self.metric is None:
            raise ConfigError(
                f"target={self.target} has to be reached by a metric, but there is none. Pass "
                "metric=, a function that takes the trained model and returns a number."
            )

    def measure(self, model: nn.Module) -> float:
        """Return the metric of a model as it is; NaN without a metric."""
        if self.metric is None:
            return math.nan
        modes = [(m, m.training) for m in model.modules()]
        model.eval()
        try:
            with seeded(self.seed), torch.no_grad():
                return float(self.metric(model))
        finally:
            for module, training in modes:
                module.training = training

    def value(self, metric: float, outcome: Outcome) -> float:
        """Return how good a run is, as a number that can be compared: the higher, the better."""
        if outcome.broken:
            return -math.inf
        if self.metric is None:
            value = outcome.learned
        else:
            value = metric if self.higher_is_better else -metric
        return value if math.isfinite(value) else -math.inf

    def reached(self, metric: float) -> bool | None:
        """Tell whether a metric reaches the target; None without a target."""
        if self.target is None:
            return None
        if not math.isfinite(metric):
            return False
        return metric >= self.target if self.higher_is_better else metric <= self.target

    def gap(self, value: float) -> float:
        """Return how much is missing to the target; not positive if it is reached.

        Args:
            value: As `value` returns it.
        """
        if self.target is None:
            return math.nan
        return (self.target if self.higher_is_better else -self.target) - value

    def is_convincing(self, value: float, base: float, *, again: bool = False) -> bool:
        """Tell whether a short trial is so good that no other need be tried.

        Args:
            value: Of the trial.
            base: Of the run without the change.
            again: Whether a whole run was in vain before.
        """
        return self._is_ahead(value, base, FAR if again else FORWARD, LEARNED_MUCH)

    def is_hopeful(self, value: float, base: float) -> bool:
        """Tell whether a short trial is worth a whole run.

        Args:
            value: Of the trial.
            base: Of the run without the change.
        """
        if self.target is None and self.metric is not None:
            return value > base
        return self._is_ahead(value, base, HOPE, LEARNED)

    def _is_ahead(self, value: float, base: float, share: float, learned: float) -> bool:
        if not math.isfinite(value):
            return False
        if self.target is None:
            return self.metric is None and value >= learned
        target = self.target if self.higher_is_better else -self.target
        if not math.isfinite(base):
            return value >= target
        return value >= base + share * (target - base)
