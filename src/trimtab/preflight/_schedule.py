"""Looking ahead along a learning-rate schedule, on a copy."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

MAX_STEPS = 1000
"""Steps that are looked ahead: a copy of a schedule takes some 20 microseconds each."""


def look_ahead(scheduler: Any, optimizer: torch.optim.Optimizer, num: int) -> list[list[float]]:
    """Return the learning rates of the next steps, `num` lists with one rate a param group.

    Args:
        scheduler: None, or one that needs a metric, keeps the rates as they are.
        optimizer: That the scheduler moves; left alone.
        num: Steps, at least 1.

    Raises:
        RuntimeError: The schedule cannot be moved by `step()`.
    """
    now = [float(group["lr"]) for group in optimizer.param_groups]
    if not isinstance(scheduler, LRScheduler) or isinstance(scheduler, ReduceLROnPlateau):
        return [now] * num
    rates = [now]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no step of an optimizer lies between
        puppet = _puppet(optimizer)
        moved = copy.deepcopy(scheduler, {id(optimizer): puppet})
        for _ in range(min(num, MAX_STEPS) - 1):
            moved.step()
            rates.append([float(group["lr"]) for group in puppet.param_groups])
    return rates + [rates[-1]] * (num - len(rates))


def _puppet(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """Return an optimizer with the same settings and no parameters to speak of."""
    puppet = torch.optim.SGD([torch.zeros(1)], lr=0.1)
    puppet.param_groups = [
        {k: _plain(v) for k, v in group.items() if k != "params"} | {"params": []}
        for group in optimizer.param_groups
    ]
    puppet.defaults = dict(optimizer.defaults)
    return puppet


def _plain(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else copy.copy(value)


def has_warmup(scheduler: Any, optimizers: Sequence[torch.optim.Optimizer]) -> bool:
    """Return whether learning rates rise at the beginning."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            if 0 <= float(group["lr"]) < float(group.get("initial_lr", group["lr"])):
                return True
    if scheduler is None or not optimizers:
        return False
    rates = look_ahead(scheduler, optimizers[0], 200)
    return any(max(step) > 1.01 * max(rates[0]) for step in rates)
