"""Remedies for layers that let nothing through: norms over one value, softmax between layers."""

import math
from collections.abc import Sequence
from typing import Any, Final

from torch import nn

from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._flow import flow_of, followers
from trimtab.repair._remedy import Order

_SOFT: Final = (nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)

_NORMS: Final = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)


def norms_over_one(model: nn.Module, sample: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return the names of norms whose every mean is that of a single value.

    Args:
        model: Run once on a sample; it is left as it was.
        sample: Batches.
    """
    norms = {n: m for n, m in model.named_modules() if isinstance(m, _NORMS)}
    if not norms:
        return []
    shapes = flow_of(model, sample).shapes
    return [n for n, m in norms.items() if n in shapes and _share(m, shapes[n]) == 1]


def _share(norm: nn.Module, shape: Sequence[int]) -> int:
    """Return how many values a norm takes its mean over."""
    if isinstance(norm, nn.LayerNorm | nn.RMSNorm):
        return math.prod(norm.normalized_shape)
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels // norm.num_groups * math.prod(shape[2:])
    return math.prod(shape[2:])


def remove_norms(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Take out norms over one value, whose output is the same whatever the input."""
    names = norms_over_one(setup.model, order.sample)
    if not names:
        return []
    kinds = sorted({type(setup.model.get_submodule(n)).__name__ for n in names})
    for name in names:
        _put(setup.model, name, nn.Identity())
    where = ", ".join(names)
    return [
        Edit(
            what=f"norms over a single value ({', '.join(kinds)})",
            where=where,
            before="always its bias",
            after="left out",
            advice=f"leave out {where}, or let it normalise over all features of an example: the "
            "mean of one value is that value, so nothing is left of it",
        )
    ]


def softmax_between(model: nn.Module, sample: Sequence[tuple[Any, Any]]) -> list[str]:
    """Return the names of softmax layers whose every output goes right into a layer of weights.

    Those of an attention, of a choice between experts, or at a model's end do not.

    Args:
        model: Run once on a sample; it is left as it was.
        sample: Batches.
    """
    named = dict(model.named_modules())
    if not any(isinstance(m, _SOFT) for m in named.values()):
        return []
    flow = flow_of(model, sample)
    pairs = set(followers(flow, named))
    taken = [a for a, b in flow.pairs if (a, b) in pairs and isinstance(named[a], _SOFT)]
    return [n for n in dict.fromkeys(taken) if taken.count(n) >= flow.calls[n]]


def replace_softmax(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Put a GELU in the place of each softmax between two layers of weights."""
    names = softmax_between(setup.model, order.sample)
    if not names:
        return []
    kinds = ", ".join(sorted({type(setup.model.get_submodule(n)).__name__ for n in names}))
    for name in names:
        _put(setup.model, name, nn.GELU())
    where = ", ".join(names)
    return [
        Edit(
            what="activation between layers",
            where=where,
            before=kinds,
            after="GELU",
            advice=f"use nn.GELU() or nn.ReLU() in place of {where}: a softmax lets only one unit "
            "in all be large, and nearly nothing passes through several of them",
        )
    ]


def _put(model: nn.Module, name: str, new: nn.Module) -> None:
    """Put a module in the place of one that is named, wherever else it is used."""
    old = model.get_submodule(name)
    new.train(old.training)
    for parent in list(model.modules()):
        for key, child in list(parent.named_children()):
            if child is old:
                setattr(parent, key, new)
