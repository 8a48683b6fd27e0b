"""What a recipe hands to the training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from trimtab.train._config import OptimizerConfig, RunConfig

Batch = tuple[Tensor, Tensor]
"""Inputs and targets of one micro-batch."""


Scope = Literal["quick", "full"]
"""How much a validation looks at: a part while training, all of it at the end."""


class RecipeConfig(Protocol):
    """Settings of a recipe: the shared ones, and whatever else it needs."""

    @property
    def run(self) -> RunConfig:
        """Length, place and device of the run."""

    @property
    def optimizer(self) -> OptimizerConfig:
        """AdamW, schedule, clipping and batch size."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """A model, its data and its loss."""

    model: nn.Module
    """In float32, on the CPU."""
    batch: Callable[[int], Batch]
    """The micro-batch of an index, on the CPU. The same index gives the same batch: a run resumes,
    skips or replays data without the loader having a state."""
    loss: Callable[[nn.Module, Batch], Tensor]
    """Mean loss over the micro-batch, 0-d."""
    weight: Callable[[Batch], int]
    """Tokens or samples that the loss is the mean of."""
    evaluate: Callable[[nn.Module, Scope], dict[str, float]]
    """Validation: `val_loss` and what else the task knows. Called in evaluation mode without
    gradients."""
    unit: str
    """What `weight` counts: `"tokens"` or `"samples"`."""
    loss_unit: str
    """Unit of the loss, for people."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named kind of run: its default settings, and how they become a task."""

    name: str
    """As on the command line."""
    default: RecipeConfig
    """A dataclass; its fields become options."""
    build: Callable[[Any, torch.Generator], Task]
    """From settings like `default` and the generator of all initial weights to the task. Reads and
    checks the data; raises ConfigError before anything is written."""
