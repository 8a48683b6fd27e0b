"""Activations by name, and the gain that a layer needs beside each."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn
from torch.nn import functional

Function = Callable[[torch.Tensor], torch.Tensor]

RECTIFIERS = frozenset({"leakyrelu", "prelu", "relu", "relu6", "rrelu"})
SQUASHERS = frozenset(
    {"glu", "hardsigmoid", "hardtanh", "logsigmoid", "sigmoid", "softsign", "tanh"}
)
SMOOTH: dict[str, Function] = {
    "celu": functional.celu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "hardswish": functional.hardswish,
    "mish": functional.mish,
    "selu": functional.selu,
    "silu": functional.silu,
    "softplus": functional.softplus,
}
_ALIASES = {
    "newgelu": "gelu",
    "newgeluactivation": "gelu",
    "preluk": "prelu",
    "prelukernel": "prelu",
    "quickgelu": "gelu",
    "quickgeluactivation": "gelu",
    "rreluwithnoise": "rrelu",
    "swish": "silu",
    "threshold": "relu",
}
_SLOPES = {"leakyrelu": 0.01, "prelu": 0.25, "rrelu": 11 / 48}  # PyTorch's defaults


@dataclass(frozen=True)
class Activation:
    """An activation function that a layer's output passes."""

    name: str
    """Lower case, without underscores: `"relu"`, `"leakyrelu"`, `"gelu"`."""
    slope: float = 0.0
    """Of a rectifier, below zero."""

    @property
    def gain(self) -> float:
        """The gain of one layer in a stack with this activation.

        For rectifiers sqrt(2 / (1 + slope^2)), for smooth ones what `measure_gain` finds.
        1 for tanh and its like: 5/3 would hold the size of the signal, but makes gradients
        grow exponentially with depth, whereas with 1 both shrink slowly, as a power of it.
        """
        if self.name in RECTIFIERS:
            return math.sqrt(2 / (1 + self.slope**2))
        return _smooth_gain(self.name) if self.name in SMOOTH else 1.0


def measure_gain(activation: Function) -> float:
    """Find the gain of a layer whose input is `activation(z)` with z standard normal.

    Weights of variance gain^2 / fan_in then output variance 1. This is He's argument for
    any activation: sqrt(2) for ReLU.

    Args:
        activation: Element by element; called with float64 on the CPU.

    Returns:
        1 / sqrt(E[activation(z)^2]), by integration over [-10, 10].

    Examples:
        >>> round(measure_gain(torch.relu), 3), round(measure_gain(functional.silu), 3)
        (1.414, 1.677)

    Source: He et al. 2015, arXiv:1502.01852, equation 7.
    """
    z = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
    density = torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        return float(torch.trapezoid(activation(z) ** 2 * density, z) ** -0.5)


def plain_name(name: str) -> str:
    """Reduce a class, function, method or autograd name to one spelling.

    Examples:
        >>> plain_name("leaky_relu_"), plain_name("LeakyReLU"), plain_name("LeakyReluBackward0")
        ('leakyrelu', 'leakyrelu', 'leakyrelu')
    """
    name = re.sub(r"backward\d*$", "", name.lower().replace("_", ""))
    return _ALIASES.get(name, name)


def activation_named(name: str, slope: float | None = None) -> Activation | None:
    """Return the activation of that plain name, if it is one."""
    if name in RECTIFIERS:
        return Activation(name, _SLOPES.get(name, 0.0) if slope is None else slope)
    return Activation(name) if name in SQUASHERS or name in SMOOTH else None


def activation_of(module: object) -> Activation | None:
    """Return the activation that a module or function is, if it is one."""
    is_module = isinstance(module, nn.Module)
    name = type(module).__name__ if is_module else getattr(module, "__name__", "")
    slope = getattr(module, "negative_slope", None)
    if isinstance(module, nn.RReLU):
        slope = (module.lower + module.upper) / 2
    return activation_named(plain_name(name), slope)


@cache
def _smooth_gain(name: str) -> float:
    return measure_gain(SMOOTH[name])
