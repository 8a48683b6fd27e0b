"""Short names for what most programs of the corpus have in common."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from faults.data import Alter, Task, characters, digits, vocabulary
from faults.models import LanguageModel, token_loss
from faults.registry import Setup

cross_entropy: Callable[..., torch.Tensor] = functional.cross_entropy
Optimizer = torch.optim.Optimizer


def sgd(model: nn.Module, lr: float, momentum: float = 0.9, **options: Any) -> Optimizer:
    """Return SGD over all parameters."""
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, **options)


def adam(model: nn.Module, lr: float = 1e-3, **options: Any) -> Optimizer:
    """Return Adam over all parameters."""
    return torch.optim.Adam(model.parameters(), lr=lr, **options)


def adamw(model: nn.Module, lr: float = 1e-3, **options: Any) -> Optimizer:
    """Return AdamW over all parameters."""
    return torch.optim.AdamW(model.parameters(), lr=lr, **options)


def program(
    task: Task,
    g: torch.Generator,
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[..., torch.Tensor] = cross_entropy,
    *,
    size: int = 32,
    shuffle: bool = True,
    alter: Alter | None = None,
    **options: Any,
) -> Setup:
    """Put a program together; options are those of `Setup`."""
    return Setup(
        model=model,
        optimizer=optimizer,
        loss_fn=loss_fn,
        batches=task.batches(size, g, shuffle=shuffle, alter=alter),
        score=options.pop("score", task.score),
        **options,
    )


def on_digits(
    g: torch.Generator,
    model: nn.Module,
    optimizer: Optimizer,
    loss_fn: Callable[..., torch.Tensor] = cross_entropy,
    *,
    image: bool = False,
    **options: Any,
) -> Setup:
    """Return a program that classifies digits."""
    return program(digits(image=image), g, model, optimizer, loss_fn, **options)


def language(
    g: torch.Generator,
    optimizer: Callable[[nn.Module], Optimizer] = adamw,
    *,
    size: int = 12,
    length: int = 24,
    model: nn.Module | None = None,
    loss_fn: Callable[..., torch.Tensor] = token_loss,
    task: Task | None = None,
    alter: Alter | None = None,
    scheduler: Callable[[Optimizer], Any] | None = None,
    train_step: Any = None,
    **options: Any,
) -> Setup:
    """Return a program that learns characters of a text; options are those of the model."""
    model = model or LanguageModel(vocabulary(), **options)
    built = optimizer(model)
    return program(
        task or characters(g, length=length),
        g,
        model,
        built,
        loss_fn,
        size=size,
        alter=alter,
        scheduler=scheduler(built) if scheduler else None,
        train_step=train_step,
    )


def warmup_cosine(steps: int = 200, warmup: int = 20) -> Callable[[Optimizer], Any]:
    """Return what builds a linear warm-up and a cosine to zero, from PyTorch's own parts."""

    def build(optimizer: Optimizer) -> Any:
        up = torch.optim.lr_scheduler.LinearLR(optimizer, 0.05, total_iters=warmup)
        down = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps - warmup)
        return torch.optim.lr_scheduler.SequentialLR(optimizer, [up, down], [warmup])

    return build


def clipped(max_norm: float = 1.0, scheduler: Any = None) -> Any:
    """Return the usual loop body with clipping by norm."""

    def step(model: nn.Module, optimizer: Optimizer, loss_fn: Any, x: Any, y: Any) -> torch.Tensor:
        optimizer.zero_grad()
        loss = loss_fn(model(x), y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        return loss

    return step
