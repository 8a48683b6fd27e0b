"""Gradients of batches as vectors in float64, and one as a weighted sum of others."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.audit._micro_batches import to_dtype
from trimtab.diagnosis._batches import Pair, call_model


def gradient_of(
    model: nn.Module, loss_fn: Callable[..., Tensor], pair: Pair, dtype: torch.dtype | None = None
) -> Tensor:
    """Return the gradient of the loss on a batch, `(num_parameters,)`, in float64.

    Args:
        model: In the mode that it is to be measured in; left as it is.
        loss_fn: Mean loss over the batch.
        pair: Inputs and targets.
        dtype: To compute in; None for the model's own.
    """
    model = copy.deepcopy(model)
    if isinstance(loss_fn, nn.Module):
        loss_fn = copy.deepcopy(loss_fn)
    if dtype is not None:
        model.to(dtype)
        if isinstance(loss_fn, nn.Module):
            loss_fn.to(dtype)
        pair = (to_dtype(pair[0], dtype), to_dtype(pair[1], dtype))
    model.zero_grad(set_to_none=True)
    with torch.enable_grad():
        loss_fn(call_model(model, pair[0]), pair[1]).backward()
    return flat([p.grad for p in model.parameters()], list(model.parameters()))


def flat(grads: Sequence[Tensor | None], params: Sequence[Tensor]) -> Tensor:
    """Return gradients as one vector in float64; zeros where there is none."""
    each = [
        (torch.zeros_like(p) if g is None else g).detach().to(torch.float64).reshape(-1).cpu()
        for g, p in zip(grads, params, strict=True)
    ]
    return torch.cat(each)


@dataclass(frozen=True, kw_only=True)
class WeightedSum:
    """A vector as a weighted sum of others, as near as it can be."""

    weights: Tensor
    """One for each of the others."""
    error: float
    """Length of what is left, as a share of the vector's own."""


def as_weighted_sum(vector: Tensor, parts: Sequence[Tensor]) -> WeightedSum:
    """Return which weights make a vector of its parts, by least squares in float64."""
    lengths = torch.stack([p.norm() for p in parts]).clamp(min=torch.finfo(torch.float64).tiny)
    columns = torch.stack(list(parts), dim=1) / lengths
    solution = torch.linalg.lstsq(columns, vector[:, None], driver="gelsd").solution[:, 0]
    length = float(vector.norm())
    left = float((columns @ solution - vector).norm())
    return WeightedSum(weights=solution / lengths, error=left / length if length else 0.0)


def condition(parts: Sequence[Tensor]) -> float:
    """Return how many times larger than its cause an error in the weights may be; 1 at best."""
    columns = torch.stack([p / p.norm() for p in parts], dim=1)
    values = torch.linalg.svdvals(columns)
    return float(values[0] / values[-1]) if float(values[-1]) > 0 else float("inf")


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return the length of the difference as a share of the reference's."""
    length = float(reference.norm())
    return float((value - reference).norm()) / length if length else 0.0


def without_dropout(model: nn.Module) -> nn.Module:
    """Return a copy in its own mode whose dropout modules drop nothing."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):  # attention, recurrent layers
            setattr(module, "dropout", 0.0)  # noqa: B010 # a type checker knows no such attribute
    return model


def own_gradients(optimizer: Any, params: Sequence[Tensor]) -> Tensor:
    """Return what an optimizer is about to use, with a fused optimizer's scale taken off."""
    vector = flat([p.grad for p in params], params)
    scale = getattr(optimizer, "grad_scale", None)
    return vector if scale is None else vector / float(scale)
