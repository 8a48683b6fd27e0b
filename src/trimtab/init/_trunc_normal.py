"""Truncated normal initialisation: the vision Transformers' choice."""

from typing import TypeVar

import torch
from torch import nn

from trimtab.init._checks import check_positive
from trimtab.init._draw import draw_
from trimtab.init._weights import LAYERS, find_weights

M = TypeVar("M", bound=nn.Module)
_CUT = 2  # standard deviations


def trunc_normal_(module: M, *, std: float = 0.02, generator: torch.Generator | None = None) -> M:
    """Draw weights from N(0, std^2) cut off at two standard deviations; biases become zero.

    It acts on the layers that `xavier_` acts on and on embeddings, whose padding row stays
    zero. Class tokens and positions that are bare parameters are not layers: pass those to
    `torch.nn.init.trunc_normal_`. The cut takes the tails, so the weights' own standard
    deviation is 0.88 of `std`.

    Args:
        module: Changed in place; layers at any depth, itself included.
        std: Standard deviation before the cut, finite and positive.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: `std` is out of range, a layer has no shape yet, or there is no layer;
            before anything is changed.

    Source: Touvron et al. 2020, arXiv:2012.12877, section 6 (DeiT), after Hanin & Rolnick
        2018, arXiv:1803.01719.
    """
    check_positive("std", std)
    weights = find_weights(module, LAYERS | {"embedding"})

    def fill(values: torch.Tensor, _: object) -> None:
        nn.init.trunc_normal_(values, std=std, a=-_CUT * std, b=_CUT * std, generator=generator)

    draw_(weights, fill, generator)
    return module
