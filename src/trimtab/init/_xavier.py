"""Xavier (Glorot) initialisation: a compromise between signal forward and gradient backward."""

import math
from typing import TypeVar

import torch
from torch import nn

from trimtab.init._checks import check_choice, check_positive
from trimtab.init._draw import draw_
from trimtab.init._weights import Weight, find_weights

M = TypeVar("M", bound=nn.Module)
DISTRIBUTIONS = ("normal", "uniform")


def xavier_(
    module: M,
    *,
    gain: float = 1.0,
    distribution: str = "uniform",
    generator: torch.Generator | None = None,
) -> M:
    """Draw weights of variance 2 gain^2 / (fan_in + fan_out); biases become zero.

    For tanh, sigmoid and linear layers. It acts on linear and convolution layers, on the
    projections of `nn.MultiheadAttention` and the gates of recurrent layers, each by its
    own fans; on nothing else. A frozen or parametrised weight and its bias stay as they
    are, a tied weight is drawn once, and on the meta device nothing happens.

    Args:
        module: Changed in place; layers at any depth, itself included.
        gain: Factor on the standard deviation, finite and positive.
        distribution: `"uniform"` or `"normal"`.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: An argument is out of range, a layer has no shape yet, or there is no
            layer; before anything is changed.

    Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep
        feedforward neural networks", equation 16.
    """
    check_positive("gain", gain)
    check_choice("distribution", distribution, DISTRIBUTIONS)
    weights = find_weights(module)

    def fill(values: torch.Tensor, weight: Weight) -> None:
        fill_scaled_(values, gain * xavier_std(weight), distribution, generator)

    draw_(weights, fill, generator)
    return module


def xavier_std(weight: Weight) -> float:
    """Return Xavier's standard deviation for gain 1."""
    return math.sqrt(2 / max(1, weight.fan_in + weight.fan_out))


def fill_scaled_(
    values: torch.Tensor, std: float, distribution: str, generator: torch.Generator | None
) -> None:
    """Fill from a normal or uniform distribution with mean zero.

    Args:
        values: Filled in place.
        std: Standard deviation of either.
        distribution: `"uniform"` or `"normal"`.
        generator: Source of randomness. None: PyTorch's own.
    """
    if distribution == "normal":
        nn.init.normal_(values, std=std, generator=generator)
    else:
        bound = math.sqrt(3) * std
        nn.init.uniform_(values, -bound, bound, generator=generator)
