"""Activation functions by name, and the weight gain that each one needs before it."""

from collections.abc import Callable

from torch import nn

from trimtab.init import measure_gain
from trimtab.nn._checks import check_choice

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def activation(kind: str) -> nn.Module:
    """Build PyTorch's activation module of that name, with its default settings.

    Args:
        kind: `"elu"`, `"gelu"`, `"leaky_relu"`, `"relu"`, `"silu"` or `"tanh"`.

    Returns:
        A fresh module without parameters.

    Raises:
        ConfigError: `kind` is none of these.
    """
    check_choice("activation", kind, ACTIVATIONS)
    return ACTIVATIONS[kind]()


def gain_after(kind: str) -> float:
    """Find the gain of a layer whose input is `activation(z)` with z standard normal.

    Weights of variance gain^2 / fan_in then output variance 1. This is He's argument for
    any activation: sqrt(2) for ReLU.

    Args:
        kind: A name that `activation` takes.

    Returns:
        1 / sqrt(E[activation(z)^2]), by integration over [-10, 10].

    Raises:
        ConfigError: `kind` is unknown.

    Examples:
        >>> round(gain_after("relu"), 3), round(gain_after("gelu"), 3)
        (1.414, 1.534)

    Source: He et al. 2015, arXiv:1502.01852, equation 7.
    """
    return measure_gain(activation(kind))
