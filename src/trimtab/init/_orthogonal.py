"""Orthogonal initialisation: layers that turn the signal without stretching it."""

from typing import TypeVar

import torch
from torch import nn

from trimtab.init._checks import check_positive
from trimtab.init._draw import draw_
from trimtab.init._weights import Weight, find_weights

M = TypeVar("M", bound=nn.Module)


def orthogonal_(module: M, *, gain: float = 1.0, generator: torch.Generator | None = None) -> M:
    """Make each weight an orthogonal matrix times `gain`; biases become zero.

    A kernel counts as the matrix (out, in * taps), each group of a grouped convolution as
    a matrix of its own, and so does each gate of a recurrent layer and each projection of
    `nn.MultiheadAttention`. Where a matrix is not square, the shorter side's vectors are
    orthonormal. It acts on the layers that `xavier_` acts on.

    Args:
        module: Changed in place; layers at any depth, itself included.
        gain: Factor on every singular value, finite and positive. In PPO sqrt(2) for hidden
            layers, 0.01 for the policy's last layer and 1 for the value's.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: `gain` is out of range, a layer has no shape yet, or there is no layer;
            before anything is changed.

    Source: Saxe et al. 2013, arXiv:1312.6120; PPO's gains: Andrychowicz et al. 2020,
        arXiv:2006.05990.
    """
    check_positive("gain", gain)
    weights = find_weights(module)
    draw_(weights, lambda x, w: fill_orthogonal_(x, w, gain, generator), generator)
    return module


def fill_orthogonal_(
    values: torch.Tensor, weight: Weight, gain: float, generator: torch.Generator | None
) -> None:
    """Fill with one orthogonal matrix for each group.

    Args:
        values: Filled in place.
        weight: What it belongs to.
        gain: Factor on the singular values.
        generator: Source of randomness. None: PyTorch's own.
    """
    for block in values.chunk(weight.groups):
        nn.init.orthogonal_(block, gain=gain, generator=generator)
