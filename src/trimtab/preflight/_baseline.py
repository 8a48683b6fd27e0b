"""What a loss is worth: the value that the best constant guess has, and that of no guess at all."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from trimtab.preflight._loss_calls import BINARY, REGRESSION, LossCall


def baseline(calls: Sequence[LossCall], loss: float) -> float | None:
    """Return the loss of the best constant guess, on the scale of `loss`; None if not known.

    Args:
        calls: What the loss was computed by.
        loss: Its value, perhaps summed or weighted where the functions' own is a mean.
    """
    if len(calls) != 1:
        return None
    mean, guess = mean_loss(calls[0]), _guess(calls[0])
    if mean is None or guess is None or not mean > 0 or not math.isfinite(loss):
        return None
    return guess * loss / mean


@torch.no_grad()
def mean_loss(call: LossCall) -> float | None:
    """Return the mean of a loss over all that count, without weights; None if it has none."""
    made, wanted = call.input.detach().float(), call.target.detach()
    try:
        if call.name == "cross_entropy":
            ignored = call.ignore_index if call.has_indices else -100
            return float(functional.cross_entropy(made, wanted, ignore_index=ignored))
        if call.name == "nll_loss":
            return float(functional.nll_loss(made, wanted, ignore_index=call.ignore_index))
        if call.name in BINARY | REGRESSION and made.shape == wanted.shape:
            return float(getattr(functional, call.name)(made, wanted.float()))
    except (RuntimeError, IndexError):
        return None
    return None


@torch.no_grad()
def _guess(call: LossCall) -> float | None:
    target = call.target.detach()
    if call.has_indices:
        return entropy(call.labels)
    target = target.float()
    if call.name == "cross_entropy":
        shares = target.movedim(1, -1).reshape(-1, call.num_classes).mean(0)
        return float(-torch.xlogy(shares, shares).sum())
    if call.name in BINARY:
        shares = _columns(target).mean(0)
        parts = torch.xlogy(shares, shares) + torch.xlogy(1 - shares, 1 - shares)
        return float(-parts.mean())
    if call.name in REGRESSION:
        columns = _columns(target)
        middle = columns.mean(0) if call.name == "mse_loss" else columns.median(0).values
        return float(getattr(functional, call.name)(middle.expand_as(columns), columns))
    return None


def entropy(labels: Tensor) -> float:
    """Return the entropy of the labels' shares, in nats."""
    counts = torch.unique(labels, return_counts=True)[1].float()
    shares = counts / counts.sum().clamp(min=1)
    return float(-torch.xlogy(shares, shares).sum())


def _columns(target: Tensor) -> Tensor:
    return target.reshape(target.shape[0], -1) if target.ndim else target.reshape(1, 1)
