"""A remedy for layers that follow each other without an activation between them."""

from collections.abc import Sequence
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor, nn

from trimtab.engine import TrainingSetup
from trimtab.repair._edit import Edit
from trimtab.repair._flow import WEIGHTED, flow_of, followers
from trimtab.repair._mixed import look
from trimtab.repair._remedy import Order

EXACT: Final = 1e-3
"""Deviation from a straight line, as a share of how far outputs differ, that is rounding."""


def bare_pairs(model: nn.Module, sample: Sequence[tuple[Any, Any]]) -> list[tuple[str, str]]:
    """Return the names of layers of weights that go right into another such layer.

    Args:
        model: Run once on a sample; it is left as it was.
        sample: Batches.
    """
    named = dict(model.named_modules())
    found = followers(flow_of(model, sample), named)
    plain = [(a, b) for a, b in found if isinstance(named[a], WEIGHTED)]
    return [(a, b) for a, b in plain if _relu not in named[a]._forward_hooks.values()]


def is_affine(model: nn.Module, sample: Sequence[tuple[Any, Any]]) -> bool:
    """Tell whether a whole model is linear, but for a constant, between inputs of two batches.

    Args:
        model: Run on a sample; it is left as it was.
        sample: Two batches of one shape.
    """
    xs = [x for x, _ in islice(sample, 2)]
    plain = all(isinstance(x, Tensor) and x.is_floating_point() for x in xs)
    if len(xs) < 2 or not plain or xs[0].shape != xs[1].shape:
        return False
    a, b = xs
    answers: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        answers.append(output)

    handle = model.register_forward_hook(keep)
    try:
        for x in (a, b, (a + b) / 2):
            look(model, [(x, None)], torch.no_grad, training=False)
    finally:
        handle.remove()
    if len(answers) < 3 or not all(isinstance(t, Tensor) for t in answers):
        return False
    first, second, middle = (t.double() for t in answers)
    apart = float((first - second).abs().max())
    bent = float((middle - (first + second) / 2).abs().max())
    return apart > 0 and bent < EXACT * apart


def insert_activations(setup: TrainingSetup, order: Order) -> list[Edit]:
    """Put a ReLU behind each layer that goes right into another one, by a forward hook."""
    pairs = bare_pairs(setup.model, order.sample)
    firsts = list(dict.fromkeys(a for a, _ in pairs))
    for name in firsts:
        setup.model.get_submodule(name).register_forward_hook(_relu)
    if not firsts:
        return []
    where = ", ".join(firsts)
    return [
        Edit(
            what="activation between layers",
            where=where,
            before="none",
            after="ReLU",
            advice=f"put nn.ReLU() behind {where}: layers that follow each other without an "
            "activation are no more than one of them",
        )
    ]


def _relu(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
    return output.relu()
