"""Optimizer and schedule as the settings ask for them."""

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from trimtab.optim import param_groups, schedule
from trimtab.train._config import OptimizerConfig


def build_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """Return fused AdamW over the model's parameters, with decay on weight matrices only."""
    return torch.optim.AdamW(
        param_groups(model, config.weight_decay),
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        fused=True,
    )


def build_schedule(
    optimizer: torch.optim.Optimizer, config: OptimizerConfig, total_steps: int
) -> LRScheduler:
    """Return the configured schedule over `total_steps` steps.

    Raises:
        ConfigError: The warm-up is longer than the run.
    """
    warmup = config.warmup_steps(total_steps)
    if config.schedule == "constant":
        return schedule("warmup_constant", optimizer, warmup_steps=warmup)
    name = {"cosine": "warmup_cosine", "linear": "warmup_linear", "wsd": "wsd"}[config.schedule]
    return schedule(
        name,
        optimizer,
        warmup_steps=warmup,
        total_steps=total_steps,
        min_ratio=config.min_lr_ratio,
    )
