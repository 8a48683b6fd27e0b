"""What a step needs from the other ranks: when gradients are exchanged, and the sums over all."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


def num_ranks(model: nn.Module) -> int:
    """Return how many processes train this model together: 1 unless it is wrapped for it."""
    if not (dist.is_available() and dist.is_initialized()):
        return 1
    wrapped = isinstance(model, DistributedDataParallel) or _is_sharded(model)
    return dist.get_world_size() if wrapped else 1


def _is_sharded(model: nn.Module) -> bool:
    return hasattr(model, "set_requires_gradient_sync")  # what fully_shard() adds to a module


def exchange(model: nn.Module, *, last: bool) -> AbstractContextManager[Any]:
    """Return the context of one micro-batch: DDP exchanges gradients in the window's last one only.

    Sharded models exchange in every micro-batch, since their gradients live scattered.
    """
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def average_gradients_(params: list[nn.Parameter]) -> None:
    """Average gradients that were kept local because the window was expected to be longer."""
    for p in params:
        if p.grad is not None:
            dist.all_reduce(p.grad)
            p.grad.div_(dist.get_world_size())


def sum_over_ranks(values: list[float | Tensor], device: torch.device) -> Tensor:
    """Return the sums over all ranks, `(len(values),)`, in one exchange.

    A NaN of one rank becomes everybody's, so all ranks decide alike.
    """
    sums = torch.stack([torch.as_tensor(v, device=device, dtype=torch.float32) for v in values])
    dist.all_reduce(sums)
    return sums


def largest_over_ranks(value: float | Tensor, device: torch.device) -> float:
    """Return the largest value of any rank."""
    largest = torch.as_tensor(value, device=device, dtype=torch.float32).clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return float(largest)


def worst(norm: Tensor) -> Tensor:
    """Return the largest norm of any rank, 0-d, infinite if one is not finite.

    Where gradients are exchanged all ranks have the same, unless one of them is at fault; then this
    lets all of them see it, and decide alike.
    """
    seen = torch.where(norm.isfinite(), norm, torch.inf).float()
    dist.all_reduce(seen, op=dist.ReduceOp.MAX)
    return seen


def mean_loss(loss: Tensor | None, device: torch.device) -> Tensor:
    """Return the mean loss of the ranks that know theirs, 0-d; NaN if none does."""
    known = torch.zeros(2, device=device)
    if loss is not None:
        known = torch.stack([loss.to(device).float(), torch.ones((), device=device)])
    dist.all_reduce(known)
    return torch.where(known[1] > 0, known[0] / known[1], torch.nan)


def any_rank(flag: Tensor) -> Tensor:
    """Return whether a flag is set on any rank, 0-d, on its device."""
    number = flag.float()
    dist.all_reduce(number, op=dist.ReduceOp.MAX)
    return number != 0


def largest(value: float, device: torch.device, ranks: int) -> float:
    """Return the largest value of any rank, of which there may be one."""
    return value if ranks == 1 else largest_over_ranks(value, device)
