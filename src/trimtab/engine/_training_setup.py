"""TrainingSetup: what a training run is made of, as a user's build function returns it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.errors import ConfigError

TrainStep = Callable[[nn.Module, torch.optim.Optimizer, Callable[..., Tensor], Any, Any], Any]
"""A loop body: `train_step(model, optimizer, loss_fn, x, y)` returns the loss."""


@dataclass
class TrainingSetup:
    """A training run that is ready to begin.

    Raises:
        ConfigError: A part is of the wrong kind.
    """

    model: nn.Module
    """Freshly initialised."""
    optimizer: torch.optim.Optimizer
    """Over the model's parameters."""
    loss_fn: Callable[..., Tensor]
    """Called as `loss_fn(model(x), y)`; returns the mean loss, 0-d."""
    batches: Iterable[tuple[Any, Any]]
    """Pairs `(x, y)`: a DataLoader, a list or any iterable, begun anew when it ends. A tuple or
    dict of inputs is spread over the model's arguments."""
    scheduler: Any = None
    """Moved after each step, unless `train_step` does it."""
    train_step: TrainStep | None = None
    """The user's own loop body; None takes the usual five lines."""

    def __post_init__(self) -> None:
        for name, kind in (("model", nn.Module), ("optimizer", torch.optim.Optimizer)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                raise ConfigError(
                    f"{name} of a TrainingSetup must be a torch {kind.__name__}, got "
                    f"{type(value).__name__}."
                )
        if not callable(self.loss_fn):
            raise ConfigError(
                f"loss_fn of a TrainingSetup must be callable, got {type(self.loss_fn).__name__}."
            )
        if not isinstance(self.batches, Iterable):
            raise ConfigError(
                "batches of a TrainingSetup must be an iterable of (x, y) pairs, got "
                f"{type(self.batches).__name__}."
            )
