"""Gradients that leave `.grad` alone."""

from collections.abc import Sequence

import torch
from torch import Tensor

from trimtab.preflight._graph import walk


def gradients(loss: Tensor, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Return the gradient of each parameter, None where none comes; `.grad` stays as it is.

    Args:
        loss: With its graph, which is freed.
        params: Leaves.
    """
    if not loss.requires_grad or not params:
        return [None] * len(params)
    if not _is_checkpointed(loss):
        return list(torch.autograd.grad(loss, params, allow_unused=True))
    kept = [p.grad for p in params]
    try:
        for p in params:
            p.grad = None
        loss.backward()  # type: ignore[no-untyped-call] # untyped in torch
        return [p.grad for p in params]
    finally:
        for p, grad in zip(params, kept, strict=True):
            p.grad = grad


def _is_checkpointed(loss: Tensor) -> bool:
    """Tell whether reentrant checkpointing hides a part of the graph; it needs backward()."""
    return any("CheckpointFunction" in str(node.name()) for node in walk(loss.grad_fn))
