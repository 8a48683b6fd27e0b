"""He (Kaiming) initialisation: for ReLU and its relatives."""

import math
from typing import TypeVar

import torch
from torch import nn

from trimtab.errors import ConfigError
from trimtab.init._checks import check_choice
from trimtab.init._draw import draw_
from trimtab.init._weights import Weight, find_weights
from trimtab.init._xavier import DISTRIBUTIONS, fill_scaled_

M = TypeVar("M", bound=nn.Module)


def he_(
    module: M,
    *,
    mode: str = "fan_in",
    negative_slope: float = 0.0,
    distribution: str = "normal",
    generator: torch.Generator | None = None,
) -> M:
    """Draw weights of variance 2 / ((1 + slope^2) fan); biases become zero.

    A ReLU halves the mean square of what passes it, and this makes up for it. It acts on
    the layers that `xavier_` acts on. The output layer is one of them, and comes out too
    large for an output: `auto_` knows the difference.

    Args:
        module: Changed in place; layers at any depth, itself included.
        mode: `"fan_in"` keeps the size of activations, `"fan_out"` that of gradients.
        negative_slope: Slope of a leaky ReLU below zero, finite; 0 for ReLU.
        distribution: `"normal"` or `"uniform"`.
        generator: Source of randomness. None: PyTorch's own.

    Returns:
        The same module.

    Raises:
        ConfigError: An argument is out of range, a layer has no shape yet, or there is no
            layer; before anything is changed.

    Source: He et al. 2015, arXiv:1502.01852, equations 10, 14 and 15.
    """
    check_choice("mode", mode, ("fan_in", "fan_out"))
    check_choice("distribution", distribution, DISTRIBUTIONS)
    if not math.isfinite(negative_slope):
        raise ConfigError(
            f"negative_slope must be finite, got {negative_slope!r}. Pass the slope that the "
            "activation has below zero: 0 for ReLU, 0.01 for nn.LeakyReLU's default."
        )
    gain = math.sqrt(2 / (1 + negative_slope**2))
    weights = find_weights(module)

    def fill(values: torch.Tensor, weight: Weight) -> None:
        fan = weight.fan_in if mode == "fan_in" else weight.fan_out
        fill_scaled_(values, gain / math.sqrt(fan), distribution, generator)

    draw_(weights, fill, generator)
    return module
